"""Control groups: which layout the machine has, what a container's groups counted, and removing what is left of them.

The OCI runtime makes the groups of a container and puts it in; this module only looks and sweeps. On cgroup v1 a
container has one directory in each hierarchy, on v2 one in all, on the hybrid layout the v1 ones do the work.

Wart: on v1 the out-of-memory counter is a line of ``memory.oom_control``, which kernels before 4.13 lack; there an
out-of-memory kill shows as a plain status 137.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from bulletin.cell.runtime import spawn
from bulletin.core import limits

__all__ = ["Cgroups", "Kind", "Layout", "oom_kills", "own_group_file", "parse_layout"]

_PAUSE_SECONDS: Final = 0.005
_TRIES: Final = 16
#: rmdir answers EBUSY for a moment after the last process has been reaped.
_BUSY: Final = (errno.EBUSY, errno.ENOTEMPTY)


class Kind(Enum):
    """How control groups are mounted."""

    V1 = "v1"
    V2 = "v2"
    #: v1 hierarchies with the controllers, and a v2 one beside them.
    HYBRID = "hybrid"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Layout:
    """What is mounted where."""

    kind: Kind
    #: Mount points of the hierarchies that hold containers: each v1 one, or the only v2 one.
    hierarchies: tuple[str, ...] = ()
    #: Where the controllers that count memory are; None when they are nowhere.
    memory: str | None = None
    #: Mount point of v2, where there is one.
    unified: str | None = None
    #: Whether it was mounted to let processes be moved without waiting for the whole machine.
    favor_dynmods: bool = False


def parse_layout(mountinfo: str) -> Layout:
    """Read the layout from the text of ``/proc/self/mountinfo``."""
    v1: dict[str, str] = {}
    memory: str | None = None
    unified: str | None = None
    favored = False
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, about = left.split(), right.split()
        if len(fields) < 5 or len(about) < 3 or about[0] not in ("cgroup", "cgroup2"):
            continue
        point, options = _unescape(fields[4]), about[2].split(",")
        favored = favored or "favordynmods" in options
        if about[0] == "cgroup2":
            unified = unified or point
        else:
            v1.setdefault(",".join(sorted(options)), point)
            if "memory" in options and memory is None:
                memory = point
    if v1:
        return Layout(Kind.HYBRID if unified else Kind.V1, tuple(v1.values()), memory, unified, favored)
    if unified:
        return Layout(Kind.V2, (unified,), unified, unified, favored)
    return Layout(Kind.NONE)


def own_group_file(layout: Layout, membership: str) -> str | None:
    """The ``cgroup.procs`` of a group this process is in already.

    Args:
        layout: of the machine.
        membership: the text of ``/proc/self/cgroup``.

    Returns:
        None when there is none to be seen.
    """
    for line in membership.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        mine = not controllers if layout.kind is Kind.V2 else "memory" in controllers.split(",")
        if mine and layout.memory is not None:
            return os.path.join(layout.memory, group.lstrip("/"), "cgroup.procs")
    return None


def _unescape(point: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, character)
    return point


def oom_kills(text: str) -> int:
    """The counter in the text of ``memory.oom_control`` (v1) or ``memory.events`` (v2); 0 when it has none."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.strip().isdigit():
            return int(value)
    return 0


