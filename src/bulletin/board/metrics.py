"""What a board counts (board-api.md 14.2, with our own beside it); ``exposition`` shows it to scrapers.

``BoardMetrics`` is one per process and outlives every reign. The parts of a board add to its plain fields where the
thing happens; what has a present value (tasks by state, cells, queues) is asked of the reign that rules, by ``live``,
when somebody scrapes. Counters of tasks count what was stepped: a change that was lost with its commit stays counted.

Bounds: values of labels are tables of ours, or cut off: cells at ``CELLS_MAX``, the one idle longest goes first;
domains at ``METRIC_DOMAINS_MAX``.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from bulletin.core import callbacks, limits
from bulletin.core.model import TaskState
from bulletin.core.operations import Complete, Operation, Start
from bulletin.telemetry.metrics import Histogram

__all__ = ["BoardMetrics", "Live", "RouteMetrics"]

K = TypeVar("K")

#: A count for each key there was. A ``collections.Counter`` takes three times as long to add one.
Counts: TypeAlias = defaultdict[K, int]

#: Rows in one commit; the last bound is the most changes that go into one.
_COMMIT_ROWS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, limits.COMMIT_CHANGES_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What a ruling board is at one moment."""

    #: By ``TaskState``: how many tasks stand in it.
    tasks: Sequence[int] = (0,) * len(TaskState)
    tasks_waiting: int = 0
    #: Fresh domains, the first ``METRIC_DOMAINS_MAX``, and how many there are.
    domains: Sequence[str] = ()
    domains_count: int = 0
    #: Here, or gone for less than the presence's time to live.
    cells: int = 0
    #: With a link.
    cells_connected: int = 0
    subscribers: int = 0
    callbacks_queued: int = 0
    callbacks_active: int = 0
    changes_uncommitted: int = 0


class RouteMetrics:
    """The requests of one route."""

    __slots__ = ("latency", "results")

    def __init__(self) -> None:
        self.results: Counts[str] = defaultdict(int)
        self.latency = Histogram()

    def observe(self, seconds: float, result: str) -> None:
        """A call was answered after ``seconds``."""
        self.results[result] += 1
        self.latency.observe(seconds)


@dataclass(slots=True)
class _CellTasks:
    """What became of the tasks of one cell, since this process started."""

    started: int = 0
    succeeded: int = 0
    failed: int = 0


class BoardMetrics:
    """The numbers of one board process; see the module. Every public field may be added to by whoever it names."""

    def __init__(self) -> None:
        self.routes: dict[str, RouteMetrics] = {}
        #: The writer: what was done, by kind, no-ops and refusals left out.
        self.operations: Counts[type[Operation]] = defaultdict(int)
        self._cells: OrderedDict[str, _CellTasks] = OrderedDict()
        # The store, by the name of its operation (``metered``).
        self.queries: Counts[str] = defaultdict(int)
        self.queries_failed: Counts[str] = defaultdict(int)
        self.queries_in_flight = 0
        self.query_seconds: dict[str, Histogram] = {}
        self.commit_rows = Histogram(_COMMIT_ROWS)
        # The lease, and the rotation of keys.
        self.lock_held = False
        self.reigns = 0
        self.encryption_seconds = 0.0
        # Convergence; the duration is the last run's.
        self.convergence_runs = 0
        self.convergence_kicked = 0
        self.convergence_pruned = 0
        self.convergence_seconds = 0.0
        # Scheduler: tasks given to a cell, and tasks no cell could ever hold.
        self.placements = 0
        self.placements_refused = 0
        # Callbacks: attempts by what came of them.
        self.callback_attempts: Counts[str] = defaultdict(int)
        self.callback_seconds = Histogram()
        # Hub: events that somebody listened to, each once a subscriber; subscribers that fell behind.
        self.events_sent = 0
        self.subscribers_dropped = 0
        # Links.
        self.frames_received = 0
        self.frames_sent = 0
        self.access_log_dropped = 0
        #: Asks the board that rules; None while none does.
        self.live: Callable[[], Live] | None = None

    def route(self, name: str) -> RouteMetrics:
        """What counts the requests of a route; the same for the same name."""
        return self.routes.setdefault(name, RouteMetrics())

    def stepped(self, operation: Operation) -> None:
        """The writer changed a task."""
        kind = type(operation)
        self.operations[kind] += 1
        if kind is Start:
            self._cell(operation.cell_id).started += 1  # type: ignore[union-attr]  # as kind says, at half the price
        elif kind is Complete:
            tasks = self._cell(operation.cell_id)  # type: ignore[union-attr]
            if operation.failed:  # type: ignore[union-attr]
                tasks.failed += 1
            else:
                tasks.succeeded += 1

    def called_back(self, outcome: callbacks.Outcome, seconds: float) -> None:
        """An attempt to tell a callback ended."""
        self.callback_seconds.observe(seconds)
        match outcome:
            case callbacks.Answered(status):
                label = "try_later" if callbacks.problem(outcome) else f"status_{status // 100}xx"
            case callbacks.Unreachable(failure):
                label = failure.name.lower()
            case callbacks.TimedOut():
                label = "timed_out"
            case callbacks.ConnectionClosed():
                label = "connection_closed"
        self.callback_attempts[label] += 1

    def encryption_done(self, seconds: float) -> None:
        """Every task was sealed with a new key."""
        self.encryption_seconds = seconds

    def _cell(self, cell_id: str) -> _CellTasks:
        """The counters of a cell. Any name may come over the wire, so the longest idle makes room for a new one."""
        tasks = self._cells.get(cell_id)
        if tasks is None:
            if len(self._cells) >= limits.CELLS_MAX:
                self._cells.popitem(last=False)
            tasks = self._cells[cell_id] = _CellTasks()
        else:
            self._cells.move_to_end(cell_id)
        return tasks

    def cells(self) -> Iterator[tuple[str, int, int, int]]:
        """Each cell with its tasks started, succeeded and failed."""
        for cell_id, tasks in self._cells.items():
            yield cell_id, tasks.started, tasks.succeeded, tasks.failed
