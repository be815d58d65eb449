"""A task's life on a cell: every pair of the table, the scripts of the spec, and random orders of events."""

from __future__ import annotations

import typing
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulletin.core import cellwork
from bulletin.core.cellwork import (
    TABLE,
    Acknowledged,
    AskStart,
    Assigned,
    CancelPrepare,
    CellStopping,
    Completion,
    Destroy,
    DestroyAgain,
    Destroyed,
    DestroyFailed,
    Expired,
    Forget,
    InterruptSteps,
    JournalAccepted,
    JournalOutcome,
    JournalSettled,
    LinkRestored,
    Phase,
    Prepare,
    Prepared,
    PrepareFailed,
    ReadResult,
    Rejection,
    Report,
    ResultRead,
    ResultUnreadable,
    RunSteps,
    Stage,
    StartGranted,
    StartRefused,
    StepsEnded,
    StopRequested,
    UnexpectedEvent,
    Work,
    assign,
    cut_reason,
    owe,
    step,
)

EVENTS = typing.get_args(cellwork.Event)
#: What the board, a timer or the cell's end may bring at any time before GONE.
OUTSIDE = (StartGranted, StartRefused, Acknowledged, StopRequested, CellStopping, LinkRestored, Expired)


def examples(kind):
    match kind:
        case cellwork.PrepareFailed:
            return [PrepareFailed("no such image")]
        case cellwork.StepsEnded:
            return [StepsEnded(None), StepsEnded("LOG: Exited with status 1")]
        case cellwork.ResultRead:
            return [ResultRead(b"hello")]
        case _:
            return [kind()]


def works(phase):
    """Every shape a work has in ``phase``."""
    if phase is Phase.WITHDRAWN:
        return [Work(phase), Work(phase, outcome=Rejection("x"))]
    if phase is Phase.REPORTING:
        return [
            Work(phase, outcome=outcome, container=c) for outcome in (Completion(False), Rejection("x")) for c in (0, 1)
        ]
    if phase is Phase.UNMADE:
        return [Work(phase, prepare_error="failed to create container: x")]
    made = phase in {Phase.MADE, Phase.RUNNING, Phase.STOPPING, Phase.READING, Phase.LEAVING}
    return [Work(phase, result, container=made) for result in ("", "/tmp/result")]


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", EVENTS)
def test_every_pair_does_what_the_table_says(kind, phase):
    reached = set()
    for work in works(phase):
        for event in examples(kind):
            if (kind, phase) in TABLE:
                reached.add(step(work, event).work.phase)
            else:
                with pytest.raises(UnexpectedEvent, match=f"{kind.__name__} in phase {phase.value}"):
                    step(work, event)
    assert reached == set(TABLE.get((kind, phase), ()))


def test_what_comes_from_outside_may_always_come():
    for kind in OUTSIDE:
        assert {phase for event, phase in TABLE if event is kind} == set(Phase) - {Phase.GONE}


def test_the_first_event_is_the_assignment():
    assert TABLE[Assigned, None] == (assign("").work.phase,)
    assert assign("/r").commands == (JournalAccepted(), AskStart(), Prepare())
    assert [phase for kind, phase in TABLE if kind is Assigned] == [None]


# -- scripts ---------------------------------------------------------------------------------------------------------


def play(work, *events):
    """The work after ``events`` and what the last of them asked for."""
    commands = ()
    for event in events:
        work, commands = step(work, event)
    return work, commands


def fresh(result_file=""):
    return assign(result_file).work


@pytest.mark.parametrize("order", [(Prepared(), StartGranted()), (StartGranted(), Prepared())])
def test_user_code_runs_when_both_are_there(order):
    work, commands = step(fresh(), order[0])
    assert commands == ()
    work, commands = step(work, order[1])
    assert commands == (RunSteps(),)
    assert work.phase is Phase.RUNNING


def test_a_success_without_a_result_file():
    done = Completion(False)
    work, commands = play(fresh(), Prepared(), StartGranted(), StepsEnded(None))
    assert commands == (JournalOutcome(done), Report(done))
    work, commands = step(work, Acknowledged())
    assert commands == (JournalSettled(), Destroy())
    work, commands = step(work, DestroyFailed())
    assert commands == (DestroyAgain(),)
    work, commands = step(work, Destroyed())
    assert commands == (Forget(),)
    assert work.phase is Phase.GONE


