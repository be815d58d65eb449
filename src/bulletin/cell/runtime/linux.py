"""The system calls this room needs and the standard library lacks, as typed functions that raise ``OSError``.

Each one lets go of the interpreter lock while it runs. Descriptors that come back are close-on-exec. The numbers of
the raw system calls are the same on every architecture (all calls since Linux 5.1 share one table).
"""

from __future__ import annotations

import ctypes
import errno
import os
from enum import IntFlag
from typing import Final

__all__ = [
    "MS_BIND",
    "MS_NODEV",
    "MS_NOSUID",
    "MS_RDONLY",
    "MS_REC",
    "MS_REMOUNT",
    "MS_SLAVE",
    "Resolve",
    "mount",
    "open_idmapped_tree",
    "openat2",
    "set_child_subreaper",
    "umount",
    "unshare_mounts",
]

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x80000

_MNT_DETACH: Final = 0x2
_UMOUNT_NOFOLLOW: Final = 0x8
_CLONE_NEWNS: Final = 0x20000
_PR_SET_CHILD_SUBREAPER: Final = 36
_AT_EMPTY_PATH: Final = 0x1000
_OPEN_TREE_CLONE: Final = 0x1
_OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
_MOUNT_ATTR_IDMAP: Final = 0x100000

_SYS_OPEN_TREE: Final = 428
_SYS_OPENAT2: Final = 437
_SYS_MOUNT_SETATTR: Final = 442

#: openat2 answers EAGAIN when a rename elsewhere raced with a ``..``; a few tries are enough, for ever is not needed.
_OPENAT2_TRIES: Final = 32


class Resolve(IntFlag):
    """How ``openat2`` walks a path."""

    NO_XDEV = 0x01
    NO_MAGICLINKS = 0x02
    NO_SYMLINKS = 0x04
    BENEATH = 0x08
    IN_ROOT = 0x10


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.prctl.argtypes = (ctypes.c_int, *([ctypes.c_ulong] * 4))
_libc.syscall.restype = ctypes.c_long


def _check(returned: int, name: str | None = None) -> int:
    if returned < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return returned


def _encode(path: str) -> bytes:
    raw = os.fsencode(path)
    if b"\0" in raw:  # C would silently stop reading there, and open something else
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    return raw


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """``mount(2)``. ``kind`` is the file system, None for bind, remount and propagation changes.

    Raises:
        OSError: as the kernel says, with ``target`` as file name.
    """
    _check(
        _libc.mount(
            _encode(source),
            _encode(target),
            None if kind is None else kind.encode(),
            flags,
            None if data is None else _encode(data),
        ),
        target,
    )


def umount(target: str, *, detach: bool = False) -> None:
    """``umount2(2)``, never through a symbolic link. ``detach`` takes a busy mount out of the tree at once.

    Raises:
        OSError: as the kernel says; EINVAL when nothing is mounted there.
    """
    _check(_libc.umount2(_encode(target), _UMOUNT_NOFOLLOW | (_MNT_DETACH if detach else 0)), target)


def unshare_mounts() -> None:
    """Give the calling *thread* a mount namespace, root directory and working directory of its own.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN.
    """
    _check(_libc.unshare(_CLONE_NEWNS))


def set_child_subreaper() -> None:
    """Make this process the parent of every orphan among its descendants (Linux 3.4)."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def openat2(dir_fd: int, path: str, flags: int, resolve: Resolve, mode: int = 0) -> int:
    """``openat2(2)`` (Linux 5.6): open ``path`` below ``dir_fd`` under the rules of ``resolve``.

    Raises:
        OSError: as the kernel says; EXDEV or ELOOP where a rule is broken.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, int(resolve))
    raw = _encode(path)
    for _ in range(_OPENAT2_TRIES):
        fd = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(dir_fd),
            ctypes.c_char_p(raw),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    return _check(int(fd), path)


def open_idmapped_tree(path: str, user_namespace_fd: int) -> int:
    """Open a detached copy of the mount tree at ``path`` with ids shifted as the user namespace maps them.

    ``/proc/self/fd/N`` of the answer serves as a lower layer of overlay (Linux 5.19), without a mount point.

    Raises:
        OSError: EINVAL where the file system cannot do it, ENOSYS on an old kernel.
    """
    fd = _check(
        int(
            _libc.syscall(
                ctypes.c_long(_SYS_OPEN_TREE),
                ctypes.c_int(-100),
                ctypes.c_char_p(_encode(path)),
                ctypes.c_uint(_OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC),
            )
        ),
        path,
    )
    attributes = _MountAttributes(_MOUNT_ATTR_IDMAP, 0, 0, user_namespace_fd)
    try:
        _check(
            int(
                _libc.syscall(
                    ctypes.c_long(_SYS_MOUNT_SETATTR),
                    ctypes.c_int(fd),
                    ctypes.c_char_p(b""),
                    ctypes.c_uint(_AT_EMPTY_PATH),
                    ctypes.byref(attributes),
                    ctypes.c_size_t(ctypes.sizeof(attributes)),
                )
            ),
            path,
        )
    except OSError:
        os.close(fd)
        raise
    return fd
