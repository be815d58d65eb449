"""What time alone does to a task, row by row against board-api.md section 7 and design section 6."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.core import lifecycle, operations
from bulletin.core.convergence import NOTHING, Policy, Verdict, count_by_state, judge, sweep
from bulletin.core.lifecycle import step
from bulletin.core.model import Definition, Task, TaskState
from bulletin.core.operations import CellDisappeared, Delete, Demote, Expire, Prune, TaskChanged, TaskRemoved

P, R, C, S = TaskState.PENDING, TaskState.RUNNING, TaskState.COMPLETED, TaskState.RESOLVING
SECOND = 1_000_000_000
NOW = 1_000_000 * SECOND
POLICY = Policy()
QUIET = Definition(b"", "preloaded:x")
CALLING = Definition(b"", "preloaded:x", completion_callback_url="http://h/done")
CELLS = frozenset({"cell-a", "cell-b"})


def a_task(state: TaskState, *, created=0.0, updated=0.0, completed=0.0, delivered=None, url=True, **fields) -> Task:
    """A task whose times lie so many seconds before NOW; ``delivered`` None is never."""
    return Task(
        "g",
        "d",
        CALLING if url else QUIET,
        state,
        created_at=NOW - round(created * SECOND),
        updated_at=NOW - round(updated * SECOND),
        first_completed_at=NOW - round(completed * SECOND) if state in (C, S) else 0,
        delivered_at=0 if delivered is None else NOW - round(delivered * SECOND),
        **fields,
    )


def verdict(task: Task, cells=CELLS, policy: Policy = POLICY) -> Verdict:
    return judge(task, cells, NOW, policy)


#: The smallest time there is, in seconds.
NS = 1e-9

EXPIRE, DISAPPEARED = Verdict((Expire("g"),)), Verdict((CellDisappeared("g"),))
DEMOTE, PRUNE, DELETE = Verdict((Demote("g"),)), Verdict((Prune("g"),)), Verdict((Delete("g"),))
PLACE, CALL = Verdict(place=True), Verdict(callback=True)
DEMOTE_AND_CALL = Verdict((Demote("g"),), callback=True)
DEMOTE_AND_PRUNE = Verdict((Demote("g"), Prune("g")))

ROWS = [
    # 1 and 2: counted from created_at; exactly at the bound nothing happens
    ("just pending", a_task(P), PLACE),
    ("nearly expired", a_task(P, created=1800 - NS), PLACE),
    ("at the bound", a_task(P, created=1800), NOTHING),
    ("expired", a_task(P, created=1800 + NS), EXPIRE),
    ("rejected just now, yet expired", a_task(P, created=1801, updated=0, rejection_count=3), EXPIRE),
    ("rejected by a cell that is gone", a_task(P, created=5, cell_id="gone"), PLACE),
    # 3
    ("cell present", a_task(R, created=99_999, updated=99_999, cell_id="cell-b"), NOTHING),
    ("cell gone", a_task(R, cell_id="gone"), DISAPPEARED),
    # 4, and after it 5 and 6 on the same task
    ("resolver at work", a_task(S, updated=30, completed=40), NOTHING),
    ("resolver at work on an old task", a_task(S, updated=30, completed=500), NOTHING),
    ("resolver late", a_task(S, updated=30 + NS, completed=40), DEMOTE_AND_CALL),
    ("resolver late, nobody to tell", a_task(S, updated=30 + NS, completed=40, url=False), DEMOTE),
    ("resolver late, kept to the last", a_task(S, updated=31, completed=120), DEMOTE_AND_CALL),
    ("resolver late, too old to keep", a_task(S, updated=31, completed=120 + NS), DEMOTE_AND_PRUNE),
    ("the same, nobody to tell", a_task(S, updated=31, completed=120 + NS, url=False), DEMOTE_AND_PRUNE),
    # 5 and 6
    ("just completed", a_task(C), NOTHING),
    ("not to be kicked yet", a_task(C, updated=30, completed=30), NOTHING),
    ("to be kicked", a_task(C, updated=30 + NS, completed=30 + NS), CALL),
    ("nobody to tell", a_task(C, updated=31, completed=31, url=False), NOTHING),
    ("kicked to the last", a_task(C, updated=120, completed=120), CALL),
    ("kept to the last, nobody to tell", a_task(C, updated=120, completed=120, url=False), NOTHING),
    ("too old to keep", a_task(C, updated=120 + NS, completed=120 + NS), PRUNE),
    ("the same, nobody to tell", a_task(C, updated=120 + NS, completed=120 + NS, url=False), PRUNE),
    ("demoted before, too old to keep", a_task(C, updated=1, completed=120 + NS), PRUNE),
    # delivered: never demoted, kept for its retention however old
    ("delivered", a_task(S, updated=6, completed=6, delivered=0), NOTHING),
    ("delivered late", a_task(S, updated=31, completed=121, delivered=5), NOTHING),
    ("retention over", a_task(S, updated=6, completed=6, delivered=5 + NS), DELETE),
    ("retention long over", a_task(S, updated=500, completed=500, delivered=400), DELETE),
]


@pytest.mark.parametrize(("task", "due"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_row(task, due):
    assert verdict(task) == due


def test_without_any_cell_every_running_task_fails():
    tasks = [replace(a_task(R, cell_id=f"cell-{name}"), guid=name) for name in "ab"]
    assert [verdict(task, frozenset()).operations for task in tasks] == [
        (CellDisappeared("a"),),
        (CellDisappeared("b"),),
    ]


def test_defaults():
    assert Policy() == Policy(
        repeat_interval_seconds=30,
        kick_task_seconds=30,
        expire_pending_task_seconds=1800,
        expire_completed_task_seconds=120,
        callback_expiry_seconds=120,
        resolved_retention_seconds=5,
    )


def test_the_bounds_are_the_operators():
    policy = Policy(
        kick_task_seconds=0.5,
        expire_pending_task_seconds=2,
        expire_completed_task_seconds=3,
        callback_expiry_seconds=3,
        resolved_retention_seconds=0,
    )
    assert verdict(a_task(P, created=2), policy=policy) == NOTHING
    assert verdict(a_task(P, created=2 + NS), policy=policy) == EXPIRE
    assert verdict(a_task(C, updated=0.5, completed=0.5), policy=policy) == NOTHING
    assert verdict(a_task(C, updated=0.5 + NS, completed=0.5 + NS), policy=policy) == CALL
    assert verdict(a_task(S, updated=0.5 + NS, completed=1), policy=policy) == DEMOTE_AND_CALL
    assert verdict(a_task(C, completed=3 + NS), policy=policy) == PRUNE
    assert verdict(a_task(S, delivered=0), policy=policy) == NOTHING
    assert verdict(a_task(S, delivered=NS), policy=policy) == DELETE


def test_a_longer_callback_expiry_keeps_what_has_somebody_to_tell():
    policy = Policy(callback_expiry_seconds=3600)
    assert verdict(a_task(C, updated=3600, completed=3600), policy=policy) == CALL
    assert verdict(a_task(C, updated=31, completed=3600 + NS), policy=policy) == PRUNE
    assert verdict(a_task(S, updated=31, completed=3600), policy=policy) == DEMOTE_AND_CALL
    assert verdict(a_task(C, completed=121, url=False), policy=policy) == PRUNE


def test_a_shorter_callback_expiry_ends_the_telling_and_not_the_keeping():
    policy = Policy(callback_expiry_seconds=60)
    assert verdict(a_task(C, updated=31, completed=60), policy=policy) == CALL
    assert verdict(a_task(C, updated=31, completed=60 + NS), policy=policy) == NOTHING
    assert verdict(a_task(S, updated=31, completed=61), policy=policy) == DEMOTE
    assert verdict(a_task(C, updated=31, completed=120 + NS), policy=policy) == PRUNE


def test_a_task_without_a_state_is_left_alone():
    assert verdict(a_task(TaskState.INVALID, created=99_999, updated=99_999)) == NOTHING


def test_a_sweep_yields_only_where_something_is_due():
    tasks = [task for _, task, _ in ROWS]
    assert list(sweep(tasks, CELLS, NOW, POLICY)) == [(task, due) for _, task, due in ROWS if due != NOTHING]


def test_a_sweep_judges_as_it_goes():
    """Slices of one sweep may be taken as they are wanted: nothing is read ahead."""
    taken = []

    def tasks():
        for number in range(3):
            taken.append(number)
            yield a_task(P)

    swept = sweep(tasks(), CELLS, NOW, POLICY)
    next(swept)
    assert taken == [0]


@pytest.mark.parametrize(
    ("due", "kick", "prune"),
    [
        (EXPIRE, True, False),
        (PLACE, True, False),
        (DISAPPEARED, True, False),
        (CALL, True, False),
        (DEMOTE_AND_CALL, True, False),
        (DEMOTE, False, False),
        (PRUNE, False, True),
        (DEMOTE_AND_PRUNE, False, True),
        (DELETE, False, False),
        (NOTHING, False, False),
    ],
)
def test_what_counts_as_kicked_and_what_as_pruned(due, kick, prune):
    assert (due.is_kick, due.is_prune) == (kick, prune)


def test_counting_lists_every_state():
    tasks = [a_task(P), a_task(C), a_task(P)]
    assert count_by_state(tasks) == {P: 2, R: 0, C: 1, S: 0}
    assert count_by_state([]) == {P: 0, R: 0, C: 0, S: 0}


# -- with the lifecycle ------------------------------------------------------------------------------------------


def carry_out(task: Task, due: Verdict, now: int) -> tuple[Task | None, list, list]:
    """Apply a verdict's operations as a driver would: the task left, the events, the effects."""
    current, events, effects = task, [], []
    for operation in due.operations:
        done = step(current, operation, now, lifecycle.Policy())
        current = done.task
        events.extend(done.events)
        effects.extend(done.effects)
    return current, events, effects