def test_a_success_with_a_result_file():
    work, commands = play(fresh("/tmp/r"), Prepared(), StartGranted(), StepsEnded(None))
    assert commands == (ReadResult("/tmp/r"),)
    done = Completion(False, "", "h\N{REPLACEMENT CHARACTER}i")
    assert step(work, ResultRead(b"h\xffi")).commands == (JournalOutcome(done), Report(done))
    failed = Completion(True, "failed to fetch result")
    assert step(work, ResultUnreadable()).commands == (JournalOutcome(failed), Report(failed))


def test_a_failure_does_not_read_the_result():
    failed = Completion(True, "LOG: Exited with status 2", "")
    _, commands = play(fresh("/tmp/r"), Prepared(), StartGranted(), StepsEnded("LOG: Exited with status 2"))
    assert commands == (JournalOutcome(failed), Report(failed))


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (PrepareFailed("no such image"), "failed to create container: no such image"),
        (PrepareFailed("x", Stage.DEPENDENCIES), "failed to download cached artifacts"),
        (PrepareFailed("", Stage.VOLUMES), "failed to mount volume"),
        (PrepareFailed("safe", Stage.VOLUMES), "failed to mount volume, errors: safe"),
        (PrepareFailed("x", Stage.CREDENTIALS), "failed to create credentials directory"),
        (PrepareFailed("x", Stage.FILES), "failed to create volume mounted files"),
    ],
)
def test_a_container_that_cannot_be_made_is_a_rejection_once_the_board_has_answered(event, reason):
    rejection = Rejection(reason)
    told = (JournalOutcome(rejection), Report(rejection))
    assert play(fresh(), event)[1] == ()
    assert play(fresh(), event, StartGranted())[1] == told
    assert play(fresh(), StartGranted(), event)[1] == told
    assert play(fresh(), event, StartRefused())[1] == (Forget(),)
    assert play(fresh(), event, StartGranted(), Acknowledged())[1] == (JournalSettled(), Forget())


def test_a_refused_start_leaves_no_trace_and_says_nothing():
    assert play(fresh(), Prepared(), StartRefused())[1] == (Destroy(),)
    assert play(fresh(), StartRefused())[1] == (CancelPrepare(),)
    assert play(fresh(), StartRefused(), Prepared())[1] == (Destroy(),)
    assert play(fresh(), StartRefused(), PrepareFailed("x"))[1] == (Forget(),)


@pytest.mark.parametrize("before", [[], [Prepared()]])
def test_a_start_nobody_answers_is_told_as_a_rejection(before):
    rejection = Rejection("expired container")
    work, commands = play(fresh(), *before, Expired())
    if not before:
        assert commands == (CancelPrepare(),)
        assert step(work, PrepareFailed("cancelled")).commands == (JournalOutcome(rejection), Report(rejection))
        work, commands = step(work, Prepared())
    assert commands == (JournalOutcome(rejection), Report(rejection))
    assert step(work, StartGranted()) == (work, ())
    assert step(work, Acknowledged()).commands == (JournalSettled(), Destroy())


@pytest.mark.parametrize("stop", [StopRequested(), CellStopping()])
def test_a_stop_ends_what_there_is_and_reports_nothing(stop):
    running = play(fresh("/r"), Prepared(), StartGranted())[0]
    work, commands = step(running, stop)
    assert commands == (InterruptSteps(),)
    assert step(work, StepsEnded(None)).commands == (Destroy(),)
    reading = play(running, StepsEnded(None))[0]
    work, commands = step(reading, stop)
    assert commands == ()
    assert step(work, ResultRead(b"")).commands == (Destroy(),)
    assert play(fresh(), Expired(), stop, Prepared())[1] == (Destroy(),)
    assert play(fresh(), PrepareFailed("x"), stop)[1] == (Forget(),)


def test_an_unacknowledged_outcome_outlives_the_cell_but_not_a_stop_of_the_board():
    reporting = play(fresh(), Prepared(), StartGranted(), StepsEnded(None))[0]
    assert step(reporting, StopRequested()).commands == (JournalSettled(), Destroy())
    assert step(reporting, CellStopping()).commands == (Destroy(),)


def test_a_new_link_repeats_what_has_no_answer():
    for before in ([], [Prepared()], [PrepareFailed("x")]):
        assert play(fresh(), *before, LinkRestored())[1] == (AskStart(),)
    work = play(fresh(), Prepared(), StartGranted())[0]
    assert step(work, LinkRestored()) == (work, ())
    assert play(work, StepsEnded("no"), LinkRestored())[1] == (Report(Completion(True, "no")),)


