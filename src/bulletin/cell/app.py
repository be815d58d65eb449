"""The cell's composition root: settings in, a running cell out.

``run`` picks the event loop and is what the command line calls; ``serve`` is the same inside a running loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import structlog

from bulletin.cell.agent import Agent
from bulletin.cell.images.api import ImageRefused
from bulletin.cell.images.settings import ImageSettings
from bulletin.cell.images.store import ImageStore
from bulletin.cell.journal import Journal, JournalError
from bulletin.cell.runtime.api import Runtime, RuntimeUnusable
from bulletin.cell.runtime.containers import Containers, ContainersSettings
from bulletin.cell.settings import CellSettings, SettingError, read_capacity
from bulletin.seams import RandomIds, SystemClock
from bulletin.telemetry import logging

__all__ = ["CannotServe", "OpenRuntime", "run", "serve"]

log = structlog.get_logger("bulletin.cell")

#: Brings a runtime up for as long as its context lasts.
OpenRuntime = Callable[[CellSettings], contextlib.AbstractAsyncContextManager[Runtime]]


class CannotServe(Exception):
    """The cell cannot run here; the text says why and what to do."""


def run(settings: CellSettings) -> int:
    """Run a cell until SIGTERM or SIGINT. Returns the exit status."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(serve(settings))


async def serve(settings: CellSettings, open_runtime: OpenRuntime | None = None) -> int:
    """Run a cell until SIGTERM or SIGINT; print ``ready CELL_ID`` when its board has welcomed it.

    Args:
        settings: not checked yet.
        open_runtime: brings the container room up and down; left out, the real one.

    Returns:
        The exit status: 0 after a stop, 1 when it cannot run, 2 when the settings cannot be.
    """
    try:
        settings.check()
        logging.configure(settings.log_level)
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(settings.data / "lock"):
            await _serve(settings, open_runtime or _open_containers)
    except SettingError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except (CannotServe, ImageRefused, JournalError, RuntimeUnusable, OSError) as error:
        sys.stderr.write(f"error: the cell cannot run: {error}\n")
        return 1
    return 0


async def _serve(settings: CellSettings, open_runtime: OpenRuntime) -> None:
    capacity = read_capacity(settings)
    stop = _stop_on_signals()
    async with _journal(settings) as journal, open_runtime(settings) as runtime:
        agent = Agent(
            settings,
            capacity,
            runtime,
            journal,
            SystemClock(),
            RandomIds(),
            random.Random(),  # noqa: S311 - it spreads pauses, nothing secret
            lambda: _say_ready(settings.cell_id),
        )
        linking = asyncio.create_task(agent.run())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([linking, stopping], return_when=asyncio.FIRST_COMPLETED)
            log.info("stopping", tasks=len(agent.tasks))
            await agent.drain()
        finally:
            stopping.cancel()
            linking.cancel()
            await asyncio.wait([linking, stopping])
        if not linking.cancelled():
            linking.result()  # it ends by itself only by a defect, which is raised here


@contextlib.asynccontextmanager
async def _journal(settings: CellSettings) -> AsyncIterator[Journal]:
    journal = Journal(settings.data / "journal")
    try:
        journal.open()
        yield journal
    finally:
        await journal.close()


@contextlib.asynccontextmanager
async def _open_containers(settings: CellSettings) -> AsyncIterator[Runtime]:
    image_settings = ImageSettings(
        preloaded=settings.preloaded_rootfs, insecure_registries=settings.insecure_registries
    )
    room = ContainersSettings(data=settings.data, cell_id=settings.cell_id, engine=settings.engine)
    async with ImageStore(settings.data / "images", image_settings) as images:
        runtime = Containers(room, images)
        try:
            await runtime.open()
            yield runtime
        finally:
            await runtime.close()


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the data directory, so that two cells never share one. The kernel lets go when the process dies.

    Raises:
        CannotServe: another cell holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"another cell uses {path.parent}; give each cell a --data of its own"
            raise CannotServe(msg) from error
        yield
    finally:
        os.close(descriptor)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _say_ready(cell_id: str) -> None:
    """The one line a script waits for."""
    sys.stdout.write(f"ready {cell_id}\n")
    sys.stdout.flush()
