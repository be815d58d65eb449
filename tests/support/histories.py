"""Whether what several clients saw of a task fits one order of events (linearizability), and whether events do.

A history is what was called and answered about one guid. ``check_history`` looks for an order of its calls that keeps
to their times and to the model's table, and in which every answer is the right one. A call whose answer never came may
have happened or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from support.model import NOT_FOUND, Answer, Call, Event, ModelTask, apply_call

__all__ = ["Done", "bare", "check_events", "check_history"]

#: States after which each state may come, by events; of the same task, and with its outcome kept (S3, S4).
FOLLOWING = {
    "Pending": {"Pending", "Running", "Completed"},
    "Running": {"Pending", "Completed"},
    "Completed": {"Resolving"},
    "Resolving": {"Completed"},
}
#: More partial orders than this is a history that is too concurrent for its check, not a wrong one.
ORDERS_MAX = 200_000


@dataclass(slots=True)
class Done:
    """One call, or one look, and what came of it.

    ``call`` None is a look: ``answer`` is the task as it was seen, or that there was none. A look of ``outcome_only``
    is a callback: the task was Resolving with that outcome. ``answer`` None: nobody knows.
    """

    call: Call | None
    answer: Answer | ModelTask | None
    began: float
    ended: float = math.inf
    outcome_only: bool = False


def bare(task: ModelTask) -> ModelTask:
    """A task without its times."""
    return replace(task, created_at=0, updated_at=0, first_completed_at=0, told_at=None)


def check_history(guid: str, history: Sequence[Done], retries: int = 3) -> None:
    """Fail when no order explains the answers."""
    operations = sorted(history, key=lambda done: done.began)
    everything = (1 << len(operations)) - 1
    stack: list[tuple[int, ModelTask | None]] = [(0, None)]
    visited = set(stack)
    best = 0
    while stack:
        done, task = stack.pop()
        if done == everything:
            return
        best = max(best, done, key=int.bit_count)
        for index in _next(operations, done):
            for after in _after(operations[index], task, retries):
                step = (done | 1 << index, after)
                if step not in visited:
                    visited.add(step)
                    stack.append(step)
        assert len(visited) < ORDERS_MAX, f"{guid}: too many orders"
    story = "\n".join(
        f"  {'  ' if best >> index & 1 else '? '}{each.began:.4f}-{each.ended:.4f} {each.call} -> {each.answer}"
        for index, each in enumerate(operations)
    )
    raise AssertionError(f"nothing explains what was seen of {guid} (? is what does not fit):\n{story}")


def _next(operations: Sequence[Done], done: int) -> Iterator[int]:
    """What may come next: whatever had begun before the first of the rest ended."""
    rest = [index for index in range(len(operations)) if not done >> index & 1]
    first_end = min(operations[index].ended for index in rest)
    return (index for index in rest if operations[index].began <= first_end)


def _after(done: Done, before: ModelTask | None, retries: int) -> Iterator[ModelTask | None]:
    """The states that can follow; the board itself may have told the callback in between (section 8)."""
    if done.answer is None:
        yield before
    for task in _moved(before):
        if done.call is None:
            if _is_seen(done, task):
                yield task
            continue
        after, answer = apply_call(task, done.call, 0, retries)
        if done.answer is None or answer == done.answer:
            yield after


def _moved(task: ModelTask | None) -> Iterator[ModelTask | None]:
    yield task
    if task is None or not task.url:
        return
    if task.state == "Completed":
        task = replace(task, state="Resolving")
        yield task
    if task.state == "Resolving":
        yield replace(task, told_at=0)
        yield None


def _is_seen(done: Done, task: ModelTask | None) -> bool:
    if task is None or not isinstance(done.answer, ModelTask):
        return (NOT_FOUND if task is None else task) == done.answer
    if not done.outcome_only:
        return task == bare(done.answer)
    return task.state == "Resolving" and _outcome(task) == _outcome(done.answer)


def _outcome(task: ModelTask) -> tuple[bool, str, str]:
    return task.failed, task.failure_reason, task.result


def check_events(events: Sequence[Event]) -> None:
    """Fail unless the events of each guid follow from one another and keep to the table (S3, S4, S10)."""
    last: dict[str, ModelTask | None] = {}
    for event in events:
        guid = event.task.guid
        known = guid in last
        task = last.get(guid)
        if event.name == "task_created":
            assert task is None, f"{guid} was created over {task}"
            assert event.task.state == "Pending"
        elif event.name == "task_changed":
            assert event.before is not None
            _check_change(event.before, event.task)
            if known:
                _check_before(task, event.before)
        else:
            assert event.task.state in ("Completed", "Resolving")
            if known:
                assert event.task == task, f"{guid} was removed as {event.task}, last seen as {task}"
        last[guid] = None if event.name == "task_removed" else event.task


def _check_change(before: ModelTask, after: ModelTask) -> None:
    assert after.state in FOLLOWING[before.state], f"from {before} to {after}"
    for name in ("guid", "domain", "definition", "created_at"):
        assert getattr(before, name) == getattr(after, name), f"{name} changed: {before}, {after}"
    if before.state in ("Completed", "Resolving"):
        assert _outcome(before) == _outcome(after), f"the first outcome did not stay: {before}, {after}"
        assert before.first_completed_at == after.first_completed_at


def _check_before(known: ModelTask | None, before: ModelTask) -> None:
    assert known is not None, f"{before} changed after it was removed"
    if before.rejection_count == known.rejection_count + 1:
        return  # the last rejection has one event, whose "before" is the task as rejected (section 6)
    assert before == known, f"{before} changed, last seen as {known}"
