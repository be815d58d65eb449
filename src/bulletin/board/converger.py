"""The periodic sweep: finds every task that something was forgotten for (board-api.md section 7).

What to do with each task is ``core.convergence``'s; this drives it over all of them in slices, so that no request
waits behind a sweep of many thousands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Final, Protocol

import structlog

from bulletin.board.cells import Cells
from bulletin.board.scheduler import Scheduler
from bulletin.board.settings import BoardSettings
from bulletin.board.writer import Writer
from bulletin.core import convergence, placement
from bulletin.core.errors import TaskError
from bulletin.core.lifecycle import Reject
from bulletin.core.model import Task
from bulletin.seams import Clock
from bulletin.store.api import Store, StoreError

__all__ = ["Converger"]

log = structlog.get_logger("bulletin.board.converger")

#: Tasks judged between two turns of the loop: about a millisecond.
_SLICE_TASKS: Final = 500
#: Cells are looked at more often than tasks: their promises are shorter (L2, L3).
_CELL_SWEEP_SECONDS: Final = 1.0


class Tellers(Protocol):
    """Who tells callbacks."""

    def submit(self, guid: str) -> None:
        """Tell the callback of a Completed task."""
        ...

    def holds(self, guid: str) -> bool:
        """Whether it is being told."""
        ...


class Converger:
    """Sweeps the tasks every ``converge_repeat_interval``, the first time one interval after the start."""

    def __init__(
        self,
        writer: Writer,
        store: Store,
        cells: Cells,
        scheduler: Scheduler,
        clock: Clock,
        settings: BoardSettings,
        callbacks: Tellers,
    ) -> None:
        self._writer = writer
        self._store = store
        self._cells = cells
        self._scheduler = scheduler
        self._clock = clock
        self._settings = settings
        self._callbacks = callbacks
        self._policy = convergence.Policy(
            repeat_interval_seconds=settings.converge_repeat_interval_seconds,
            kick_task_seconds=settings.kick_task_duration_seconds,
            expire_pending_task_seconds=settings.expire_pending_task_duration_seconds,
            expire_completed_task_seconds=settings.expire_completed_task_duration_seconds,
            callback_expiry_seconds=settings.callback_expiry_seconds,
            resolved_retention_seconds=settings.resolved_retention_seconds,
        )

    async def run(self) -> None:
        """Sweep for ever."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._settings.converge_repeat_interval_seconds
        while True:
            await asyncio.sleep(min(_CELL_SWEEP_SECONDS, self._settings.converge_repeat_interval_seconds))
            self._cells.sweep()
            if loop.time() >= due:
                await self.converge()
                due = loop.time() + self._settings.converge_repeat_interval_seconds

    async def converge(self) -> None:
        """One sweep over every task there is when it begins."""
        present = self._cells.present()
        tasks = iter(list(self._writer.tasks))
        changed = 0
        while guids := list(islice(tasks, _SLICE_TASKS)):
            in_slice = self._sweep(self._live(guids), present)
            changed += in_slice
            # What a slice changed is durable before the next one: a sweep never fills the writer's queue.
            await (self._writer.settle() if in_slice else asyncio.sleep(0))
        pruned = self._writer.discard_broken() + self._writer.prune_domains()
        try:
            await self._store.prune_outputs(self._clock.now_ns(), self._settings.output_store_bytes_max)
        except StoreError as error:
            log.warning("outputs.prune.failed", error=str(error))  # the next sweep tries again
        if changed or pruned:
            log.info("converged", changed=changed, pruned=pruned)

    def _live(self, guids: Iterable[str]) -> Iterable[Task]:
        tasks = self._writer.tasks
        return [tasks[guid] for guid in guids if guid in tasks]

    def _sweep(self, tasks: Iterable[Task], present: set[str]) -> int:
        changed = 0
        takers = bool(self._cells.states())
        for task, verdict in convergence.sweep(tasks, present, self._clock.now_ns(), self._policy):
            if self._callbacks.holds(task.guid):
                continue  # three slow attempts outlast the kick; who is being told is not forgotten
            operations = verdict.operations
            if verdict.place and not takers and self._cells.holder(task.guid) is None:
                operations = (*operations, Reject(task.guid, placement.NO_CELLS))
            elif verdict.place:
                self._scheduler.offer(task.guid)
            for operation in operations:
                try:
                    self._writer.submit(operation)
                    changed += 1
                except TaskError as error:
                    log.info("converge.refused", task_guid=task.guid, error=error.message)
                    break
            else:
                if verdict.callback:
                    self._callbacks.submit(task.guid)
        return changed
