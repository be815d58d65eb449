"""What a test must not leave behind (design promise S11), as a difference of two looks at the system.

``LeakCheck()`` looks once when it is made; ``assert_clean`` looks again until nothing is there that was not there
before, or a bound has passed: the kernel takes cgroups and network namespaces away a moment after their last process.
Only what bulletin could have made is looked at, so that a neighbour on the same machine does not fail a test.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar, NamedTuple

from support.processes import ServingProcess, children, descendants, marked

__all__ = ["Leak", "LeakCheck"]

_CGROUPS = Path("/sys/fs/cgroup")
_LINKS = Path("/sys/class/net")
_NAMED_NAMESPACES = Path("/run/netns")
_RUN = Path("/run/bulletin")
#: Every cgroup, network link, namespace and table of a cell has this in its name or above it.
_NAME = "bulletin"
#: The kernel's own clean-up is done within milliseconds; a busy machine gets this.
_SETTLE_SECONDS = 10.0
_LOOK_AGAIN_SECONDS = 0.05


class Leak(NamedTuple):
    """One thing that is there."""

    kind: str
    name: str


class LeakCheck:
    """A look at the system, and later the difference.

    Args:
        directories: whose files, at any depth, are looked at too, and below which no mount may stay.
        scope: when given, cgroups, mounts, links and ``/run/bulletin`` count only if this text is in their name: a
            cell's id, where several cells share the machine.
        descriptors: whether this process's own open descriptors count.
        machine: whether anything but processes, directories and descriptors counts; a board alone touches nothing else.
    """

    #: Ids of cells that other fixtures run meanwhile; what carries one of them is never counted.
    neighbours: ClassVar[set[str]] = set()

    def __init__(
        self,
        *,
        directories: Iterable[Path] = (),
        scope: str = "",
        descriptors: bool = False,
        machine: bool = True,
    ) -> None:
        self._directories = [directory.resolve() for directory in directories]
        self._marks: list[str] = []
        self._scope = scope
        self._elders = frozenset(children(os.getpid()))
        self._looks: list[Callable[[], Iterable[Leak]]] = [self._processes, self._files]
        if machine:
            self._looks += [self._cgroups, self._mounts, self._links, self._namespaces, self._tables]
        if descriptors:
            self._looks.append(_descriptors)
        self._before = self._look()

    def watch(self, process: ServingProcess) -> None:
        """From now on this process and all that it starts count too, wherever they are adopted."""
        self._marks.append(process.mark)

    def found(self) -> list[Leak]:
        """What is there now and was not there before."""
        return sorted(self._look() - self._before)

    def assert_clean(self, within_seconds: float = _SETTLE_SECONDS) -> None:
        """Fail with the list of what is left, once the kernel had time to take its part away."""
        deadline = time.monotonic() + within_seconds
        leaks = self.found()
        while leaks and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN_SECONDS)
            leaks = self.found()
        assert not leaks, "left behind:\n" + "\n".join(f"  {leak.kind}: {leak.name}" for leak in leaks)

    def _look(self) -> set[Leak]:
        return {leak for look in self._looks for leak in look()}

    def _processes(self) -> Iterable[Leak]:
        # What a process that was there before starts meanwhile is that one's business.
        younger = [pid for pid in children(os.getpid()) if pid not in self._elders]
        below = [pid for child in younger for pid in descendants(child)]
        pids = {*younger, *below, *(pid for mark in self._marks for pid in marked(mark))}
        for pid in pids:
            command = _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ").strip()
            yield Leak("process", f"{pid} {command or '(zombie)'}")

    def _cgroups(self) -> Iterable[Leak]:
        for directory, below, _ in os.walk(_CGROUPS):
            below.sort()
            if _NAME in directory and self._in_scope(directory):
                yield Leak("cgroup", directory)

    def _mounts(self) -> Iterable[Leak]:
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            point = line.split()[4].encode().decode("unicode_escape")
            below = any(Path(point).is_relative_to(directory) for directory in self._directories)
            if below or (_NAME in point and self._in_scope(point)):
                yield Leak("mount", point)

    def _links(self) -> Iterable[Leak]:
        if not self._scope:  # interface names have 15 characters: too few for a cell's id
            yield from (Leak("network link", name) for name in _names(_LINKS))

    def _namespaces(self) -> Iterable[Leak]:
        for root in (_NAMED_NAMESPACES, _RUN):
            for name in _names(root):
                if self._in_scope(name):
                    yield Leak("run file" if root == _RUN else "network namespace", str(root / name))

    def _tables(self) -> Iterable[Leak]:
        if self._scope or os.geteuid() != 0 or shutil.which("nft") is None:
            return
        answer = subprocess.run(["nft", "-j", "list", "tables"], capture_output=True, check=False, timeout=10)
        if answer.returncode == 0:
            for entry in json.loads(answer.stdout).get("nftables", []):
                if "table" in entry and _NAME in entry["table"]["name"]:
                    yield Leak("nft table", f"{entry['table']['family']} {entry['table']['name']}")

    def _files(self) -> Iterable[Leak]:
        for root in self._directories:
            for directory, below, names in os.walk(root):
                yield from (Leak("file", os.path.join(directory, name)) for name in (*below, *names))

    def _in_scope(self, name: str) -> bool:
        return self._scope in name and not any(neighbour in name for neighbour in self.neighbours)


def _descriptors() -> Iterable[Leak]:
    for name in _names(Path("/proc/self/fd")):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the directory itself, closed by now
        yield Leak("descriptor", f"{name} -> {target}")


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
