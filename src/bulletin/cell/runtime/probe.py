"""What this machine offers to the container room, and what would mend what is missing, for people to read.

The room itself trusts nothing but a container that ran; so does this report, which opens a room of its own beside the
cell's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bulletin.cell.runtime import seccomp, spawn
from bulletin.cell.runtime.api import RuntimeUnusable
from bulletin.cell.runtime.cgroups import Kind, Layout, parse_layout
from bulletin.cell.runtime.engine import KINDS
from bulletin.cell.runtime.machine import find_init, find_program, open_machine
from bulletin.cell.runtime.settings import ContainersSettings
from bulletin.cell.runtime.spec import NOFILE_DEFAULT

__all__ = ["Finding", "probe"]

_VERSION_SECONDS: Final = 5.0
_GIB: Final = 1024**3
_DISK_FREE_BYTES_WANTED: Final = 5 * _GIB


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    #: What was looked at.
    check: str
    ok: bool
    #: What was found.
    found: str
    #: A command that mends it; empty when it is well or no command can.
    mend: str = ""
    #: Whether no container can run without it.
    required: bool = True


async def probe(settings: ContainersSettings) -> list[Finding]:
    """Look at everything containers need. Runs a container, and leaves nothing behind."""
    findings = [_root()]
    findings.extend([await _program(kind.name, kind.package, required=False) for kind in KINDS])
    findings.append(_init())
    layout = parse_layout(_text("/proc/self/mountinfo"))
    findings.append(_cgroups(layout))
    findings.extend(await _containers(settings))
    findings.extend((_overlay(), _user_namespaces(), _seccomp()))
    findings.extend([await _program(name, name) for name in ("skopeo", "umoci")])
    findings.append(await _program("nft", "nftables", required=False))
    findings.extend((_disk(settings.data), _open_files(), _moves(layout)))
    return findings


def _root() -> Finding:
    return Finding("root", os.geteuid() == 0, f"user id {os.geteuid()}", "" if os.geteuid() == 0 else "sudo bulletin …")


async def _program(name: str, package: str, *, required: bool = True) -> Finding:
    path = find_program(name)
    if path is None:
        return Finding(name, ok=False, found="not installed", mend=f"apt-get install {package}", required=required)
    try:
        finished = await spawn.run([path, "--version"], timeout_seconds=_VERSION_SECONDS)
    except (OSError, spawn.CommandTimedOut) as error:
        return Finding(name, ok=False, found=str(error), mend=f"apt-get install {package}", required=required)
    lines = finished.stdout.decode("utf-8", "replace").splitlines() or ["no version told"]
    return Finding(name, finished.status == 0, f"{lines[0]} ({path})", required=required)


def _init() -> Finding:
    path = find_init()
    return Finding("init", path is not None, path or "not installed", "" if path else "apt-get install catatonit")


def _cgroups(layout: Layout) -> Finding:
    if layout.kind is Kind.NONE:
        return Finding("control groups", ok=False, found="not mounted", mend="mount -t cgroup2 none /sys/fs/cgroup")
    if layout.memory is None:
        return Finding("control groups", ok=False, found=f"{layout.kind.value}, no memory controller")
    return Finding("control groups", ok=True, found=layout.kind.value)


async def _containers(settings: ContainersSettings) -> list[Finding]:
    """Run a container in a room of this report's own, on the same disk and with the same settings."""
    name = f"probe-{os.getpid()}"
    mine = settings.data / name
    made = await asyncio.to_thread(lambda: [path for path in (mine, *mine.parents) if not path.exists()])
    try:
        machine = await open_machine(replace(settings, cell_id=name, data=mine))
        shifted = machine.user_namespace is not None
        engine = machine.engine.name
        await machine.close()
    except RuntimeUnusable as error:
        return [Finding("container", ok=False, found=str(error))]
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(path.rmdir)
    return [
        Finding("container", ok=True, found=f"runs with {engine}"),
        Finding(
            "shifted images",
            ok=shifted,
            found="shown with shifted ids"
            if shifted
            else "a copy of each image is made: the kernel is before 5.19, "
            f"or the file system of {settings.data} cannot show shifted ids",
            required=False,
        ),
    ]


def _overlay() -> Finding:
    there = any(line.split()[-1:] == ["overlay"] for line in _text("/proc/filesystems").splitlines())
    return Finding("overlay", there, "there" if there else "not in the kernel", "" if there else "modprobe overlay")


def _user_namespaces() -> Finding:
    text = _text("/proc/sys/user/max_user_namespaces").strip()
    ok = text.isdigit() and int(text) > 0
    found = f"at most {text}" if text else "not in the kernel"
    return Finding("user namespaces", ok, found, "" if ok else "sysctl user.max_user_namespaces=15000")


def _seccomp() -> Finding:
    actions = _text("/proc/sys/kernel/seccomp/actions_avail").split()
    try:
        found = f"filter of {len(seccomp.compile_program()) // 8} instructions"
    except seccomp.SeccompUnavailable as error:
        return Finding("seccomp", ok=False, found=str(error), mend="apt-get install libseccomp2")
    return Finding("seccomp", "errno" in actions, found if actions else "not in the kernel")


def _disk(data: Path) -> Finding:
    there = next(path for path in (data, *data.parents) if path.exists())
    free = shutil.disk_usage(there).free
    return Finding("disk", free >= _DISK_FREE_BYTES_WANTED, f"{free / _GIB:.1f} GiB free at {there}", required=False)


def _open_files() -> Finding:
    for line in _lines("/proc/self/limits", "Max open files"):
        hard = line.split()[4]
        ok = hard == "unlimited" or int(hard) >= NOFILE_DEFAULT
        return Finding(
            "open files", ok, f"{hard} at most for a task", "" if ok else "ulimit -Hn 1048576", required=False
        )
    return Finding("open files", ok=False, found="unknown", required=False)


def _moves(layout: Layout) -> Finding:
    """Moving a process into a control group waits for all processors, unless the groups are mounted to favour it."""
    if layout.favor_dynmods:
        return Finding("fast moves into control groups", ok=True, found="favordynmods", required=False)
    if layout.kind is Kind.V2:
        mend = f"mount -o remount,favordynmods {layout.unified}"
    else:
        mend = "mount -t cgroup -o none,name=fav,favordynmods fav /mnt && umount /mnt"
    found = (
        "no mount says favordynmods: starting a container may take 10 ms more, unless it was switched on and unmounted"
    )
    return Finding("fast moves into control groups", ok=False, found=found, mend=mend, required=False)


def _lines(path: str, beginning: str) -> Iterator[str]:
    return (line for line in _text(path).splitlines() if line.startswith(beginning))


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""
