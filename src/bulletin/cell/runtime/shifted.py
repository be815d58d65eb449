"""Copies of images with shifted ids, for kernels and file systems that cannot show an image so (before Linux 5.19).

One copy for each image, made when it is first needed and kept beside the containers. Wart: a copy stays when its
image is dropped from the cell's store; the operator removes it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from pathlib import Path

from bulletin.cell.images.api import Image
from bulletin.cell.runtime import spawn
from bulletin.cell.runtime.api import ContainerRefused
from bulletin.cell.runtime.removal import remove_tree
from bulletin.cell.runtime.spec import IdRange
from bulletin.core import limits

__all__ = ["ShiftedImages", "shift_ids"]

#: Takes over what is mapped to nobody.
_NOBODY = 65_534


class ShiftedImages:
    """Keeps a shifted copy of each image that was asked for."""

    def __init__(self, directory: Path, ids: IdRange) -> None:
        self._directory = directory
        self._ids = ids
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def ensure(self, image: Image) -> Path:
        """The root directory of the image's shifted copy; those who ask at once share the work.

        Raises:
            ContainerRefused: it cannot be copied.
        """
        name = hashlib.sha256(f"{self._ids.base} {self._ids.size} {image.digest}".encode()).hexdigest()
        copy = self._directory / name
        if name not in self._under_way and await asyncio.to_thread(copy.is_dir):
            return copy
        task = self._under_way.get(name)
        if task is None:
            task = asyncio.ensure_future(self._copy(image.rootfs, copy))
            self._under_way[name] = task
            task.add_done_callback(lambda _: self._under_way.pop(name))
        await asyncio.shield(task)
        return copy

    async def close(self) -> None:
        """Wait for copies under way, which nobody can use any more but which would be left half made."""
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def _copy(self, source: Path, target: Path) -> None:
        half = target.with_name(f".removing-{target.name}")
        try:
            await asyncio.to_thread(self._directory.mkdir, 0o700, exist_ok=True)
            await asyncio.to_thread(remove_tree, str(half))
            finished = await spawn.run(
                ["/bin/cp", "--archive", "--reflink=auto", "--no-target-directory", "--", str(source), str(half)],
                timeout_seconds=limits.IMAGE_PULL_SECONDS_MAX,
            )
            if finished.status != 0:
                message = f"image cannot be copied: {finished.stderr.decode(errors='replace').strip()}"
                raise ContainerRefused(message)
            await asyncio.to_thread(shift_ids, str(half), self._ids)
            await asyncio.to_thread(half.rename, target)
        except (OSError, spawn.CommandTimedOut) as error:
            message = f"image cannot be copied: {error}"
            raise ContainerRefused(message) from error


def shift_ids(tree: str, ids: IdRange) -> None:
    """Shift the ids of all files of a tree for good; blocks. Modes stay, file capabilities go.

    Nobody else may be changing the tree. Ids beyond the range become those of nobody.

    Raises:
        OSError: something could not be changed.
    """
    several_names: set[int] = set()
    pending = [tree]
    while pending:
        path = pending.pop()
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(path) as entries:
                pending.extend(entry.path for entry in entries)
        elif status.st_nlink > 1:
            if status.st_ino in several_names:
                continue
            several_names.add(status.st_ino)
        os.chown(path, _shifted(status.st_uid, ids), _shifted(status.st_gid, ids), follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_ISUID | stat.S_ISGID):
            os.chmod(path, stat.S_IMODE(status.st_mode))


def _shifted(number: int, ids: IdRange) -> int:
    return ids.base + (number if number < ids.size else min(_NOBODY, ids.size - 1))