class Cgroups:
    """The groups of this machine, by their path below the mount points."""

    def __init__(self, layout: Layout, membership: str = "") -> None:
        """Look at them.

        Args:
            layout: of the machine.
            membership: the text of ``/proc/self/cgroup``.
        """
        self.layout = layout
        self._v2 = layout.kind is Kind.V2
        self._own_group_file = own_group_file(layout, membership)

    @property
    def limits_swap(self) -> bool:
        """Whether memory and swap together can be bounded."""
        if self._v2:
            return True
        memory = self.layout.memory
        return memory is not None and Path(memory, "memory.memsw.limit_in_bytes").exists()

    def rouse(self) -> None:
        """Have the kernel get ready to move processes. Blocks for milliseconds; for a thread.

        The first move after a pause waits until every processor has passed a quiet point, 8 to 20 ms, and those soon
        after do not. To write one's own pid into the group one is in waits just so and changes nothing. Done when a
        container is begun, the wait goes by while the rest of it is made, instead of in the middle.
        """
        if self._own_group_file is None or self.layout.favor_dynmods:
            return
        try:
            fd = os.open(self._own_group_file, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, str(os.getpid()).encode("ascii"))
            finally:
                os.close(fd)
        except OSError:
            self._own_group_file = None  # it was only to save time

    def make(self, group: str) -> None:
        """Make the group in every hierarchy, parents and all, also while others remove empty parents.

        Raises:
            OSError: it cannot be made.
        """
        for point in self._points():
            for _ in range(_TRIES):
                with contextlib.suppress(FileNotFoundError):
                    os.makedirs(point + group, exist_ok=True)
                    break

    def out_of_memory(self, group: str) -> bool:
        """Whether a process of the group has been killed for want of memory. False when the group is gone."""
        return oom_kills(self._memory_file(group, "memory.events" if self._v2 else "memory.oom_control")) > 0

    def memory_peak_bytes(self, group: str) -> int | None:
        """The most memory the group held at once; None when the group is gone or the kernel does not tell."""
        text = self._memory_file(group, "memory.peak" if self._v2 else "memory.max_usage_in_bytes")
        return int(text) if text.strip().isdigit() else None

    def exists(self, group: str) -> bool:
        """Whether the group is there, in any hierarchy."""
        return any(True for _ in self._directories(group))

    def processes(self, group: str) -> set[int]:
        """Pids of all processes in the group and in those below it."""
        pids: set[int] = set()
        for directory in self._directories(group):
            for below, _, _ in os.walk(directory):
                with contextlib.suppress(OSError):
                    pids.update(int(pid) for pid in Path(below, "cgroup.procs").read_text("ascii").split())
        # A process of another pid namespace than ours, above us, shows as 0.
        return pids - {0}

    async def kill(self, group: str) -> bool:
        """Kill all processes of the group and those below, until there are none, within a bounded time.

        Returns:
            Whether none is left.
        """
        deadline = time.monotonic() + limits.CONTAINER_KILL_SECONDS_MAX
        while pids := self.processes(group):
            if time.monotonic() > deadline:
                return False
            self._thaw(group)
            await self._end(group, pids)
            await asyncio.sleep(_PAUSE_SECONDS)
        return True

    async def remove(self, group: str) -> bool:
        """Remove a group without processes and those below it, within a bounded time. True when it is gone."""
        deadline = time.monotonic() + limits.CONTAINER_KILL_SECONDS_MAX
        while not self.try_remove(group):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_PAUSE_SECONDS)
        return True

    def try_remove(self, group: str) -> bool:
        """Try once; True when it is gone.

        Raises:
            OSError: as the kernel says, but for a group in use.
        """
        gone = True
        for directory in self._directories(group):
            for below, _, _ in os.walk(directory, topdown=False):
                try:
                    os.rmdir(below)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno not in _BUSY:
                        raise
                    gone = False
        return gone

    async def _end(self, group: str, pids: Iterable[int]) -> None:
        pidfds: dict[int, int] = {}
        try:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    pidfds[pid] = os.pidfd_open(pid)
            # A pid that is still in the group now that we hold it is the one we saw, and no later process.
            still = self.processes(group)
            await asyncio.gather(*(spawn.end_process(fd) for pid, fd in pidfds.items() if pid in still))
        finally:
            for fd in pidfds.values():
                os.close(fd)

    def remove_empty(self, group: str) -> None:
        """Remove a group that nobody uses any more; do nothing when somebody does."""
        for directory in self._directories(group):
            with contextlib.suppress(OSError):
                os.rmdir(directory)

    def _thaw(self, group: str) -> None:
        """Let frozen processes die: a runtime that was itself killed in between may have left them so."""
        for directory in self._directories(group):
            for below, _, _ in os.walk(directory):
                for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                    with contextlib.suppress(OSError):
                        fd = os.open(os.path.join(below, name), os.O_WRONLY | os.O_CLOEXEC)
                        try:
                            os.write(fd, value.encode())
                        finally:
                            os.close(fd)

    def _directories(self, group: str) -> Iterator[str]:
        for point in self._points():
            directory = point + group
            if os.path.isdir(directory):
                yield directory

    def _points(self) -> tuple[str, ...]:
        unified = self.layout.unified
        if unified is None or unified in self.layout.hierarchies:
            return self.layout.hierarchies
        return (*self.layout.hierarchies, unified)

    def _memory_file(self, group: str, name: str) -> str:
        if self.layout.memory is None:
            return ""
        try:
            return Path(self.layout.memory + group, name).read_text("ascii")
        except OSError:
            return ""
