"""The task table: what each operation does to a task in each state (board-api.md section 6).

``step(task, operation, now, policy)`` takes the present and an operation and returns the next task, the events that
tell of it and the effects that have to follow once it is durable; or raises ``TaskError`` and nothing has changed.
Operations, events and effects are the values of ``core.operations``.

Rules: ``TABLE`` names every allowed (operation, state) pair and the states it may lead to; a pair that is not there
is refused, with the text ``REFUSED_TO`` gives. Times are nanoseconds since the epoch. Wart, kept on purpose:
``cell_id`` is cleared by Complete, Fail and Cancel, and kept by Reject, Expire and CellDisappeared, as in Diego.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from bulletin.core import errors
from bulletin.core.errors import ErrorType, TaskError
from bulletin.core.limits import CALLBACK_ATTEMPTS_KEPT, IDENTIFIER_CHARACTERS_MAX, REASON_BYTES_MAX
from bulletin.core.model import CallbackAttempt, Task, TaskState
from bulletin.core.operations import (
    Cancel,
    CellDisappeared,
    Complete,
    Delete,
    Deliver,
    DeliverCallback,
    Demote,
    Desire,
    Effect,
    Event,
    Expire,
    Fail,
    Operation,
    Place,
    Prune,
    RecordAttempts,
    Reject,
    Resolving,
    Start,
    Stop,
    TaskChanged,
    TaskCreated,
    TaskRemoved,
)

__all__ = [
    "CELL_DISAPPEARED",
    "NOT_STARTED_IN_TIME",
    "REFUSED_TO",
    "TABLE",
    "WAS_CANCELLED",
    "Policy",
    "Step",
    "cut_reason",
    "step",
]

WAS_CANCELLED = "task was cancelled"
NOT_STARTED_IN_TIME = "not started within time limit"
CELL_DISAPPEARED = "cell disappeared before completion"

P, R, C, S = TaskState.PENDING, TaskState.RUNNING, TaskState.COMPLETED, TaskState.RESOLVING


class Step(NamedTuple):
    """The outcome of one operation. ``task`` is None when the task is gone; ``changed`` is False for a no-op."""

    task: Task | None
    events: tuple[Event, ...] = ()
    effects: tuple[Effect, ...] = ()
    #: The answer of Start: whether the caller is the one to run it.
    should_start: bool = False
    changed: bool = True


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator may set of the lifecycle."""

    #: Rejections after which the next one fails the task: 3 allows four, 0 fails at the first (board-api.md 10).
    max_task_retries: int = 3


# -- the table ---------------------------------------------------------------------------------------------------

#: (operation, state before) -> states after; ``None`` is "no such task". What is missing is refused.
TABLE: dict[tuple[type[Operation], TaskState | None], tuple[TaskState | None, ...]] = {
    (Desire, None): (P,),
    (Desire, S): (P,),  # only when the callback was delivered: design section 6, resolved_retention
    (Start, P): (R,),
    (Start, R): (R,),  # the same cell again: no change, no event, should_start is False
    (Complete, R): (C,),
    (Fail, P): (C,),
    (Fail, R): (C,),
    (Cancel, P): (C,),
    (Cancel, R): (C,),
    (Reject, P): (P, C),
    (Reject, R): (P, C),
    (Resolving, C): (S,),
    (Deliver, S): (S,),  # no event; the second time no change either
    (RecordAttempts, S): (S,),  # no event
    (Delete, S): (None,),
    (Expire, P): (C,),
    (CellDisappeared, R): (C,),
    (Demote, S): (C,),  # only while the callback was not delivered
    (Prune, C): (None,),
}

#: The state an error text names as the goal of a refused operation (board-api.md 4.4; Delete's is sic).
REFUSED_TO: dict[type[Operation], TaskState] = {
    Start: R,
    Complete: C,
    Fail: C,
    Cancel: C,
    Reject: C,
    Resolving: S,
    Deliver: S,
    RecordAttempts: S,
    Delete: S,
    Expire: C,
    CellDisappeared: C,
    Demote: C,
    Prune: C,
}


