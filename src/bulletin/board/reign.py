"""A reign: the time from taking the lease to losing it, and everything a board has only for that time.

Memory, links, event streams and callbacks belong to one lease. When it is lost, or the store fails beyond the bound,
the reign ends as a whole and the next one starts from what is durable (design section 4, "the writer").
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from bulletin.board.callbacks import Callbacks
from bulletin.board.cells import Cells
from bulletin.board.converger import Converger
from bulletin.board.hub import Hub
from bulletin.board.scheduler import Scheduler
from bulletin.board.settings import BoardSettings
from bulletin.board.writer import Writer
from bulletin.core import lifecycle, placement
from bulletin.core.lifecycle import DeliverCallback, Effect, Place, Stop
from bulletin.seams import Clock
from bulletin.store.api import Lease, LeaseLost, Store, StoreError

__all__ = ["Reign"]

log = structlog.get_logger("bulletin.board.reign")


class Reign:
    """The parts of a board that holds the lease, wired together."""

    def __init__(self, store: Store, lease: Lease, clock: Clock, settings: BoardSettings, board_name: str) -> None:
        self.clock = clock
        self.store = store
        self._lease = lease
        self._settings = settings
        self.hub = Hub()
        self.writer = Writer(
            store,
            lease,
            clock,
            lifecycle.Policy(max_task_retries=settings.max_task_retries),
            publish=self.hub.publish,
            perform=self._perform,
            retry_seconds=settings.commit_retry_seconds,
        )
        self.cells = Cells(
            self.writer,
            clock,
            settings,
            board_name=board_name,
        )
        self.scheduler = Scheduler(
            self.writer,
            self.cells,
            placement.Policy(
                when_full=settings.when_full,
                starting_container_weight=settings.starting_container_weight,
                starting_container_count_maximum=settings.starting_container_count_max,
            ),
        )
        self.cells.listener = self.scheduler
        self.callbacks = Callbacks(self.writer, clock, settings)
        self.converger = Converger(self.writer, store, self.cells, self.scheduler, clock, settings, self.callbacks)

    async def load(self) -> None:
        """Fill the memory and find the work again that an earlier board left.

        Raises:
            StoreError: the store cannot be read.
        """
        await self.writer.load()
        self.scheduler.offer_all_pending()

    async def run(self, stop: asyncio.Event) -> None:
        """Rule until ``stop`` is set or the store is lost; afterwards nothing of it runs any more.

        Raises:
            WriterEnded: the store was lost; load again under a new lease.
        """
        writing = asyncio.create_task(self.writer.run(), name="writer")
        drivers: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self.scheduler.run,
            self.callbacks.run,
            self.converger.run,
            self._keep_lease,
        ]
        others = [asyncio.create_task(driver()) for driver in drivers]
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait({writing, stopping, *others}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {writing, stopping}:
                task.result()  # a driver never returns: this raises its defect
        finally:
            await self._end(writing, [stopping, *others])
        await writing

    async def _end(self, writing: asyncio.Task[None], others: list[asyncio.Task[Any]]) -> None:
        """Stop taking work, let what was taken become durable, then let go."""
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.callbacks.close()
        self.writer.stop()
        await asyncio.wait({writing}, timeout=self._settings.commit_retry_seconds + 1)
        writing.cancel()
        self.cells.close()
        self.hub.close()

    async def _keep_lease(self) -> None:
        seconds = self._settings.lease_seconds
        while True:
            await asyncio.sleep(seconds / 3)
            try:
                await self.store.renew(self._lease, seconds)
            except LeaseLost as error:
                self.writer.end(f"the lease was lost: {error}")
                return
            except StoreError as error:
                log.warning("lease.renew.failed", error=str(error))

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