def test_an_outcome_kept_from_before_is_told_again_and_then_gone():
    work, commands = step(owe(Completion(True, "no")), LinkRestored())
    assert commands == (Report(Completion(True, "no")),)
    assert step(work, Acknowledged()).commands == (JournalSettled(), Forget())


@pytest.mark.parametrize("length", [0, 9_999, 10_000])
def test_a_reason_that_fits_is_left_alone(length):
    assert cut_reason("é" * length) == "é" * length


def test_a_long_reason_loses_its_middle():
    cut = cut_reason("a" * 6000 + "b" * 6000)
    assert cut == "a" * 4991 + "\n... (truncated)\n" + "b" * 4992
    failed = play(fresh(), Prepared(), StartGranted(), StepsEnded("x" * 10_001))[0].outcome
    assert len(failed.failure_reason) == 10_000
    rejected = play(fresh(), StartGranted(), PrepareFailed("x" * 20_000))[0].outcome
    assert len(rejected.reason) == 10_000


# -- any order -------------------------------------------------------------------------------------------------------


class Driver:
    """Does what the commands ask, and keeps what may happen next."""

    def __init__(self, started):
        self.work = started.work
        self.counts = Counter()
        self.owed = []
        self.granted = False
        self.taken = False
        self.stopped = False
        self.outcomes = []
        self.reported = False
        self.do(started.commands)

    def do(self, commands):
        for command in commands:
            self.counts[type(command)] += 1
            match command:
                case Prepare():
                    self.owed.append((Prepared(), PrepareFailed("x")))
                case RunSteps():
                    assert self.granted
                    self.owed.append((StepsEnded(None), StepsEnded("no")))
                case ReadResult():
                    self.owed.append((ResultRead(b"r"), ResultUnreadable()))
                case JournalOutcome(outcome):
                    self.outcomes.append(outcome)
                case Report(outcome):
                    assert outcome == self.outcomes[-1], "reported before it was journalled"
                    self.reported = True
                case Destroy() | DestroyAgain():
                    self.owed.append((Destroyed(), DestroyFailed()))
                case Forget():
                    assert not self.owed, "forgotten with something under way"

    def happen(self, event):
        for answers in self.owed:
            if event in answers:
                self.owed.remove(answers)
                break
        # The first answer counts; a grant after a refusal, an expiry or a stop is nobody's any more.
        self.granted |= isinstance(event, StartGranted)
        unanswered = self.work.phase in {Phase.PREPARING, Phase.MADE, Phase.UNMADE}
        self.taken |= isinstance(event, StartGranted) and unanswered
        self.stopped |= isinstance(event, StopRequested | CellStopping)
        destroying = self.work.phase is Phase.LEAVING
        self.work, commands = step(self.work, event)
        if Destroy() in commands:
            assert not destroying
        self.do(commands)


@settings(max_examples=300)
@given(st.data())
def test_any_order_of_events_ends_well(data):
    driver = Driver(assign(data.draw(st.sampled_from(["", "/r"]))))
    for _ in range(data.draw(st.integers(0, 30))):
        if driver.work.phase is Phase.GONE:
            break
        possible = [kind() for kind in OUTSIDE] + [event for answers in driver.owed for event in answers]
        driver.happen(data.draw(st.sampled_from(possible)))
    # From here on the board answers and everything the cell does works.
    for _ in range(10):
        if driver.work.phase is Phase.GONE:
            break
        if driver.work.phase in {Phase.PREPARING, Phase.MADE, Phase.UNMADE}:
            driver.happen(StartGranted())
        elif driver.work.phase is Phase.REPORTING and driver.reported:
            driver.happen(Acknowledged())
        else:
            driver.happen(driver.owed[0][0])
    assert driver.work.phase is Phase.GONE
    assert driver.counts[Forget] == 1
    assert driver.counts[RunSteps] <= 1
    assert driver.counts[Destroy] <= 1
    assert len(driver.outcomes) <= 1
    assert driver.counts[JournalSettled] <= len(driver.outcomes)
    if driver.taken and not driver.stopped:
        assert len(driver.outcomes) == 1
        assert isinstance(driver.outcomes[0], Completion) is bool(driver.counts[RunSteps])
    if not driver.counts[RunSteps]:
        assert not any(isinstance(outcome, Completion) for outcome in driver.outcomes)
