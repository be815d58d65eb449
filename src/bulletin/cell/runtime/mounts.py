"""Mounts of the cell: its private place for what lives as long as it does, and the root file systems of containers.

All of it happens in the cell's own mount namespace, so a cell that is killed leaves no mount behind. The functions
here are called in that namespace's thread.

A container's root is an overlay: the image below, shared and never written, and a directory of its own on top. For a
container with a user namespace the image is shown with its ids shifted, which costs nothing (Linux 5.19); where the
kernel or the file system cannot do that, a shifted copy of the image stands in for it, made once.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Final

from bulletin.cell.runtime import linux
from bulletin.cell.runtime.spec import IdRange

__all__ = [
    "make_private_directory",
    "mount_root",
    "prepare_upper",
    "show_read_only",
    "try_root",
    "unmount",
]

#: Nothing on this file system needs to sync: a container's changes are thrown away with it.
_OVERLAY_OPTIONS: Final = "upperdir=upper,workdir=work,volatile"


def make_private_directory(path: str) -> None:
    """Mount an empty file system in memory at ``path``, which is made if need be. Others may pass, not list."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    linux.mount("bulletin", path, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=711")


def show_read_only(source: str, target: str) -> None:
    """Show a file at ``target`` so that nobody can write to it there."""
    Path(target).touch(mode=0o600)
    linux.mount(source, target, None, linux.MS_BIND)
    flags = linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("none", target, None, flags)


def prepare_upper(directory: str, image: Path, ids: IdRange | None) -> None:
    """Make the writable directory of a container: ``upper`` and ``work`` in ``directory``.

    The root directory of an overlay is the upper one, so it takes on mode and owner of the image's.

    Args:
        directory: is made; its parent is there.
        image: the directory below.
        ids: how the image will be shown shifted; None when it is shown as it is.
    """
    os.mkdir(directory, 0o700)
    os.mkdir(os.path.join(directory, "work"), 0o700)
    upper = os.path.join(directory, "upper")
    os.mkdir(upper, 0o700)
    root = os.stat(image)
    shift = 0 if ids is None else ids.base
    if shift or root.st_uid or root.st_gid:
        os.chown(upper, root.st_uid + shift, root.st_gid + shift)
    os.chmod(upper, stat.S_IMODE(root.st_mode))


def mount_root(directory: str, image: Path, target: str, user_namespace: int | None, *, privileged: bool) -> None:
    """Mount a container's root file system at ``target``.

    Args:
        directory: as ``prepare_upper`` made it.
        image: the directory below.
        target: an empty directory.
        user_namespace: descriptor of a user namespace whose ids to show the image in; None shows it as it is.
        privileged: whether programs may gain rights by their set-user-id bits.

    Raises:
        OSError: as the kernel says.
    """
    if user_namespace is None:
        lower = os.open(image, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    else:
        lower = linux.open_idmapped_tree(str(image), user_namespace)
    try:
        # Names relative to the working directory, which is this thread's own, and a descriptor: whatever characters
        # the paths have, they need not be written in the language of mount options.
        os.chdir(directory)
        options = f"lowerdir=/proc/self/fd/{lower},{_OVERLAY_OPTIONS}"
        flags = linux.MS_NODEV | (0 if privileged else linux.MS_NOSUID)
        linux.mount("overlay", target, "overlay", flags, options)
    finally:
        os.chdir("/")
        os.close(lower)


def unmount(target: str) -> None:
    """Unmount what is at ``target``, also when it is in use. Does nothing when nothing is there."""
    try:
        linux.umount(target)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno == errno.EINVAL:
            return
        linux.umount(target, detach=True)


def try_root(directory: str, user_namespace: int | None, ids: IdRange | None) -> None:
    """Try in an empty ``directory`` whether containers can have their root file systems there; leaves it empty.

    Raises:
        OSError: they cannot, in this way.
    """
    image, made, target = (os.path.join(directory, name) for name in ("image", "made", "root"))
    try:
        os.mkdir(image, 0o755)
        os.mkdir(target, 0o755)
        Path(image, "file").touch()
        prepare_upper(made, Path(image), ids)
        mount_root(made, Path(image), target, user_namespace, privileged=False)
        try:
            if os.stat(os.path.join(target, "file")).st_uid != (0 if ids is None else ids.base):
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), directory)
        finally:
            unmount(target)
    finally:
        for path in (image, made, target):
            shutil.rmtree(path, ignore_errors=True)
