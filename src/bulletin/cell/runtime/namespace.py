"""A mount namespace of the cell's own, kept by one thread.

Whatever is mounted in it is seen by nobody else and is gone when the cell is, however it ends: the kernel takes the
namespace down with its last process. Only one thread lives in it, so the rest of the cell, and whoever else uses the
process, keeps the machine's view. Processes started by the thread inherit its view.

Wart: a path below a mount of this namespace means something else, or nothing, to the other threads. They use
descriptors that the thread opened, and names relative to those.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bulletin.cell.runtime import linux

__all__ = ["MountNamespace"]

_T = TypeVar("_T")


class MountNamespace:
    """Runs functions, one after another, in a thread with a mount namespace of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mounts")

    async def open(self) -> None:
        """Make the namespace. Mounts of the machine come in from outside; nothing goes out.

        Raises:
            OSError: EPERM without CAP_SYS_ADMIN.
        """
        await self.run(_enter)

    async def run(self, function: Callable[[], _T]) -> _T:
        """Run a function in the namespace; it is short and never waits.

        Once begun it runs to its end: cancelling the call only gives up its answer.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def close(self) -> None:
        """Let go of the namespace, and with it of every mount that no container holds on to. Idempotent."""
        await asyncio.to_thread(self._thread.shutdown)


def _enter() -> None:
    linux.unshare_mounts()
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_SLAVE)
