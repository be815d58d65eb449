"""The board's composition root: settings in, a running board out.

``serve`` opens the store, takes the lease and rules; when either is lost it starts over, until it is told to stop. On
PostgreSQL several boards compete for the lease. Who does not have it is a standby: it answers on its health address,
its API port is closed, and it asks for the lease every ``lease_retry_seconds``.

A store that cannot be reached is waited for: at the start within a bound, after that for as long as it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Final

import structlog
from aiohttp import web

from bulletin.board.access import AccessLog
from bulletin.board.door import Door
from bulletin.board.exposition import serve_scrape
from bulletin.board.http import Http
from bulletin.board.metered import MeteredStore
from bulletin.board.metrics import BoardMetrics
from bulletin.board.reign import Reign
from bulletin.board.rotation import KeyMissing, check_keys, make_sealer
from bulletin.board.settings import Address, BoardSettings
from bulletin.board.writer import WriterEnded
from bulletin.core import limits
from bulletin.seams import Clock, Ids, RandomIds, SystemClock
from bulletin.store import make_store
from bulletin.store.api import Lease, LeaseHeld, Store, StoreError
from bulletin.telemetry import logging

__all__ = ["Board", "serve"]

log = structlog.get_logger("bulletin.board")

_Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

#: After a lost reign, and between two tries to reach the store.
_AGAIN_SECONDS: Final = 0.5
#: A database may come up after its board; one that does not within this is named wrongly, or is down for good.
_OPEN_SECONDS_MAX: Final = 30.0
#: Requests under way when the lease is lost: each has been told that nobody knows, and gets so long to hear it.
_LOST_GRACE_SECONDS: Final = 0.2
#: An answer of the health or the metrics address that is being written when the board ends. (0 would be for ever.)
_BESIDE_GRACE_SECONDS: Final = 0.2
#: The same trouble is not told more often than this.
_TELL_AGAIN_SECONDS: Final = 10.0
#: A board holds many tasks and makes few cycles: a full collection every few thousand requests would be all pause.
_GC_THRESHOLDS: Final = (20_000, 50, 100)


class Board:
    """One board process: the listeners, and reign after reign."""

    def __init__(self, settings: BoardSettings, store: Store, clock: Clock, ids: Ids) -> None:
        self._settings = settings
        self._metrics = BoardMetrics()
        self._store = MeteredStore(store, self._metrics)
        self._clock = clock
        self._name = ids.new()
        self._http = Http(settings, self._metrics)
        handle: _Handle = self._http.handle
        self._access: AccessLog | None = None
        if settings.access_log is not None:
            self._access = AccessLog(settings.access_log, self._metrics, clock)
            handle = self._access.wrap(handle)
        self._door = Door(settings, handle)
        self._stop = asyncio.Event()
        self._has_served = False
        #: What was told last, and when (monotonic seconds).
        self._told = ("", 0.0)

    def stop(self) -> None:
        """End the reign and then ``run``."""
        self._stop.set()

    def reopen_logs(self) -> None:
        """Write the access log, if there is one, into a new file: the old one was moved away."""
        if self._access is not None:
            self._access.reopen()

    async def run(self, ready: asyncio.Future[str] | None = None) -> None:
        """Serve, or stand by, until ``stop``; ``ready`` gets the URL once the API answers for the first time.

        Raises:
            StoreError: the store cannot be opened, or another board owns it for good.
            KeyMissing: tasks are sealed with a key this board was not given.
            OSError: an address cannot be listened on, or the access log not be opened.
        """
        if self._access is not None:
            self._access.open()
        async with (
            # From the first moment to the last (board-api.md 1.5), standby or not.
            _listening(self._settings.health, _answer),
            _listening(self._settings.metrics, partial(serve_scrape, self._metrics)),
        ):
            try:
                await self._open()
                while not self._stop.is_set():
                    asked_at = self._clock.monotonic()
                    lease = await self._acquire()
                    if lease is not None:
                        await self._rule(lease, asked_at, ready)
            finally:
                await self._door.clear(0)
                await self._store.close()
                if self._access is not None:
                    await self._access.close()

    async def _open(self) -> None:
        deadline = self._clock.monotonic() + _OPEN_SECONDS_MAX
        while not self._stop.is_set():
            try:
                await self._store.open()
                check_keys(await self._store.load_configurations(), self._settings)
            except LeaseHeld:
                raise
            except StoreError as error:
                if not self._is_contested or self._clock.monotonic() >= deadline:
                    raise
                self._tell("store.unreachable", error)
                await self._store.close()
                await self._pause(_AGAIN_SECONDS)
            else:
                return

    @property
    def _is_contested(self) -> bool:
        """Whether other boards may want the lease; an SQLite file and memory belong to one process anyway."""
        return self._settings.database is not None

    async def _acquire(self) -> Lease | None:
        """Ask for the lease; None after a pause, when it is not to be had now."""
        try:
            return await self._store.acquire(self._name, self._settings.lease_seconds)
        except LeaseHeld as error:
            if not self._is_contested:
                raise
            self._tell("standby", error)
            await self._pause(self._settings.lease_retry_seconds)
        except StoreError as error:
            self._tell("lease.failed", error)
            await self._pause(_AGAIN_SECONDS)
        return None

    async def _rule(self, lease: Lease, asked_at: float, ready: asyncio.Future[str] | None) -> None:
        """One reign, from opening the door to giving the lease back."""
        reign = Reign(
            self._store,
            lease,
            self._clock,
            self._settings,
            self._name,
            asked_at=asked_at if self._is_contested else None,
            metrics=self._metrics,
        )
        self._metrics.lock_held = True
        grace_seconds = self._settings.stop_grace_seconds
        _prepare_memory()
        try:
            url = await self._door.open()
            await reign.run(
                self._stop, on_loaded=lambda: self._begin(reign, url, lease, ready), on_end=self._end_serving
            )
        except (WriterEnded, StoreError) as error:
            log.warning("reign.lost", error=str(error), epoch=lease.epoch, again_seconds=_AGAIN_SECONDS)
            grace_seconds = _LOST_GRACE_SECONDS
        except OSError as error:
            if not self._has_served:
                raise
            log.warning("listen.failed", address=str(self._settings.listen), error=str(error))
        finally:
            gc.enable()
            self._metrics.lock_held = False
            # Before the connections have ended: a standby need not wait for our slowest client.
            await self._release(lease)
            if self._leaves_the_door():
                await self._door.clear(grace_seconds)
        await self._pause(_AGAIN_SECONDS)

    def _begin(self, reign: Reign, url: str, lease: Lease, ready: asyncio.Future[str] | None) -> None:
        gc.freeze()  # what was loaded has no cycles; walking it again and again would stop the loop for long
        gc.enable()
        self._http.reign = reign
        self._metrics.live = reign.live
        self._metrics.reigns += 1
        self._has_served = True
        log.info("ruling", url=url, tasks=len(reign.writer.tasks), epoch=lease.epoch)
        if ready is not None and not ready.done():
            ready.set_result(url)

    def _end_serving(self) -> None:
        self._http.reign = None
        self._metrics.live = None
        if self._leaves_the_door():
            self._door.shut()

    def _leaves_the_door(self) -> bool:
        """Whether somebody else may serve now, or this board never again; else clients wait here, with 503."""
        return self._is_contested or self._stop.is_set()

    async def _release(self, lease: Lease) -> None:
        try:
            await self._store.release(lease)
        except StoreError as error:
            log.warning("lease.release.failed", error=str(error))  # it runs out by itself

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until ``stop``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    def _tell(self, event: str, error: StoreError) -> None:
        """Log why the board does not rule: at once when it is news, now and then when it is not."""
        now = self._clock.monotonic()
        told, at = self._told
        if told != event or now - at >= _TELL_AGAIN_SECONDS:
            self._told = (event, now)
            tell = log.info if event == "standby" else log.warning
            tell(event, reason=str(error))


@contextlib.asynccontextmanager
async def _listening(address: Address | None, handle: _Handle) -> AsyncIterator[None]:
    """Answer on an address of its own, beside the API; nothing when there is no address."""
    if address is None:
        yield
        return
    server = web.Server(handle, access_log=None, keepalive_timeout=limits.REQUEST_READ_SECONDS_MAX)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(server, address.host, address.port, reuse_address=True)
    try:
        yield
    finally:
        listener.close()
        server.pre_shutdown()  # ends connections that wait for their next request
        await server.shutdown(_BESIDE_GRACE_SECONDS)


def _prepare_memory() -> None:
    """Give back what an earlier reign left, and let loading make its hundreds of thousands of objects undisturbed."""
    gc.unfreeze()
    gc.collect()
    gc.disable()


async def _answer(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


async def serve(settings: BoardSettings) -> int:
    """Run a board until SIGTERM or SIGINT; print ``ready URL`` when it serves first. Returns the exit status."""
    logging.configure(settings.log_level)
    gc.set_threshold(*_GC_THRESHOLDS)
    loop = asyncio.get_running_loop()
    clock = SystemClock()
    ready: asyncio.Future[str] = loop.create_future()
    ready.add_done_callback(_say_ready)
    try:
        board = Board(settings, _make_store(settings, clock), clock, RandomIds())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, board.stop)
        loop.add_signal_handler(signal.SIGHUP, board.reopen_logs)
        await board.run(ready)
    except (KeyMissing, StoreError, OSError) as error:
        sys.stderr.write(f"error: the board cannot run: {error}\n")
        return 1
    finally:
        ready.cancel()
    return 0


def _make_store(settings: BoardSettings, clock: Clock) -> Store:
    if settings.database is not None:
        data = settings.database
    else:
        data = ":memory:" if settings.data is None else str(settings.data / "board.sqlite3")
    return make_store(data, sealer=make_sealer(settings), clock=clock)


def _say_ready(ready: asyncio.Future[str]) -> None:
    """The one line a script waits for."""
    if not ready.cancelled():
        sys.stdout.write(f"ready {ready.result()}\n")
        sys.stdout.flush()