def step(task: Task | None, operation: Operation, now: int, policy: Policy) -> Step:
    """Apply ``operation`` to ``task`` (None: no task has that guid) at time ``now``.

    Returns:
        The next task with its events and effects.

    Raises:
        TaskError: the operation is refused; types and texts of board-api.md 4.4.
    """
    if len(operation.guid) > IDENTIFIER_CHARACTERS_MAX:
        raise errors.bad_request()
    if isinstance(operation, Desire):
        # Before the guid is looked for: a row that cannot be is refused as such.
        if len(operation.domain) > IDENTIFIER_CHARACTERS_MAX:
            raise errors.bad_request()
        if "\0" in operation.domain or "\0" in operation.guid:
            raise errors.unstorable()
    kind = type(operation)
    state = None if task is None else task.state
    if (kind, state) not in TABLE:
        raise _refusal(task, operation, policy)
    return _HANDLERS[kind](task, operation, now, policy)


def cut_reason(reason: str) -> str:
    """Cut a reason of 1024 bytes or more to at most 1024, on a character boundary (board-api.md section 6).

    The reference cuts bytes; section 15, surprise 20 says why we do not.
    """
    encoded = reason.encode("utf-8", "replace")
    if len(encoded) < REASON_BYTES_MAX:
        return reason
    mark = "(truncated)"
    return encoded[: REASON_BYTES_MAX - len(mark)].decode("utf-8", "ignore") + mark


def _refusal(task: Task | None, operation: Operation, policy: Policy) -> TaskError:
    if task is None:
        return TaskError(ErrorType.RESOURCE_NOT_FOUND)
    if isinstance(operation, Desire):
        return TaskError(ErrorType.RESOURCE_EXISTS)
    if isinstance(operation, Reject) and task.rejection_count < policy.max_task_retries:
        return errors.bad_request()
    return errors.transition(task.state.label, REFUSED_TO[type(operation)].label)


def _desire(task: Task | None, operation: Desire, now: int, _policy: Policy) -> Step:
    if task is not None and not task.delivered_at:
        raise TaskError(ErrorType.RESOURCE_EXISTS)
    created = Task(operation.guid, operation.domain, operation.definition, P, now, now)
    events: tuple[Event, ...] = (TaskCreated(created),)
    if task is not None:
        events = (TaskRemoved(task), *events)
    return Step(created, events, (Place(created.guid),))


def _start(task: Task, operation: Start, now: int, _policy: Policy) -> Step:
    if len(operation.cell_id) > IDENTIFIER_CHARACTERS_MAX:
        raise errors.bad_request()
    if task.state is R:
        if task.cell_id != operation.cell_id:
            raise errors.transition(R.label, R.label)
        return Step(task, changed=False)
    if "\0" in operation.cell_id:
        raise errors.unstorable()
    after = _with(task, state=R, updated_at=now, cell_id=operation.cell_id)
    return Step(after, (TaskChanged(task, after),), (), should_start=True)


def _complete(task: Task, operation: Complete, now: int, _policy: Policy) -> Step:
    if len(operation.cell_id) > IDENTIFIER_CHARACTERS_MAX:
        raise errors.bad_request()
    if task.cell_id != operation.cell_id:
        raise errors.conflicting_cell(task.cell_id, operation.cell_id)
    if "\0" in operation.failure_reason or "\0" in operation.result:
        raise errors.unstorable()
    after = _end(task, now, failed=operation.failed, reason=operation.failure_reason, result=operation.result)
    return Step(after, (TaskChanged(task, after),), _end_effects(task))


def _fail(task: Task, operation: Fail, now: int, _policy: Policy) -> Step:
    if "\0" in operation.reason:
        raise errors.unstorable()
    return _failed(task, operation.reason, now)


def _cancel(task: Task, _operation: Cancel, now: int, _policy: Policy) -> Step:
    return _failed(task, WAS_CANCELLED, now)


def _reject(task: Task, operation: Reject, now: int, policy: Policy) -> Step:
    if "\0" in operation.reason:
        raise errors.unstorable()
    reason = cut_reason(operation.reason)
    rejected = _with(task, state=P, updated_at=now, rejection_count=task.rejection_count + 1, rejection_reason=reason)
    if task.rejection_count < policy.max_task_retries:
        return Step(rejected, (TaskChanged(task, rejected),), (Stop(task.guid, task.cell_id),))
    after = _end(rejected, now, failed=True, reason=reason, result="")
    # One event only, for the failing; what it shows as before has the new count already (board-api.md section 6).
    return Step(after, (TaskChanged(rejected, after),), _end_effects(task))


def _resolving(task: Task, _operation: Resolving, now: int, _policy: Policy) -> Step:
    after = _with(task, state=S, updated_at=now)
    return Step(after, (TaskChanged(task, after),))