def test_a_task_stuck_in_resolving_is_demoted_and_removed_in_one_run():
    task = a_task(S, updated=31, completed=121)
    left, events, _ = carry_out(task, verdict(task), NOW)
    assert left is None
    assert [type(event) for event in events] == [TaskChanged, TaskRemoved]


@pytest.mark.parametrize("task", [a_task(P, created=1801), a_task(R, cell_id="gone")], ids=["expired", "disappeared"])
def test_a_task_failed_by_convergence_is_told_a_kick_later(task):
    left, _, effects = carry_out(task, verdict(task), NOW)
    assert left.state is C
    assert not any(isinstance(effect, operations.DeliverCallback) for effect in effects)
    assert judge(left, CELLS, NOW, POLICY) == NOTHING
    assert judge(left, CELLS, NOW + 30 * SECOND, POLICY) == NOTHING
    assert judge(left, CELLS, NOW + 30 * SECOND + 1, POLICY) == CALL


def test_a_demoted_task_is_as_old_as_before():
    task = a_task(S, updated=31, completed=40)
    left, _, _ = carry_out(task, verdict(task), NOW)
    assert (left.updated_at, left.first_completed_at) == (task.updated_at, task.first_completed_at)
    assert judge(left, CELLS, NOW, POLICY) == CALL


