"""An image in a layout becomes a root file system: ``umoci raw unpack``, then bounds and hardening.

umoci checks every digest and keeps every entry inside the tree. What remains in it is harmless where it is used: root
file systems are mounted nodev and nosuid, their processes run with no_new_privs and without effective capabilities,
so setuid bits and file capabilities are kept as part of the image. Device nodes are taken out all the same: no
container could open one, and a tree without them stays harmless wherever it is copied to; also, a node with the
number 0:0 would mean a removed file once the tree is a lower layer.
"""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

from bulletin.cell.images.fetching import last_words
from bulletin.cell.images.layout import Manifest
from bulletin.cell.images.repository import Workspace, write_tree_note
from bulletin.cell.images.settings import ImageSettings
from bulletin.cell.images.tools import Progress, ToolFailed, Usage, measure, run_tool, walk, watch_disk

__all__ = ["unpack_image"]

_SHOWN_CHARACTERS_MAX = 300


async def unpack_image(
    layout: Path, manifest: Manifest, tree: Path, workspace: Workspace, settings: ImageSettings, progress: Progress
) -> Usage:
    """Unpack the image of ``layout`` to ``tree/rootfs`` with its own ids, and describe it in ``tree``.

    Raises:
        ToolFailed: umoci is missing, took too long or refused the image.
        TooLarge: the tree is over a bound.
    """
    rootfs = tree / "rootfs"
    rootfs.mkdir(parents=True)

    def look() -> Usage:
        return measure(rootfs, settings.image_bytes_max, settings.image_entries_max)

    def heard(usage: Usage) -> None:
        progress(f"unpacking: {usage.entries} files")

    progress("unpacking")
    tool = run_tool(
        workspace,
        ("umoci", "raw", "unpack", "--image", f"{layout}:latest", str(rootfs)),
        timeout_seconds=settings.pull_seconds_max,
        file_bytes_max=settings.image_bytes_max,
    )
    finished = await watch_disk(tool, look, heard)
    if finished.status != 0:
        words = last_words(finished.stderr or finished.stdout).replace(str(workspace.path), "")
        raise ToolFailed(f"umoci refuses it: {words[:_SHOWN_CHARACTERS_MAX]}")
    usage = await asyncio.to_thread(look)
    await asyncio.to_thread(_harden, rootfs)
    await asyncio.to_thread(write_tree_note, tree, manifest.env, usage.used_bytes)
    return usage


def _harden(rootfs: Path) -> None:
    """Take device nodes out. Nobody else changes the tree meanwhile, so paths lead where they did."""
    for path, status in walk(rootfs):
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            os.unlink(path)
