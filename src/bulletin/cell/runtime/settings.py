"""What an operator may set of the container room, and where its things lie."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from bulletin.cell.runtime.environment import Addresses
from bulletin.cell.runtime.spec import IdRange

__all__ = ["ContainersSettings"]

#: A cell's name that is a good name of a directory as it is.
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainersSettings:
    """Settings of the container room."""

    #: The directory of the cell's files; ``containers`` in it is this room's, on a disk with room for what tasks write.
    data: Path
    #: The cell's name on its board. Two cells of one machine need two names.
    cell_id: str
    #: auto takes the first that passes a test at the start: crun, then runc.
    engine: Literal["auto", "crun", "runc"] = "auto"
    #: Off lets tasks make every system call their rights allow: for finding out what a program needs, only.
    seccomp: bool = True
    #: Ids of the machine that unprivileged containers use; nobody else should (see /etc/subuid).
    ids: IdRange = field(default_factory=lambda: IdRange(100_000, 65_536))
    #: cell.md 5.2: the shares of a task with a weight of 100.
    cpu_shares_max: int = 1024
    #: What tasks are told of addresses (cell.md section 6, row 5); without a network of their own, the loopback's.
    addresses: Addresses = field(default_factory=lambda: Addresses(_LOOPBACK, _LOOPBACK))
    #: For what lives no longer than the machine is up.
    run: Path = Path("/run/bulletin")

    def __post_init__(self) -> None:
        if not 0 < self.ids.base <= 0xFFFF_FFFF - self.ids.size:
            raise ValueError("ids: the range must lie above 0 and below 2^32 - 1")
        if self.ids.size < 65_536:
            raise ValueError("ids: the range must have 65536 ids at least, since images use nobody (65534)")

    @property
    def name(self) -> str:
        """The cell's id as a name of a directory and of a control group; different for different ids."""
        if _PLAIN_NAME.fullmatch(self.cell_id):
            return self.cell_id
        digest = hashlib.sha256(self.cell_id.encode("utf-8", "surrogatepass")).hexdigest()
        return f"cell.{digest[:32]}"

    @property
    def containers(self) -> Path:
        """What containers wrote, a directory for each."""
        return self.data / "containers"

    @property
    def shifted(self) -> Path:
        """Shifted copies of images, where they are needed."""
        return self.data / "shifted"

    @property
    def private(self) -> str:
        """Where the cell's private file system is mounted: the engine's state and the bundles."""
        return str(self.run / self.name)

    @property
    def cgroup_of_all(self) -> str:
        """Parent of the control groups of all cells of this machine."""
        return "/bulletin"

    @property
    def cgroup(self) -> str:
        """Parent of the control groups of all containers."""
        return f"{self.cgroup_of_all}/{self.name}"
