"""Removing a tree that a hostile program built.

No path is ever put together from its names, no link is followed, and depth costs nothing: a directory that is not
empty is moved up, under a name of ours, before it is looked into. So however deep a tree is, a few descriptors and
short names are enough, and nothing has to be remembered.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["remove_tree"]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_GET_FLAGS: Final = 0x8008_6601
_SET_FLAGS: Final = 0x4008_6602
#: FS_IMMUTABLE_FL and FS_APPEND_FL: a privileged container can set them, and nothing can be removed under them.
_STUBBORN_FLAGS: Final = 0x10 | 0x20


def remove_tree(path: str) -> None:
    """Remove a directory and all below it. Blocks for as long as it takes; for a thread.

    Nothing may be adding to the tree. While it goes it lies beside ``path`` under a name that begins with
    ``.removing-``. Does nothing when there is none.

    Raises:
        OSError: something could not be removed; the rest may be gone already.
    """
    if not os.path.lexists(path):
        return
    trash = tempfile.mkdtemp(prefix=".removing-", dir=os.path.dirname(path))
    fd = os.open(trash, _DIRECTORY)
    try:
        names = itertools.count()
        os.rename(path, str(next(names)), dst_dir_fd=fd)
        while _entries_removed(fd, names):
            pass
    finally:
        os.close(fd)
    os.rmdir(trash)


def _entries_removed(trash: int, names: Iterator[int]) -> bool:
    """One round over all that lies in the trash; False when it was empty already."""
    seen = False
    with os.scandir(trash) as found:
        for entry in found:
            seen = True
            if entry.is_dir(follow_symlinks=False):
                _empty(trash, entry.name, names)
                # What could not be seen while others went from under the scan is met again in the next round.
                _removed_directory(trash, entry.name)
            else:
                _insist(trash, entry.name, os.unlink)
    return seen


def _empty(trash: int, name: str, names: Iterator[int]) -> None:
    """Remove the files of one directory of the trash, and move its directories up into the trash."""
    fd = os.open(name, _DIRECTORY, dir_fd=trash)
    try:
        with os.scandir(fd) as found:
            for entry in found:
                if not entry.is_dir(follow_symlinks=False):
                    _insist(fd, entry.name, os.unlink)
                elif not _removed_directory(fd, entry.name):
                    os.rename(entry.name, str(next(names)), src_dir_fd=fd, dst_dir_fd=trash)
    finally:
        os.close(fd)


def _removed_directory(parent: int, name: str) -> bool:
    """Remove a directory; False when it is not empty."""
    try:
        _insist(parent, name, os.rmdir)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _insist(parent: int, name: str, remove: Callable[..., None]) -> None:
    """Remove an entry; if that is not permitted, once more without the flags that forbid it even to root."""
    try:
        remove(name, dir_fd=parent)
    except PermissionError:
        _clear_flags(parent)
        with contextlib.suppress(OSError):  # pipes, links and devices have no flags
            fd = os.open(name, _FILE, dir_fd=parent)
            try:
                _clear_flags(fd)
            finally:
                os.close(fd)
        remove(name, dir_fd=parent)


def _clear_flags(fd: int) -> None:
    value = bytearray(8)
    fcntl.ioctl(fd, _GET_FLAGS, value)
    (flags,) = struct.unpack_from("@I", value)
    struct.pack_into("@I", value, 0, flags & ~_STUBBORN_FLAGS)
    fcntl.ioctl(fd, _SET_FLAGS, value)
