"""The periodic sweep: finds every task that something was forgotten for (board-api.md section 7).

What to do with each task is ``core.convergence``'s; this drives it over all of them in slices, so that no request
waits behind a sweep of many thousands.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final, Protocol

import structlog

from bulletin.board.cells import Cells
from bulletin.board.metrics import BoardMetrics
from bulletin.board.scheduler import Scheduler
from bulletin.board.settings import BoardSettings
from bulletin.board.writer import Writer
from bulletin.core import convergence, placement
from bulletin.core.errors import TaskError
from bulletin.core.model import Task
from bulletin.core.operations import Reject
from bulletin.seams import Clock
from bulletin.store.api import Store, StoreError

__all__ = ["Converger"]

log = structlog.get_logger("bulletin.board.converger")

#: Tasks judged between two turns of the loop: about a millisecond.
_SLICE_TASKS: Final = 500
#: Changes made between two turns of the loop; stepped, encoded and committed they take it a few milliseconds.
_SLICE_CHANGES: Final = 50
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
        metrics: BoardMetrics | None = None,
    ) -> None:
        self._writer = writer
        self._store = store
        self._cells = cells
        self._scheduler = scheduler
        self._clock = clock
        self._settings = settings
        self._callbacks = callbacks
        self._metrics = metrics or BoardMetrics()
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
        began_at = self._clock.monotonic()
        present = self._cells.present()
        guids = deque(self._writer.tasks)
        changed = 0
        while guids:
            in_slice = self._sweep(guids, present)
            changed += in_slice
            # What a slice changed is durable before the next one: a sweep never fills the writer's queue.
            await (self._writer.settle() if in_slice else asyncio.sleep(0))
        broken = self._writer.discard_broken()
        self._metrics.convergence_pruned += broken
        pruned = broken + self._writer.prune_domains()
        try:
            await self._store.prune_outputs(self._clock.now_ns(), self._settings.output_store_bytes_max)
        except StoreError as error:
            log.warning("outputs.prune.failed", error=str(error))  # the next sweep tries again
        if changed or pruned:
            log.info("converged", changed=changed, pruned=pruned)
        self._metrics.convergence_runs += 1
        self._metrics.convergence_seconds = self._clock.monotonic() - began_at

    def _take(self, guids: deque[str]) -> Iterator[Task]:
        """The tasks of ``guids`` that are still there, each as it stands when it is asked for."""
        tasks = self._writer.tasks
        while guids:
            task = tasks.get(guids.popleft())
            if task is not None:
                yield task

    def _sweep(self, guids: deque[str], present: set[str]) -> int:
        """Judge the next tasks, and take them off ``guids``; returns how many changes came of it."""
        changed = 0
        takers = bool(self._cells.states())
        tasks = islice(self._take(guids), _SLICE_TASKS)
        for task, verdict in convergence.sweep(tasks, present, self._clock.now_ns(), self._policy):
            if self._callbacks.holds(task.guid):
                continue  # three slow attempts outlast the kick; who is being told is not forgotten
            self._metrics.convergence_kicked += verdict.is_kick
            self._metrics.convergence_pruned += verdict.is_prune
            if verdict.is_prune and task.definition.completion_callback_url:
                last = task.attempts[-1].problem if task.attempts else "never tried"
                log.error("callback.expired", task_guid=task.guid, attempts=len(task.attempts), last=last)  # promise L5
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
            if changed >= _SLICE_CHANGES:
                break
        return changed
