"""A reign: the time from taking the lease to losing it, and everything a board has only for that time.

Memory, links, event streams and callbacks belong to one lease. When it is lost, or the store fails beyond the bound,
the reign ends as a whole and the next one starts from what is durable (design section 4, "the writer").

Where several boards compete for a store, a reign knows until when nobody else can have taken the lease: so long after
the last renewal was sent. Later it vouches for nothing (``is_vouched``), so a board that was paused and does not know
yet that it was replaced answers nobody out of its old memory. What it still writes the store refuses, by the epoch.
Wart: the machine's own clock measures that time, and it stands still while the whole machine is suspended.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from collections.abc import Set as AbstractSet
from typing import Any, Final

import structlog

from bulletin.board.callbacks import Callbacks
from bulletin.board.cells import Cells
from bulletin.board.converger import Converger
from bulletin.board.hub import Hub
from bulletin.board.metrics import BoardMetrics, Live
from bulletin.board.rotation import Rotation, check_keys
from bulletin.board.scheduler import Scheduler
from bulletin.board.settings import BoardSettings
from bulletin.board.writer import Writer, WriterEnded
from bulletin.core import lifecycle, limits, placement
from bulletin.core.errors import TaskError
from bulletin.core.operations import DeliverCallback, Effect, Place, Stop
from bulletin.seams import Clock
from bulletin.store.api import Lease, LeaseLost, Store, StoreError
from bulletin.wire.interning import Definitions

__all__ = ["Reign"]

log = structlog.get_logger("bulletin.board.reign")

#: Renewals in the time of a lease, so that one or two may fail.
_RENEWALS_A_LEASE: Final = 3
#: A renewal that failed is tried again so soon.
_RENEW_AGAIN_SECONDS: Final = 0.2


class Reign:
    """The parts of a board that holds the lease, wired together.

    Args:
        store: opened.
        lease: taken; goes with every commit.
        asked_at: monotonic seconds before the lease was asked for, where other boards compete for it; None where
            nobody can take it while this process lives.
        metrics: the process's own, which outlives this reign.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        clock: Clock,
        settings: BoardSettings,
        board_name: str,
        *,
        asked_at: float | None = None,
        metrics: BoardMetrics | None = None,
    ) -> None:
        self.clock = clock
        self.store = store
        self.metrics = metrics = metrics or BoardMetrics()
        self._lease = lease
        self._settings = settings
        self._is_contested = asked_at is not None
        #: Monotonic seconds.
        self._vouched_until = math.inf if asked_at is None else asked_at + settings.lease_seconds
        self.definitions = Definitions()
        self.hub = Hub(lease.epoch, settings.event_ring_max, metrics)
        self.writer = Writer(
            store,
            lease,
            clock,
            lifecycle.Policy(max_task_retries=settings.max_task_retries),
            publish=self.hub.publish,
            perform=self._perform,
            retry_seconds=settings.commit_retry_seconds,
            metrics=metrics,
        )
        self.cells = Cells(
            self.writer,
            clock,
            settings,
            board_name=board_name,
            metrics=metrics,
        )
        self.scheduler = Scheduler(
            self.writer,
            self.cells,
            placement.Policy(
                when_full=settings.when_full,
                starting_container_weight=settings.starting_container_weight,
                starting_container_count_maximum=settings.starting_container_count_max,
            ),
            metrics,
        )
        self.cells.listener = self.scheduler
        self.callbacks = Callbacks(self.writer, clock, settings, metrics)
        self.converger = Converger(
            self.writer, store, self.cells, self.scheduler, clock, settings, self.callbacks, metrics
        )

    def is_vouched(self) -> bool:
        """Whether what this reign knows is certainly the newest there is; answer nobody when it is not."""
        return self.clock.monotonic() < self._vouched_until

    def live(self) -> Live:
        """What stands here at this moment, for who scrapes."""
        now = self.clock.now_ns()
        domains = [domain for domain, fresh_until in self.writer.domains.items() if fresh_until > now]
        return Live(
            tasks=self.writer.counts,
            tasks_waiting=self.scheduler.waiting_count,
            domains=domains[: limits.METRIC_DOMAINS_MAX],
            domains_count=len(domains),
            cells=self.cells.present_count,
            cells_connected=self.cells.connected_count,
            subscribers=len(self.hub),
            callbacks_queued=self.callbacks.queued,
            callbacks_active=self.callbacks.active,
            changes_uncommitted=self.writer.uncommitted_count,
        )

    async def load(self) -> Rotation:
        """Fill the memory, find the work again that an earlier board left, and make ready for the active key.

        Raises:
            KeyMissing: rows are sealed with a key that is not here.
            StoreError: the store cannot be read.
            WriterEnded: the store, or the lease, was lost meanwhile.
        """
        configurations = await self.store.load_configurations()
        check_keys(configurations, self._settings)
        rotation = Rotation(
            self.writer, self.clock, self._settings, configurations, on_done=self.metrics.encryption_done
        )
        await self.writer.load()
        try:
            await rotation.begin()
        except TaskError as error:
            raise WriterEnded(error.message) from error
        self.scheduler.offer_all_pending()
        return rotation

    async def run(self, stop: asyncio.Event, *, on_loaded: Callable[[], None], on_end: Callable[[], None]) -> None:
        """Load, then rule until ``stop`` is set or the store is lost; afterwards nothing of it runs any more.

        Args:
            stop: ends the reign in an orderly way.
            on_loaded: called once the reign can answer.
            on_end: called when it cannot any more, before what was begun is brought to its end; in every case.

        Raises:
            WriterEnded: the lease or the store was lost; load again under a new lease.
            StoreError: the store could not be read.
            KeyMissing: see ``load``.
        """
        stopping = asyncio.create_task(stop.wait(), name="stop")
        writing = asyncio.create_task(self.writer.run(), name="writer")
        keeping = asyncio.create_task(self._keep_lease(), name="lease")
        guards = {stopping, writing, keeping}
        loading = asyncio.create_task(self.load(), name="load")
        drivers: set[asyncio.Task[Any]] = {loading}
        try:
            await _first({loading, *guards})
            if not any(guard.done() for guard in guards):
                on_loaded()
                drivers = {asyncio.create_task(run()) for run in self._drivers(loading.result())}
                await _first(drivers | guards)
        finally:
            on_end()
            self._vouched_until = -math.inf
            await self._end(writing, drivers)
            await _cancel({stopping, keeping})
        if writing.cancelled():
            raise WriterEnded("the last commit did not end in time")
        await writing

    def _drivers(self, rotation: Rotation) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """What runs while the board serves; none of them returns."""

        async def rotate() -> None:
            await rotation.run()
            await asyncio.get_running_loop().create_future()

        return [self.scheduler.run, self.callbacks.run, self.converger.run, rotate]

    async def _end(self, writing: asyncio.Task[None], drivers: AbstractSet[asyncio.Task[Any]]) -> None:
        """Stop taking work, let what was taken become durable unless all is lost, then let go."""
        await _cancel(drivers)
        await self.callbacks.close()
        self.writer.stop()
        if not self.writer.has_ended:
            await asyncio.wait({writing}, timeout=self._settings.commit_retry_seconds + 1)
        self.writer.end("the board is stopping")
        await _cancel({writing})  # harmless when it is done
        self.cells.close()
        self.hub.close()

    async def _keep_lease(self) -> None:
        """Renew the lease for ever.

        Raises:
            WriterEnded: it is somebody else's, or may be soon; the writer has ended too.
        """
        if not self._is_contested:
            await asyncio.get_running_loop().create_future()
        seconds = self._settings.lease_seconds
        pause = seconds / _RENEWALS_A_LEASE
        while True:
            await asyncio.sleep(pause)
            sent = self.clock.monotonic()
            # Also after a long pause of ours: the lease may still be free, and then nothing has happened.
            remaining = max(self._vouched_until - sent, seconds / _RENEWALS_A_LEASE)
            try:
                async with asyncio.timeout(remaining):
                    await self.store.renew(self._lease, seconds)
            except LeaseLost as error:
                raise self._lose(f"the lease was lost: {error}") from error
            except (StoreError, TimeoutError) as error:
                problem = str(error) or "no answer"
                if not self.is_vouched():
                    raise self._lose(f"the lease could not be renewed in time: {problem}") from error
                log.warning("lease.renew.failed", error=problem, again_seconds=_RENEW_AGAIN_SECONDS)
                pause = min(_RENEW_AGAIN_SECONDS, seconds / _RENEWALS_A_LEASE)
            else:
                self._vouched_until = sent + seconds
                pause = seconds / _RENEWALS_A_LEASE

    def _lose(self, reason: str) -> WriterEnded:
        self._vouched_until = -math.inf
        self.writer.end(reason)
        return WriterEnded(reason)

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Place(guid):
                    self.scheduler.offer(guid)
                case DeliverCallback(guid):
                    self.callbacks.submit(guid)
                case Stop(guid):
                    self.scheduler.forget(guid)
                    self.cells.stop(guid)


async def _first(tasks: AbstractSet[asyncio.Task[Any]]) -> None:
    """Wait until one of ``tasks`` is done; raises what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _cancel(tasks: AbstractSet[asyncio.Task[Any]]) -> None:
    """Cancel ``tasks`` and wait until they have ended, however they do."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
