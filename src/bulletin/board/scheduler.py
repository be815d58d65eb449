"""Finds a cell for every pending task (design section 6, rows "full cluster" and "when placement happens").

It keeps two sets of pending tasks: the fresh, not looked at since they came, and the parked, for which no present
cell has room now. Fresh ones are planned at once; parked ones when room came: a container gone, a cell come. What
no cell could ever hold is rejected and left to convergence, as in Diego. Deciding is ``core.placement``'s.

With no cell at all nothing is rejected here: cells that dial a board just started must not find their tasks with a
try used up. Convergence does that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, Protocol

import structlog

from bulletin.board.metrics import BoardMetrics
from bulletin.board.writer import Writer
from bulletin.core import placement
from bulletin.core.errors import TaskError
from bulletin.core.model import CellState, Definition, Resources, Task, TaskState
from bulletin.core.operations import Reject

__all__ = ["Places", "Scheduler"]

log = structlog.get_logger("bulletin.board.scheduler")

#: Tasks in one plan: keeps the loop free between plans.
_PLAN_TASKS_MAX: Final = 500

#: What decides where a task can go; tasks of one shape find room or not together.
Shape = tuple[str, Resources, tuple[str, ...], tuple[str, ...]]


class Places(Protocol):
    """Where tasks can go: the board's cells."""

    def states(self) -> list[CellState]:
        """The cells that take work, with what is left of each."""
        ...

    def holder(self, guid: str) -> str | None:
        """The cell that has the task, or was given it."""
        ...

    def assign(self, cell_id: str, task: Task) -> bool:
        """Give a cell a task; False when the cell has gone meanwhile."""
        ...


class Scheduler:
    """Places pending tasks on cells; see the module."""

    def __init__(
        self, writer: Writer, places: Places, policy: placement.Policy, metrics: BoardMetrics | None = None
    ) -> None:
        self._writer = writer
        self._metrics = metrics or BoardMetrics()
        self._places = places
        self._policy = policy
        self._fresh: dict[str, None] = {}
        self._parked: dict[Shape, dict[str, None]] = {}
        self._shapes: dict[str, Shape] = {}
        #: Shapes of parked tasks to try again: room came, or the last try of the shape found some.
        self._untried: dict[Shape, None] = {}
        self._wake = asyncio.Event()

    @property
    def waiting_count(self) -> int:
        """How many tasks wait for a cell or for room."""
        return len(self._fresh) + len(self._shapes)

    def offer(self, guid: str) -> None:
        """A task is pending; harmless to say again."""
        if guid not in self._fresh and guid not in self._shapes:
            self._fresh[guid] = None
            self._wake.set()

    def offer_all_pending(self) -> None:
        """Look at every pending task again: a cell has come that may suit those refused before."""
        for guid, task in self._writer.tasks.items():
            if task.state is TaskState.PENDING:
                self.offer(guid)
        self.room()

    def forget(self, guid: str) -> None:
        """The task is not pending any more."""
        self._fresh.pop(guid, None)
        self._unpark(guid)

    def room(self) -> None:
        """There is room that was not there before."""
        self._untried.update(dict.fromkeys(self._parked))
        if self._has_more():
            self._wake.set()

    async def run(self) -> None:
        """Plan whenever there is something to plan; for ever."""
        while True:
            self._wake.clear()
            if self.plan_once():
                self._wake.set()
                await asyncio.sleep(0)
            await self._wake.wait()

    def plan_once(self) -> bool:
        """One plan over a bounded number of tasks; True when there is more to plan now."""
        cells = self._places.states()
        if not cells:
            return False
        candidates = self._candidates(cells)
        if not candidates:
            return self._has_more()
        plan = placement.plan(cells, [placement.Pending.of(task) for task in candidates.values()], self._policy)
        for guid, cell_id in plan.placements:
            shape = self._shapes.get(guid)
            self.forget(guid)
            if shape in self._parked:
                self._untried[shape] = None
            if self._places.assign(cell_id, candidates[guid]):
                self._metrics.placements += 1
            else:
                self.offer(guid)
        self._refuse(plan.refusals)
        for guid in plan.waiting:
            self._park(guid, candidates[guid].definition)
        return self._has_more()

    def _has_more(self) -> bool:
        return bool(self._fresh or self._untried)

    def _candidates(self, cells: list[CellState]) -> dict[str, Task]:
        """The tasks of the next plan: parked ones first, where there is room, then fresh ones."""
        guids: list[str] = []
        slots = sum(max(cell.available.containers, 0) for cell in cells)
        while self._untried and len(guids) < _PLAN_TASKS_MAX:
            shape = next(iter(self._untried))
            del self._untried[shape]
            guids.extend(islice(self._parked.get(shape, ()), min(slots, _PLAN_TASKS_MAX - len(guids))))
        fresh = list(islice(self._fresh, _PLAN_TASKS_MAX))
        for guid in fresh:
            del self._fresh[guid]
        return {task.guid: task for task in self._placeable([*guids, *fresh])}

    def _placeable(self, guids: Iterable[str]) -> Iterator[Task]:
        for guid in guids:
            task = self._writer.tasks.get(guid)
            if task is None or task.state is not TaskState.PENDING or self._places.holder(guid) is not None:
                self._unpark(guid)
            else:
                yield task

    def _refuse(self, refusals: Iterable[tuple[str, str]]) -> None:
        for guid, text in refusals:
            self.forget(guid)
            self._metrics.placements_refused += 1
            try:
                self._writer.submit(Reject(guid, text))
            except TaskError as error:
                # Cancelled in the same breath, or the store is behind: the next sweep finds it if it still matters.
                log.info("task.reject.refused", task_guid=guid, error=error.message)

    def _park(self, guid: str, definition: Definition) -> None:
        if guid not in self._shapes:
            shape = (
                definition.rootfs,
                definition.resources,
                definition.placement_tags,
                definition.volume_drivers,
            )
            self._shapes[guid] = shape
            self._parked.setdefault(shape, {})[guid] = None

    def _unpark(self, guid: str) -> None:
        shape = self._shapes.pop(guid, None)
        if shape is not None:
            parked = self._parked[shape]
            del parked[guid]
            if not parked:
                del self._parked[shape]
