"""What a store keeps beside its data: a lock file that a process holds until it dies, and private directories."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from bulletin.store.api import LeaseHeld

__all__ = ["LockFile", "make_directories"]


class LockFile:
    """An exclusive ``flock`` on a file that is made when missing and never removed.

    Removing it would let two processes hold locks on two files of the same name. The holder's pid stands in it, for
    people only: the lock is the kernel's, not the text's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def take(self) -> None:
        """Take the lock or fail at once.

        Raises:
            LeaseHeld: another process, or another ``LockFile`` of this one, holds it.
            OSError: the file cannot be made or locked.
        """
        assert self._descriptor < 0, "the lock is held already"
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise LeaseHeld(f"another board (process {holder}) holds {self.path}") from error
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def make_directories(directory: Path) -> None:
    """Make ``directory`` and what is missing above it, each for the owner only and each surviving a power loss.

    Raises:
        OSError: one of them cannot be made, or is a file.
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
