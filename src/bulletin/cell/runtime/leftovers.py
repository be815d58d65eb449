"""One process for each cell, and what an earlier one left.

When a cell is killed its mounts go with it, but its containers run on, their control groups and directories stay, and
even a container runtime may just be at work making one more. The next process of the cell takes all that away before
it does anything else (cell.md 1.6: nothing is ever re-adopted).

Locks tell who is there. *owner*, and one on the directory of the containers, are held by the cell alone: if somebody
has one, the cell runs already, or another uses its files. *engines* is handed on to every run of the container runtime:
who gets it knows that the last of them has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from pathlib import Path

from bulletin.cell.runtime.api import RuntimeUnusable
from bulletin.cell.runtime.cgroups import Cgroups
from bulletin.cell.runtime.removal import remove_tree
from bulletin.cell.runtime.settings import ContainersSettings
from bulletin.core import limits

__all__ = ["CellLock", "sweep"]

_PAUSE_SECONDS = 0.01


class CellLock:
    """The locks of one cell on this machine."""

    def __init__(self, settings: ContainersSettings) -> None:
        """Take those of the cell; the engines' may still be another's.

        Raises:
            RuntimeUnusable: another process has one.
            OSError: the files cannot be made.
        """
        # Root of a container passes through here to its own files, so others may pass; there is nothing to list.
        settings.run.mkdir(mode=0o711, parents=True, exist_ok=True)
        settings.run.chmod(0o711)
        self._owner_path = settings.run / f"{settings.name}.owner.lock"
        self._engines_path = settings.run / f"{settings.name}.engines.lock"
        self._owner_fd = _lock(self._owner_path, settings)
        self._directory = settings.containers
        self._directory_fd = -1
        try:
            self._directory_fd = _lock_directory(settings.containers)
            self.engines_fd = _open(self._engines_path)
        except BaseException:
            self._close_own()
            raise

    def engines_ended(self) -> bool:
        """Whether no engine of an earlier process runs any more; then the second lock is ours too."""
        return _try_lock(self.engines_fd)

    def close(self) -> None:
        """Let go."""
        self._engines_path.unlink(missing_ok=True)
        os.close(self.engines_fd)
        self._close_own()

    def _close_own(self) -> None:
        if self._directory_fd >= 0:
            with contextlib.suppress(OSError):
                self._directory.rmdir()  # not when something could not be removed from it
            os.close(self._directory_fd)
        self._owner_path.unlink(missing_ok=True)
        os.close(self._owner_fd)


def _lock(path: Path, settings: ContainersSettings) -> int:
    while True:
        fd = _open(path)
        if not _try_lock(fd):
            holder = os.pread(fd, 20, 0).decode("ascii", "replace")
            os.close(fd)
            message = f"the cell {settings.cell_id} runs on this machine already, as process {holder or '?'}"
            raise RuntimeUnusable(message)
        if os.fstat(fd).st_nlink:
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode("ascii"), 0)
            return fd
        os.close(fd)  # its last holder removed it between our opening it and our locking it


def _lock_directory(path: Path) -> int:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if not _try_lock(fd):
        os.close(fd)
        message = f"another cell keeps its containers in {path}: give each cell a data directory of its own"
        raise RuntimeUnusable(message)
    return fd


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


async def sweep(settings: ContainersSettings, cgroups: Cgroups, lock: CellLock) -> None:
    """Kill and remove all that earlier processes of the cell left.

    Raises:
        RuntimeUnusable: something cannot be removed.
    """
    deadline = time.monotonic() + limits.ENGINE_SECONDS_MAX
    while not (await cgroups.kill(settings.cgroup) and lock.engines_ended()):
        if time.monotonic() > deadline:
            message = f"containers of an earlier process of this cell do not end; look into {settings.cgroup}"
            raise RuntimeUnusable(message)
        await asyncio.sleep(_PAUSE_SECONDS)
    # The last engine may have made one more container before it ended.
    if not (await cgroups.kill(settings.cgroup) and await cgroups.remove(settings.cgroup)):
        message = f"control groups of an earlier process of this cell cannot be removed: {settings.cgroup}"
        raise RuntimeUnusable(message)
    try:
        await asyncio.to_thread(_remove_directories, settings.containers)
    except OSError as error:
        message = f"files of an earlier process of this cell cannot be removed: {error}"
        raise RuntimeUnusable(message) from error


def _remove_directories(containers: Path) -> None:
    for name in os.listdir(containers):
        remove_tree(str(containers / name))


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
