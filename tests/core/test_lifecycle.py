"""The task table, every operation in every state, against board-api.md sections 4.4, 6 and 7 and design section 6."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.core.errors import ErrorType, TaskError
from bulletin.core.lifecycle import REFUSED_TO, TABLE, Policy, Step, cut_reason, step
from bulletin.core.model import CallbackAttempt, Definition, Task, TaskState
from bulletin.core.operations import (
    Cancel,
    CellDisappeared,
    Complete,
    Delete,
    Deliver,
    DeliverCallback,
    Demote,
    Desire,
    Expire,
    Fail,
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

P, R, C, S = TaskState.PENDING, TaskState.RUNNING, TaskState.COMPLETED, TaskState.RESOLVING
NOW = 5_000
POLICY = Policy()
QUIET = Definition(b"quiet", "preloaded:x")
CALLING = Definition(b"calling", "preloaded:x", completion_callback_url="http://h/done")

#: One operation of each kind, as the rows below use them.
EARLIER = (CallbackAttempt(410, 5, 503, "status 503"),)
NEW = (CallbackAttempt(450, 6, 0, "no answer in time"), CallbackAttempt(470, 7, 200))
OPERATIONS = [
    Desire("g", "d2", QUIET),
    Start("g", "cell-a"),
    Complete("g", "cell-a", True, "boom", "out"),
    Fail("g", "boom"),
    Cancel("g"),
    Reject("g", "no room"),
    Resolving("g"),
    Deliver("g", NEW),
    RecordAttempts("g", NEW),
    Delete("g"),
    Expire("g"),
    CellDisappeared("g"),
    Demote("g"),
    Prune("g"),
]
STATES = [None, P, R, C, S]


def a_task(state: TaskState, definition: Definition = QUIET, **fields) -> Task:
    """A task as it stands in ``state``, with something in every field an operation might touch."""
    usual = {
        P: {},
        R: {"cell_id": "cell-a"},
        C: {"first_completed_at": 400, "result": "r", "failure_reason": "f", "attempts": EARLIER},
        S: {"first_completed_at": 400, "result": "r", "failure_reason": "f", "attempts": EARLIER},
    }[state]
    return Task("g", "d", definition, state, 100, 300, **(usual | fields))


def present(state: TaskState | None, definition: Definition = QUIET) -> Task | None:
    return None if state is None else a_task(state, definition)


def refused(task: Task | None, operation, policy: Policy = POLICY) -> tuple[ErrorType, str]:
    with pytest.raises(TaskError) as caught:
        step(task, operation, NOW, policy)
    return caught.value.type, caught.value.message


NOT_FOUND = (ErrorType.RESOURCE_NOT_FOUND, "the requested resource could not be found")
EXISTS = (ErrorType.RESOURCE_EXISTS, "the requested resource already exists")
BAD = (ErrorType.INVALID_REQUEST, "the request received is invalid")


def no_way(state: TaskState, goal: str) -> tuple[ErrorType, str]:
    name = {P: "Pending", R: "Running", C: "Completed", S: "Resolving"}[state]
    return ErrorType.INVALID_STATE_TRANSITION, f"Cannot transition from {name} to {goal}"


#: Every pair that is refused (board-api.md 4.4), written out apart from the table under test.
REFUSALS = {
    (Desire, P): EXISTS,
    (Desire, R): EXISTS,
    (Desire, C): EXISTS,
    (Desire, S): EXISTS,
    (Start, C): no_way(C, "Running"),
    (Start, S): no_way(S, "Running"),
    (Complete, P): no_way(P, "Completed"),
    (Complete, C): no_way(C, "Completed"),
    (Complete, S): no_way(S, "Completed"),
    (Fail, C): no_way(C, "Completed"),
    (Fail, S): no_way(S, "Completed"),
    (Cancel, C): no_way(C, "Completed"),
    (Cancel, S): no_way(S, "Completed"),
    (Reject, C): BAD,
    (Reject, S): BAD,
    (Resolving, P): no_way(P, "Resolving"),
    (Resolving, R): no_way(R, "Resolving"),
    (Resolving, S): no_way(S, "Resolving"),
    (Deliver, P): no_way(P, "Resolving"),
    (Deliver, R): no_way(R, "Resolving"),
    (Deliver, C): no_way(C, "Resolving"),
    (RecordAttempts, P): no_way(P, "Resolving"),
    (RecordAttempts, R): no_way(R, "Resolving"),
    (RecordAttempts, C): no_way(C, "Resolving"),
    (Delete, P): no_way(P, "Resolving"),
    (Delete, R): no_way(R, "Resolving"),
    (Delete, C): no_way(C, "Resolving"),
    (Expire, R): no_way(R, "Completed"),
    (Expire, C): no_way(C, "Completed"),
    (Expire, S): no_way(S, "Completed"),
    (CellDisappeared, P): no_way(P, "Completed"),
    (CellDisappeared, C): no_way(C, "Completed"),
    (CellDisappeared, S): no_way(S, "Completed"),
    (Demote, P): no_way(P, "Completed"),
    (Demote, R): no_way(R, "Completed"),
    (Demote, C): no_way(C, "Completed"),
    (Prune, P): no_way(P, "Completed"),
    (Prune, R): no_way(R, "Completed"),
    (Prune, S): no_way(S, "Completed"),
}
REFUSALS |= {(type(operation), None): NOT_FOUND for operation in OPERATIONS if not isinstance(operation, Desire)}

#: Every pair that is allowed: the fields it changes (None: the task goes), whether an event tells, whether it ends.
GONE = None
ENDED = {"state": C, "updated_at": NOW, "first_completed_at": NOW, "failed": True, "result": "", "cell_id": ""}
ABANDONED = {key: value for key, value in ENDED.items() if key != "cell_id"}
ALLOWED = {
    (Start, P): {"state": R, "cell_id": "cell-a", "updated_at": NOW},
    (Start, R): {},
    (Complete, R): ENDED | {"failure_reason": "boom", "result": "out"},
    (Fail, P): ENDED | {"failure_reason": "boom"},
    (Fail, R): ENDED | {"failure_reason": "boom"},
    (Cancel, P): ENDED | {"failure_reason": "task was cancelled"},
    (Cancel, R): ENDED | {"failure_reason": "task was cancelled"},
    (Reject, P): {"state": P, "updated_at": NOW, "rejection_count": 1, "rejection_reason": "no room"},
    (Reject, R): {"state": P, "updated_at": NOW, "rejection_count": 1, "rejection_reason": "no room"},
    (Resolving, C): {"state": S, "updated_at": NOW},
    (Deliver, S): {"delivered_at": NOW, "attempts": EARLIER + NEW},
    (RecordAttempts, S): {"attempts": EARLIER + NEW},
    (Delete, S): GONE,
    (Expire, P): ABANDONED | {"failure_reason": "not started within time limit"},
    (CellDisappeared, R): ABANDONED | {"failure_reason": "cell disappeared before completion"},
    (Demote, S): {"state": C},
    (Prune, C): GONE,
}
ENDINGS = {Complete, Fail, Cancel}


def operation_of(kind: type):
    return next(each for each in OPERATIONS if type(each) is kind)


def test_the_rows_of_this_file_cover_every_pair_once():
    pairs = {(type(operation), state) for operation in OPERATIONS for state in STATES}
    assert set(REFUSALS) | set(ALLOWED) | {(Desire, None)} == pairs
    assert not set(REFUSALS) & set(ALLOWED)


def test_the_table_allows_what_these_rows_allow():
    # Desire of a delivered task is the one pair that both rows and table know, by a fact beside the state.
    assert set(TABLE) == set(ALLOWED) | {(Desire, None), (Desire, S)}
    assert set(REFUSED_TO) == {type(operation) for operation in OPERATIONS} - {Desire}


@pytest.mark.parametrize(("kind", "state"), REFUSALS, ids=lambda each: getattr(each, "name", str(each)))
def test_refused(kind, state):
    assert refused(present(state), operation_of(kind)) == REFUSALS[kind, state]


@pytest.mark.parametrize("definition", [QUIET, CALLING], ids=["quiet", "calling"])
@pytest.mark.parametrize(("kind", "state"), ALLOWED, ids=lambda each: getattr(each, "name", str(each)))
def test_allowed(kind, state, definition):
    before = a_task(state, definition)
    changes = ALLOWED[kind, state]
    done = step(before, operation_of(kind), NOW, POLICY)

    if changes is GONE:
        assert done.task is None
        assert done.events == (TaskRemoved(before),)
    else:
        assert done.task == replace(before, **changes)
        told = changes and kind not in {Deliver, RecordAttempts}
        assert done.events == ((TaskChanged(before, done.task),) if told else ())
    assert (done.task.state if done.task else None) in TABLE[kind, state]
    assert done.changed == bool(changes is GONE or changes)
    assert done.should_start == (kind is Start and state is P)

    stop, call = Stop("g", before.cell_id), DeliverCallback("g")
    if kind in ENDINGS:
        assert done.effects == ((call, stop) if definition is CALLING else (stop,))
    elif kind in {Reject, Expire, CellDisappeared}:
        # A rejection is no end, and the callback of what convergence ends waits for the kick (board-api.md 7).
        assert done.effects == (stop,)
    else:
        assert done.effects == ()


def test_desire_makes_a_pending_task():
    done = step(None, Desire("g", "d", CALLING), NOW, POLICY)
    assert done.task == Task("g", "d", CALLING, P, created_at=NOW, updated_at=NOW)
    assert done.events == (TaskCreated(done.task),)
    assert done.effects == (Place("g"),)
    assert done.changed
    assert not done.should_start


def test_desire_replaces_a_task_that_is_only_kept_for_late_pollers():
    kept = a_task(S, CALLING, delivered_at=4_000, rejection_count=2, rejection_reason="no room", failed=True)
    done = step(kept, Desire("g", "d2", QUIET), NOW, POLICY)
    assert done.task == Task("g", "d2", QUIET, P, created_at=NOW, updated_at=NOW)
    assert done.events == (TaskRemoved(kept), TaskCreated(done.task))
    assert done.effects == (Place("g"),)


def test_a_delivered_task_stays_delivered():
    kept = a_task(S, CALLING, delivered_at=4_000)
    again = step(kept, Deliver("g"), NOW, POLICY)
    assert (again.task, again.events, again.effects, again.changed) == (kept, (), (), False)
    assert refused(kept, Demote("g")) == no_way(S, "Completed")
    assert refused(kept, Resolving("g")) == no_way(S, "Resolving")
    assert step(kept, Delete("g"), NOW, POLICY).events == (TaskRemoved(kept),)


def test_no_attempts_are_no_change():
    resolving = a_task(S)
    assert step(resolving, RecordAttempts("g", ()), NOW, POLICY) == Step(resolving, changed=False)
    assert step(resolving, Deliver("g"), NOW, POLICY).task == replace(resolving, delivered_at=NOW)


@pytest.mark.parametrize(
    "operation", [Deliver("g", NEW), RecordAttempts("g", NEW)], ids=lambda each: type(each).__name__
)
def test_attempts_of_a_delivered_task_are_recorded_and_nothing_else_changes(operation):
    kept = a_task(S, CALLING, delivered_at=4_000)
    assert step(kept, operation, NOW, POLICY) == Step(replace(kept, attempts=EARLIER + NEW))


@pytest.mark.parametrize("kind", [Deliver, RecordAttempts])
@pytest.mark.parametrize(("before", "more"), [(0, 20), (0, 21), (0, 50), (19, 1), (20, 1), (20, 5), (15, 15), (20, 20)])
def test_the_newest_attempts_are_kept(kind, before, more):
    every = tuple(CallbackAttempt(at, 1, 503, "status 503") for at in range(before + more))
    resolving = a_task(S, attempts=every[:before])
    assert step(resolving, kind("g", every[before:]), NOW, POLICY).task.attempts == every[-20:]


def test_attempts_outlast_a_kick_and_go_with_the_task():
    resolving = step(a_task(S), RecordAttempts("g", NEW), NOW, POLICY).task
    completed = step(resolving, Demote("g"), NOW, POLICY).task
    assert completed.attempts == EARLIER + NEW
    assert step(completed, Resolving("g"), NOW, POLICY).task.attempts == EARLIER + NEW
    delivered = step(resolving, Deliver("g"), NOW, POLICY).task
    assert step(delivered, Desire("g", "d", QUIET), NOW, POLICY).task.attempts == ()


def test_another_cell_neither_starts_nor_completes_a_running_task():
    running = a_task(R)
    assert refused(running, Start("g", "cell-b")) == no_way(R, "Running")
    assert refused(running, Complete("g", "cell-b", False, "", "")) == (
        ErrorType.RUNNING_ON_DIFFERENT_CELL,
        "Running on cell cell-a not cell-b",
    )


def test_a_success_keeps_the_reason_it_came_with():
    done = step(a_task(R), Complete("g", "cell-a", False, "nothing", "out"), NOW, POLICY)
    assert (done.task.failed, done.task.failure_reason, done.task.result) == (False, "nothing", "out")


def test_a_task_rejected_by_its_cell_remembers_the_cell():
    pending = step(a_task(R), Reject("g", "no room"), NOW, POLICY).task
    assert (pending.state, pending.cell_id) == (P, "cell-a")
    assert Stop("g", "cell-a") in step(pending, Cancel("g"), NOW, POLICY).effects
    elsewhere = step(pending, Start("g", "cell-b"), NOW, POLICY)
    assert (elsewhere.task.cell_id, elsewhere.should_start) == ("cell-b", True)


@pytest.mark.parametrize("state", [P, R])
@pytest.mark.parametrize("definition", [QUIET, CALLING], ids=["quiet", "calling"])
def test_the_last_rejection_fails_the_task_with_one_event(state, definition):
    before = a_task(state, definition, rejection_count=3, rejection_reason="earlier")
    done = step(before, Reject("g", "no room"), NOW, POLICY)
    counted = replace(before, state=P, updated_at=NOW, rejection_count=4, rejection_reason="no room")
    assert done.task == replace(counted, **ENDED, failure_reason="no room")
    assert done.events == (TaskChanged(counted, done.task),)
    stop, call = Stop("g", before.cell_id), DeliverCallback("g")
    assert done.effects == ((call, stop) if definition is CALLING else (stop,))


@pytest.mark.parametrize(("retries", "rejections"), [(0, 1), (1, 2), (3, 4)])
def test_one_more_rejection_than_retries_fails_the_task(retries, rejections):
    task, policy = a_task(P), Policy(max_task_retries=retries)
    for count in range(1, rejections + 1):
        assert task.state is P
        task = step(task, Reject("g", f"try {count}"), NOW, policy).task
        assert task.rejection_count == count
    assert (task.state, task.failed, task.failure_reason) == (C, True, f"try {rejections}")


@pytest.mark.parametrize("state", [C, S])
def test_a_late_rejection_is_refused_by_the_count(state):
    # A bad request while tries are left, a transition once there are none (board-api.md 4.4).
    assert refused(a_task(state, rejection_count=2), Reject("g", "x")) == BAD
    assert refused(a_task(state, rejection_count=3), Reject("g", "x")) == no_way(state, "Completed")


# -- bounds ------------------------------------------------------------------------------------------------------

LONGEST, TOO_LONG = "x" * 255, "x" * 256


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("state", STATES)
def test_a_guid_too_long_is_refused_in_every_state(operation, state):
    assert refused(present(state), replace(operation, guid=TOO_LONG)) == BAD


def test_an_identifier_of_the_longest_length_passes():
    task = step(None, Desire(LONGEST, LONGEST, QUIET), NOW, POLICY).task
    task = step(task, Start(LONGEST, LONGEST), NOW, POLICY).task
    assert step(task, Complete(LONGEST, LONGEST, False, "", ""), NOW, POLICY).task.state is C


@pytest.mark.parametrize("state", STATES)
def test_a_domain_too_long_is_refused_even_for_a_guid_that_exists(state):
    assert refused(present(state), Desire("g", TOO_LONG, QUIET)) == BAD


def test_characters_count_in_identifiers_and_not_bytes():
    assert step(None, Desire("g", "ü" * 255, QUIET), NOW, POLICY).task.domain == "ü" * 255


@pytest.mark.parametrize("state", [P, R])
def test_a_cell_id_too_long_is_refused(state):
    assert refused(a_task(state), Start("g", TOO_LONG)) == BAD
    if state is R:
        assert refused(a_task(state), Complete("g", TOO_LONG, False, "", "")) == BAD


# -- text that no store has to hold (board-api.md 4.3) -------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "operation"),
    [
        (None, Desire("g", "a\0b", QUIET)),
        (R, Desire("g", "\0", QUIET)),
        (None, Desire("\0", "d", QUIET)),
        (P, Start("g", "cell\0")),
        (R, Complete("g", "cell-a", True, "\0", "")),
        (R, Complete("g", "cell-a", False, "", "a\0")),
        (P, Fail("g", "\0")),
        (R, Fail("g", "no\0")),
        (P, Reject("g", "\0no")),
        (R, Reject("g", "\0no")),
    ],
)
def test_the_character_nul_is_refused(state, operation):
    error = refused(present(state), operation)
    assert error == (ErrorType.UNKNOWN_ERROR, 'invalid byte sequence for encoding "UTF8": 0x00')


def test_a_refusal_by_state_comes_before_one_by_text():
    assert refused(None, Fail("g", "\0"))[0] is ErrorType.RESOURCE_NOT_FOUND
    assert refused(a_task(C), Fail("g", "\0"))[0] is ErrorType.INVALID_STATE_TRANSITION
    assert refused(a_task(R), Complete("g", "cell-b", False, "", "\0"))[0] is ErrorType.RUNNING_ON_DIFFERENT_CELL


# -- reasons -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("", ""),
        ("x" * 1023, "x" * 1023),
        ("x" * 1024, "x" * 1013 + "(truncated)"),
        ("x" * 5000, "x" * 1013 + "(truncated)"),
        # 1013 is odd, so a cut by bytes would halve the 507th of these.
        ("ü" * 511 + "x", "ü" * 511 + "x"),
        ("ü" * 512, "ü" * 506 + "(truncated)"),
        ("€" * 341, "€" * 341),
        ("€" * 342, "€" * 337 + "(truncated)"),
        ("𝄞" * 256, "𝄞" * 253 + "(truncated)"),
    ],
    ids=len,
)
def test_a_reason_is_cut_at_1024_bytes_between_characters(reason, kept):
    assert cut_reason(reason) == kept
    assert len(kept.encode()) <= 1024


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=200, max_size=1100))
def test_a_cut_reason_is_a_prefix_and_is_not_cut_again(reason):
    kept = cut_reason(reason)
    assert cut_reason(kept) == kept
    assert len(kept.encode()) <= 1024
    assert reason.startswith(kept.removesuffix("(truncated)"))
    assert (kept == reason) == (len(reason.encode()) < 1024)


@pytest.mark.parametrize("operation", [Fail("g", "x" * 1024), Complete("g", "cell-a", True, "x" * 1024, "")])
def test_a_failure_reason_is_cut(operation):
    assert step(a_task(R), operation, NOW, POLICY).task.failure_reason == "x" * 1013 + "(truncated)"


@pytest.mark.parametrize("count", [0, 3])
def test_a_rejection_reason_is_cut(count):
    task = step(a_task(P, rejection_count=count), Reject("g", "x" * 1024), NOW, POLICY).task
    assert task.rejection_reason == "x" * 1013 + "(truncated)"
    assert task.failure_reason == (task.rejection_reason if count == 3 else "")


def test_a_result_is_never_cut():
    assert step(a_task(R), Complete("g", "cell-a", False, "", "x" * 200_000), NOW, POLICY).task.result == "x" * 200_000


# -- promises over any sequence of operations (design section 7) -------------------------------------------------

operations = st.one_of(
    st.builds(Desire, st.just("g"), st.sampled_from(["d", "e"]), st.sampled_from([QUIET, CALLING])),
    st.builds(Start, st.just("g"), st.sampled_from(["cell-a", "cell-b"])),
    st.builds(
        Complete,
        st.just("g"),
        st.sampled_from(["cell-a", "cell-b"]),
        st.booleans(),
        st.sampled_from(["", "boom", "x" * 2000]),
        st.sampled_from(["", "out"]),
    ),
    st.builds(Fail, st.just("g"), st.sampled_from(["boom", "bang"])),
    st.builds(Reject, st.just("g"), st.sampled_from(["", "no room", "x" * 2000])),
    st.sampled_from([each for each in OPERATIONS if type(each) in {Cancel, Resolving, Deliver, Delete}]),
    st.builds(RecordAttempts, st.just("g"), st.lists(st.sampled_from(NEW), max_size=25).map(tuple)),
    st.sampled_from([each for each in OPERATIONS if type(each) in {Expire, CellDisappeared, Demote, Prune}]),
)


def outcome(task: Task) -> tuple:
    return task.failed, task.failure_reason, task.result, task.first_completed_at


def check_step(before: Task | None, operation, done, now: int) -> None:
    """What holds after any single step."""
    after = done.task
    # S3: the state came by a row of the table.
    assert (after.state if after else None) in TABLE[type(operation), before.state if before else None]
    if not done.changed:
        assert after == before
        assert done.events == ()
        assert done.effects == ()
    if after is None or isinstance(operation, Desire):
        return
    same = ("guid", "domain", "definition", "created_at")
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
    assert after.rejection_count >= before.rejection_count
    assert after.updated_at in (before.updated_at, now)
    assert (after.state in (C, S)) == (after.first_completed_at != 0)
    # S4: the first outcome stays; S6 follows, as being cancelled is an outcome.
    if before.state in (C, S):
        assert outcome(after) == outcome(before)
        assert Place not in {type(effect) for effect in done.effects}
    # S5: only the owner completes.
    if isinstance(operation, Complete):
        assert operation.cell_id == before.cell_id
    assert len(after.attempts) <= 20
    if not isinstance(operation, Deliver | RecordAttempts):
        assert after.attempts == before.attempts
    if before.delivered_at:
        assert after.delivered_at == before.delivered_at
        assert after.state is S
    if after.delivered_at:
        assert after.state is S
    # Someone who had a reason to run it is told when there is none any more.
    if before.state is R and after.state is not R:
        assert Stop(before.guid, before.cell_id) in done.effects
    assert len(after.failure_reason.encode()) <= 1024
    assert len(after.rejection_reason.encode()) <= 1024


def check_events(before: Task | None, done) -> None:
    """S10: the events alone tell a listener the story without a gap."""
    known = before
    for event in done.events:
        match event:
            case TaskRemoved(task):
                assert task == known
                known = None
            case TaskCreated(task):
                assert known is None
                known = task
            case TaskChanged(seen_before, task):
                # The failing rejection shows its count before the event that tells of it (board-api.md 6).
                assert (seen_before.guid, seen_before.created_at) == (known.guid, known.created_at)
                known = task
    if done.events:
        assert known == done.task


@given(st.lists(operations, max_size=40), st.integers(0, 3))
def test_promises_hold_over_any_sequence(sequence, retries):
    task, policy = None, Policy(max_task_retries=retries)
    starts = 0
    for now, operation in enumerate(sequence, start=1):
        before = task
        try:
            done = step(task, operation, now, policy)
        except TaskError:
            continue  # Most operations of a sequence are refused, and nothing has changed.
        check_step(before, operation, done, now)
        check_events(before, done)
        if isinstance(operation, Desire):
            starts = 0
        starts += done.should_start
        if isinstance(operation, Reject):
            starts = 0  # The cell says it ran nothing.
        assert starts <= 1  # S1, as far as the board decides it.
        task = done.task


@given(st.lists(operations, max_size=15))
def test_a_step_depends_on_nothing_but_its_arguments(sequence):
    def story() -> list:
        task, told = None, []
        for now, operation in enumerate(sequence, start=1):
            try:
                done = step(task, operation, now, POLICY)
            except TaskError as error:
                told.append(str(error))
            else:
                told.append(done)
                task = done.task
        return told

    assert story() == story()
