"""The periodic sweep: what time alone does to a task (board-api.md section 7, design section 6).

``judge`` looks at one task and says what is due. It keeps no state, so a driver may sweep tens of thousands of tasks in
slices, between which it lets others run, as long as it judges each task as it stands at that moment.

Rules: comparisons are strict, so a task exactly at its bound is left alone, and a Pending one exactly at its bound is
neither expired nor placed. The steps follow one another on the same task: one that is demoted may be pruned or kicked
at once. A task whose callback was delivered is never demoted; it goes after its retention.

Which cells are present is the caller's to know. An empty set fails every Running task, so the caller must not ask
before its cells had a chance to connect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from bulletin.core.model import Task, TaskState
from bulletin.core.operations import CellDisappeared, Delete, Demote, Expire, Operation, Prune

__all__ = ["NOTHING", "Policy", "Verdict", "count_by_state", "judge", "sweep"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator may set of convergence. The driver paces itself by ``repeat_interval_seconds``."""

    #: From the end of one sweep to the next, and from the start of the board to the first.
    repeat_interval_seconds: float = 30.0
    #: How long a Resolving task is left to its resolver, and a Completed one to whoever completed it.
    kick_task_seconds: float = 30.0
    #: How long a task may be Pending, counted from created_at: rejections do not prolong it.
    expire_pending_task_seconds: float = 1800.0
    #: How long a task is kept after its first completion when nobody takes it on.
    expire_completed_task_seconds: float = 120.0
    #: How long after its first completion a task's callback is tried (``callbacks.Policy``); it is kept as long.
    callback_expiry_seconds: float = 120.0
    #: How long a task stays readable after its callback was delivered.
    resolved_retention_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is due for one task."""

    #: To apply in this order.
    operations: tuple[Operation, ...] = ()
    #: Ask again for a cell; harmless for a task that waits for one already.
    place: bool = False
    #: Hand to the callback workers, after the operations.
    callback: bool = False

    def __bool__(self) -> bool:
        return bool(self.operations) or self.place or self.callback

    @property
    def is_kick(self) -> bool:
        """Whether it counts as kicked: rows of steps 1, 2, 3 and 6."""
        return (
            self.place or self.callback or any(isinstance(each, Expire | CellDisappeared) for each in self.operations)
        )

    @property
    def is_prune(self) -> bool:
        """Whether it counts as pruned: rows of step 5."""
        return any(isinstance(each, Prune) for each in self.operations)


NOTHING: Final = Verdict()
_PLACE: Final = Verdict(place=True)
_CALL: Final = Verdict(callback=True)


def judge(task: Task, cells: AbstractSet[str], now: int, policy: Policy) -> Verdict:
    """What is due for ``task`` at ``now`` (ns) when the cells with the ids ``cells`` are present."""
    match task.state:
        case TaskState.PENDING:
            return _judge_pending(task, now, policy)
        case TaskState.RUNNING:
            return NOTHING if task.cell_id in cells else Verdict((CellDisappeared(task.guid),))
        case TaskState.RESOLVING:
            return _judge_resolving(task, now, policy)
        case TaskState.COMPLETED:
            return _judge_completed(task, now, policy)
    return NOTHING


def sweep(tasks: Iterable[Task], cells: AbstractSet[str], now: int, policy: Policy) -> Iterator[tuple[Task, Verdict]]:
    """Judge each of ``tasks``; yields those for which something is due, with what it is."""
    for task in tasks:
        verdict = judge(task, cells, now, policy)
        if verdict:
            yield task, verdict


def count_by_state(tasks: Iterable[Task]) -> dict[TaskState, int]:
    """How many of ``tasks`` stand in each state (step 7); every state a task can have is listed."""
    counts = Counter(task.state for task in tasks)
    return {state: counts[state] for state in TaskState if state is not TaskState.INVALID}


def _after(time_ns: int, seconds: float) -> int:
    return time_ns + round(seconds * 1e9)


def _judge_pending(task: Task, now: int, policy: Policy) -> Verdict:
    """Steps 1 and 2."""
    expires_at = _after(task.created_at, policy.expire_pending_task_seconds)
    if expires_at < now:
        return Verdict((Expire(task.guid),))
    return _PLACE if expires_at > now else NOTHING


def _judge_resolving(task: Task, now: int, policy: Policy) -> Verdict:
    """Step 4, then 5 and 6 for the task as it stands after it: demoting leaves its times alone."""
    if task.delivered_at:
        kept = _after(task.delivered_at, policy.resolved_retention_seconds) >= now
        return NOTHING if kept else Verdict((Delete(task.guid),))
    if _after(task.updated_at, policy.kick_task_seconds) >= now:
        return NOTHING
    then = _judge_completed(task, now, policy)
    return Verdict((Demote(task.guid), *then.operations), callback=then.callback)


def _judge_completed(task: Task, now: int, policy: Policy) -> Verdict:
    """Steps 5 and 6; what was pruned is not there to be kicked."""
    has_callback = bool(task.definition.completion_callback_url)
    told_until = _after(task.first_completed_at, policy.callback_expiry_seconds)
    kept_until = _after(task.first_completed_at, policy.expire_completed_task_seconds)
    if max(kept_until, told_until if has_callback else 0) < now:
        return Verdict((Prune(task.guid),))
    is_due = has_callback and _after(task.updated_at, policy.kick_task_seconds) < now <= told_until
    return _CALL if is_due else NOTHING