ages = st.sampled_from([0, NS, 5, 5 + NS, 30, 30 + NS, 31, 119, 120, 120 + NS, 1800, 1800 + NS, 4000])


@st.composite
def any_task(draw) -> Task:
    state = draw(st.sampled_from([P, R, C, S]))
    return a_task(
        state,
        created=draw(ages),
        updated=draw(ages),
        completed=draw(ages),
        delivered=draw(st.none() | ages) if state is S else None,
        url=draw(st.booleans()),
        cell_id=draw(st.sampled_from(["", "cell-a", "gone"])),
    )


policies = st.builds(Policy, *[st.sampled_from([0, 5, 30, 120, 1800]) for _ in range(6)])


@given(any_task(), st.sampled_from([CELLS, frozenset()]), policies)
def test_every_verdict_can_be_carried_out(task, cells, policy):
    due = judge(task, cells, NOW, policy)
    left, _, _ = carry_out(task, due, NOW)
    assert bool(due) == (due != NOTHING)
    if due.place:
        assert due.operations == ()
        assert task.state is P
    if due.callback:
        assert left.state is C
        assert left.definition.completion_callback_url
    if due.is_prune:
        assert left is None
    # The order of the steps: nothing but a kick or a place is left for a second look in the same run.
    if left is not None:
        again = judge(left, cells, NOW, policy)
        assert again.operations == ()
        assert (again.place, again.callback) == (due.place, due.callback)


@given(any_task(), policies)
def test_what_is_due_later_is_due_for_good(task, policy):
    """An end that time brings is not taken back by more time."""

    def ends(now: int) -> bool:
        kinds = {type(operation) for operation in judge(task, CELLS, now, policy).operations}
        return bool(kinds & {Expire, Prune, Delete})

    assert not ends(NOW) or all(ends(NOW + later * SECOND) for later in (1, 60, 5000))