def _deliver(task: Task, operation: Deliver, now: int, _policy: Policy) -> Step:
    if task.delivered_at:
        return _recorded(task, operation.attempts)  # Told twice is told once: the retention runs from the first time.
    return Step(_with(task, delivered_at=now, attempts=_kept(task, operation.attempts)))


def _record_attempts(task: Task, operation: RecordAttempts, _now: int, _policy: Policy) -> Step:
    return _recorded(task, operation.attempts)


def _remove(task: Task, _operation: Delete | Prune, _now: int, _policy: Policy) -> Step:
    return Step(None, (TaskRemoved(task),))


def _expire(task: Task, _operation: Expire, now: int, _policy: Policy) -> Step:
    return _abandoned(task, NOT_STARTED_IN_TIME, now)


def _cell_disappeared(task: Task, _operation: CellDisappeared, now: int, _policy: Policy) -> Step:
    return _abandoned(task, CELL_DISAPPEARED, now)


def _demote(task: Task, _operation: Demote, _now: int, _policy: Policy) -> Step:
    if task.delivered_at:
        raise errors.transition(S.label, C.label)  # Its outcome was told; a kick would tell it again.
    after = _with(task, state=C)
    return Step(after, (TaskChanged(task, after),))


def _recorded(task: Task, attempts: tuple[CallbackAttempt, ...]) -> Step:
    if not attempts:
        return Step(task, changed=False)
    return Step(_with(task, attempts=_kept(task, attempts)))


def _kept(task: Task, attempts: tuple[CallbackAttempt, ...]) -> tuple[CallbackAttempt, ...]:
    """Those of ``task`` and then ``attempts``, of all of them the newest."""
    return (task.attempts + attempts)[-CALLBACK_ATTEMPTS_KEPT:]


def _failed(task: Task, reason: str, now: int) -> Step:
    after = _end(task, now, failed=True, reason=reason, result="")
    return Step(after, (TaskChanged(task, after),), _end_effects(task))


def _abandoned(task: Task, reason: str, now: int) -> Step:
    """Failed by convergence: the cell_id stays, and the callback waits for the kick (board-api.md section 7)."""
    after = _end(task, now, failed=True, reason=reason, result="", cell_id=task.cell_id)
    return Step(after, (TaskChanged(task, after),), (Stop(task.guid, task.cell_id),))


def _end(task: Task, now: int, *, failed: bool, reason: str, result: str, cell_id: str = "") -> Task:
    return _with(
        task,
        state=C,
        updated_at=now,
        first_completed_at=now,
        cell_id=cell_id,
        failed=failed,
        failure_reason=cut_reason(reason),
        result=result,
    )


def _end_effects(before: Task) -> tuple[Effect, ...]:
    stop = Stop(before.guid, before.cell_id)
    if before.definition.completion_callback_url:
        return (DeliverCallback(before.guid), stop)
    return (stop,)


def _with(
    task: Task,
    *,
    state: TaskState | None = None,
    updated_at: int | None = None,
    first_completed_at: int | None = None,
    cell_id: str | None = None,
    result: str | None = None,
    failed: bool | None = None,
    failure_reason: str | None = None,
    rejection_count: int | None = None,
    rejection_reason: str | None = None,
    delivered_at: int | None = None,
    attempts: tuple[CallbackAttempt, ...] | None = None,
) -> Task:
    return Task(
        task.guid,
        task.domain,
        task.definition,
        task.state if state is None else state,
        task.created_at,
        task.updated_at if updated_at is None else updated_at,
        task.first_completed_at if first_completed_at is None else first_completed_at,
        task.cell_id if cell_id is None else cell_id,
        task.result if result is None else result,
        task.failed if failed is None else failed,
        task.failure_reason if failure_reason is None else failure_reason,
        task.rejection_count if rejection_count is None else rejection_count,
        task.rejection_reason if rejection_reason is None else rejection_reason,
        task.delivered_at if delivered_at is None else delivered_at,
        task.attempts if attempts is None else attempts,
    )


_Handler = Callable[..., Step]
_HANDLERS: dict[type[Operation], _Handler] = {
    Desire: _desire,
    Start: _start,
    Complete: _complete,
    Fail: _fail,
    Cancel: _cancel,
    Reject: _reject,
    Resolving: _resolving,
    Deliver: _deliver,
    RecordAttempts: _record_attempts,
    Delete: _remove,
    Expire: _expire,
    CellDisappeared: _cell_disappeared,
    Demote: _demote,
    Prune: _remove,
}
