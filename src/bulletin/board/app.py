"""The board's composition root: settings in, a running board out.

``serve`` opens the store, takes the lease and rules; when either is lost it starts over, until it is told to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import AsyncIterator
from typing import Final

import structlog
from aiohttp import web

from bulletin.board.http import Http, make_request
from bulletin.board.reign import Reign
from bulletin.board.settings import Address, BoardSettings
from bulletin.board.writer import WriterEnded
from bulletin.core import limits
from bulletin.seams import Clock, Ids, RandomIds, SystemClock
from bulletin.store import PlainSealer, make_store
from bulletin.store.api import Lease, LeaseHeld, Store, StoreError
from bulletin.telemetry import logging

__all__ = ["Board", "serve"]

log = structlog.get_logger("bulletin.board")

_AGAIN_SECONDS: Final = 0.5
_BACKLOG: Final = 1024
#: A board holds many tasks and makes few cycles: a full collection every few thousand requests would be all pause.
_GC_THRESHOLDS: Final = (20_000, 50, 100)


class Board:
    """One board process: the listeners, and reign after reign."""

    def __init__(self, settings: BoardSettings, store: Store, clock: Clock, ids: Ids) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._name = ids.new()
        self._http = Http(settings)
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End the reign and then ``run``."""
        self._stop.set()

    async def run(self, ready: asyncio.Future[str] | None = None) -> None:
        """Serve until ``stop``; ``ready`` gets the URL once the API answers.

        Raises:
            StoreError: the store cannot be opened, or another board owns it for good.
            OSError: the address cannot be listened on.
        """
        await self._store.open()
        try:
            async with self._listening() as url:
                while not self._stop.is_set():
                    lease = await self._acquire()
                    try:
                        await self._rule(lease, url, ready)
                    finally:
                        await self._release(lease)
        finally:
            await self._store.close()

    async def _acquire(self) -> Lease:
        while True:
            try:
                return await self._store.acquire(self._name, self._settings.lease_seconds)
            except LeaseHeld:
                raise
            except StoreError as error:
                log.warning("lease.failed", error=str(error), again_seconds=_AGAIN_SECONDS)
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _release(self, lease: Lease) -> None:
        try:
            await self._store.release(lease)
        except StoreError as error:
            log.warning("lease.release.failed", error=str(error))  # it runs out by itself

    async def _rule(self, lease: Lease, url: str, ready: asyncio.Future[str] | None) -> None:
        reign = Reign(self._store, lease, self._clock, self._settings, self._name)
        try:
            await reign.load()
            gc.freeze()  # what was loaded has no cycles; walking it again and again would stop the loop for long
            self._http.reign = reign
            log.info("ruling", url=url, tasks=len(reign.writer.tasks), epoch=lease.epoch)
            if ready is not None and not ready.done():
                ready.set_result(url)
            await reign.run(self._stop)
        except (WriterEnded, StoreError) as error:
            log.warning("reign.lost", error=str(error), again_seconds=_AGAIN_SECONDS)
            self._http.reign = None
            await asyncio.sleep(_AGAIN_SECONDS)
        finally:
            self._http.reign = None

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[str]:
        """Listen on the API's address, and on the health one; on leaving, let requests under way finish."""
        loop = asyncio.get_running_loop()
        server = web.Server(
            self._http.handle,
            request_factory=make_request,
            access_log=None,
            keepalive_timeout=limits.KEEPALIVE_SECONDS,
            max_line_size=limits.HEADER_BYTES_MAX,
            max_field_size=limits.HEADER_BYTES_MAX,
            lingering_time=1.0,
            auto_decompress=False,
        )
        listen = self._settings.listen
        api = await loop.create_server(server, listen.host, listen.port, backlog=_BACKLOG, reuse_address=True)
        health_server = web.Server(_healthy, access_log=None, keepalive_timeout=limits.REQUEST_READ_SECONDS_MAX)
        health: asyncio.Server | None = None
        try:
            if self._settings.health is not None:
                address = self._settings.health
                health = await loop.create_server(health_server, address.host, address.port, reuse_address=True)
            host, port = api.sockets[0].getsockname()[:2]
            yield f"http://{Address(host, port)}"
        finally:
            for listener in (api, health):
                if listener is not None:
                    listener.close()
            server.pre_shutdown()
            await server.shutdown(self._settings.stop_grace_seconds)
            await health_server.shutdown(0)


async def _healthy(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


async def serve(settings: BoardSettings) -> int:
    """Run a board until SIGTERM or SIGINT; print ``ready URL`` when it serves. Returns the exit status."""
    logging.configure(settings.log_level)
    gc.set_threshold(*_GC_THRESHOLDS)
    loop = asyncio.get_running_loop()
    clock = SystemClock()
    path = ":memory:" if settings.data is None else str(settings.data / "board.sqlite3")
    board = Board(settings, make_store(path, sealer=PlainSealer(), clock=clock), clock, RandomIds())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, board.stop)
    ready: asyncio.Future[str] = loop.create_future()
    ready.add_done_callback(_say_ready)
    try:
        await board.run(ready)
    except (StoreError, OSError) as error:
        sys.stderr.write(f"error: the board cannot run: {error}\n")
        return 1
    finally:
        ready.cancel()
    return 0


def _say_ready(ready: asyncio.Future[str]) -> None:
    """The one line a script waits for."""
    if not ready.cancelled():
        sys.stdout.write(f"ready {ready.result()}\n")
        sys.stdout.flush()
