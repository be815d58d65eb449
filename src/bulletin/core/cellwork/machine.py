"""A task's life on a cell, from its assignment until its container is gone (design section 4, cell.md section 1).

``step(work, event)`` takes what a cell knows of one task and one event, and returns what it knows then and what to
do. Making the container and asking the board for leave go side by side; user code runs only once both are there.

Rules: ``TABLE`` names every allowed (event, phase) pair and the phases it may lead to. What the board says may come
at any time, because links break and frames repeat, so each such pair is in the table; what the cell itself causes is
allowed only where it can happen, and anything else raises ``UnexpectedEvent``. A rejection is an outcome too: it is
journalled and repeated like a completion. The container outlives the report until the board acknowledges it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from bulletin.core.cellwork.values import (
    Acknowledged,
    AskStart,
    Assigned,
    CancelPrepare,
    CellStopping,
    Command,
    Completion,
    Destroy,
    DestroyAgain,
    Destroyed,
    DestroyFailed,
    Event,
    Expired,
    Forget,
    InterruptSteps,
    JournalAccepted,
    JournalOutcome,
    JournalSettled,
    LinkRestored,
    Outcome,
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
    Work,
)
from bulletin.core.limits import CELL_REASON_CHARACTERS_MAX

__all__ = [
    "EXPIRED",
    "RESULT_UNREADABLE",
    "TABLE",
    "Step",
    "UnexpectedEvent",
    "assign",
    "cut_reason",
    "owe",
    "step",
]

#: The reason of a task whose Start nobody answered in time (cell.md 1.3); here a rejection, as nothing of it ran.
EXPIRED: Final = "expired container"
#: The reason of a task that succeeded and left no readable result file (cell.md section 4).
RESULT_UNREADABLE: Final = "failed to fetch result"
_TRUNCATED = "\n... (truncated)\n"


class Step(NamedTuple):
    """The outcome of one event."""

    work: Work
    commands: tuple[Command, ...] = ()


def assign(result_file: str) -> Step:
    """A task arrives: the event Assigned, which has no work before it."""
    return Step(Work(Phase.PREPARING, result_file), (JournalAccepted(), AskStart(), Prepare()))


def owe(outcome: Outcome) -> Work:
    """An outcome without a container: what the journal kept of an earlier process, or a refused assignment.

    Nothing is said for it yet; LinkRestored makes it report.
    """
    return Work(Phase.REPORTING, outcome=outcome)


def cut_reason(reason: str) -> str:
    """Cut a reason of more than 10,000 characters to exactly 10,000, the middle left out (cell.md 1.2 step 9)."""
    if len(reason) <= CELL_REASON_CHARACTERS_MAX:
        return reason
    kept = CELL_REASON_CHARACTERS_MAX - len(_TRUNCATED)
    head = kept // 2
    return reason[:head] + _TRUNCATED + reason[len(reason) - (kept - head) :]


def step(work: Work, event: Event) -> Step:
    """Apply ``event`` to ``work``.

    Raises:
        UnexpectedEvent: the table does not have the pair; ``work`` is as it was.
    """
    if (type(event), work.phase) not in TABLE:
        raise UnexpectedEvent(f"{type(event).__name__} in phase {work.phase.value}")
    handler = _HANDLERS.get((type(event), work.phase))
    return Step(work) if handler is None else handler(work, event)


class UnexpectedEvent(Exception):
    """An event that cannot happen in this phase: a defect of the cell."""


# -- the table ---------------------------------------------------------------------------------------------------

P, G, M, U, W = Phase.PREPARING, Phase.GRANTED, Phase.MADE, Phase.UNMADE, Phase.WITHDRAWN
R, S, D, T, L, X = Phase.RUNNING, Phase.STOPPING, Phase.READING, Phase.REPORTING, Phase.LEAVING, Phase.GONE

#: (event, phase before) -> phases after. A pair that leads to its own phase only, and has no handler, changes nothing.
TABLE: dict[tuple[type[Event], Phase | None], tuple[Phase, ...]] = {
    (Assigned, None): (P,),
    # The board's answers to Start. A second answer to a repeated question changes nothing.
    (StartGranted, P): (G,),
    (StartGranted, G): (G,),
    (StartGranted, M): (R,),
    (StartGranted, U): (T,),
    (StartGranted, W): (W,),
    (StartGranted, R): (R,),
    (StartGranted, S): (S,),
    (StartGranted, D): (D,),
    (StartGranted, T): (T,),
    (StartGranted, L): (L,),
    (StartRefused, P): (W,),
    (StartRefused, G): (G,),
    (StartRefused, M): (L,),
    (StartRefused, U): (X,),
    (StartRefused, W): (W,),
    (StartRefused, R): (R,),
    (StartRefused, S): (S,),
    (StartRefused, D): (D,),
    (StartRefused, T): (T,),
    (StartRefused, L): (L,),
    # The container.
    (Prepared, P): (M,),
    (Prepared, G): (R,),
    (Prepared, W): (L, T),  # T when the start expired: the rejection is told first
    (PrepareFailed, P): (U,),
    (PrepareFailed, G): (T,),
    (PrepareFailed, W): (X, T),
    # User code and its result.
    (StepsEnded, R): (D, T),  # D after a success that leaves a result file
    (StepsEnded, S): (L,),
    (ResultRead, D): (T,),
    (ResultRead, S): (L,),
    (ResultUnreadable, D): (T,),
    (ResultUnreadable, S): (L,),
    # The report. An acknowledgement of something older changes nothing.
    (Acknowledged, P): (P,),
    (Acknowledged, G): (G,),
    (Acknowledged, M): (M,),
    (Acknowledged, U): (U,),
    (Acknowledged, W): (W,),
    (Acknowledged, R): (R,),
    (Acknowledged, S): (S,),
    (Acknowledged, D): (D,),
    (Acknowledged, T): (L, X),  # X when there is no container
    (Acknowledged, L): (L,),
    # Nobody wants it.
    (StopRequested, P): (W,),
    (StopRequested, G): (W,),
    (StopRequested, M): (L,),
    (StopRequested, U): (X,),
    (StopRequested, W): (W,),
    (StopRequested, R): (S,),
    (StopRequested, S): (S,),
    (StopRequested, D): (S,),
    (StopRequested, T): (L, X),
    (StopRequested, L): (L,),
    (CellStopping, P): (W,),
    (CellStopping, G): (W,),
    (CellStopping, M): (L,),
    (CellStopping, U): (X,),
    (CellStopping, W): (W,),
    (CellStopping, R): (S,),
    (CellStopping, S): (S,),
    (CellStopping, D): (S,),
    (CellStopping, T): (L, X),
    (CellStopping, L): (L,),
    # The end.
    (Destroyed, L): (X,),
    (DestroyFailed, L): (L,),
    # A new link: what has no answer yet is said again.
    (LinkRestored, P): (P,),
    (LinkRestored, G): (G,),
    (LinkRestored, M): (M,),
    (LinkRestored, U): (U,),
    (LinkRestored, W): (W,),
    (LinkRestored, R): (R,),
    (LinkRestored, S): (S,),
    (LinkRestored, D): (D,),
    (LinkRestored, T): (T,),
    (LinkRestored, L): (L,),
    # Nobody answered the Start. Its timer may fire in the very moment of the answer.
    (Expired, P): (W,),
    (Expired, G): (G,),
    (Expired, M): (T,),
    (Expired, U): (T,),
    (Expired, W): (W,),
    (Expired, R): (R,),
    (Expired, S): (S,),
    (Expired, D): (D,),
    (Expired, T): (T,),
    (Expired, L): (L,),
}


# -- what each pair does -----------------------------------------------------------------------------------------


def _go(phase: Phase, *commands: Command) -> _Handler:
    """A handler that only moves on."""

    def handler(work: Work, _event: Event) -> Step:
        return Step(work if work.phase is phase else _at(work, phase), commands)

    return handler


def _prepared(phase: Phase, *commands: Command) -> _Handler:
    def handler(work: Work, _event: Event) -> Step:
        return Step(_at(work, phase, container=True), commands)

    return handler


def _unmade(work: Work, event: PrepareFailed) -> Step:
    return Step(replace(work, phase=U, prepare_error=_prepare_reason(event)))


def _granted_unmade(work: Work, event: PrepareFailed) -> Step:
    return _decide(work, Rejection(_prepare_reason(event)))


def _reject_unmade(work: Work, _event: Event) -> Step:
    return _decide(work, Rejection(work.prepare_error))


def _expired(work: Work, _event: Event) -> Step:
    if work.phase is M:
        return _decide(work, Rejection(EXPIRED))
    return Step(replace(work, phase=W, outcome=Rejection(EXPIRED)), (CancelPrepare(),))


def _withdrawn(work: Work, event: Prepared | PrepareFailed) -> Step:
    work = _at(work, W, container=isinstance(event, Prepared))
    return _leave(work) if work.outcome is None else _decide(work, work.outcome)


def _stop_withdrawn(work: Work, _event: Event) -> Step:
    return Step(replace(work, outcome=None))


def _steps_ended(work: Work, event: StepsEnded) -> Step:
    if event.error is not None:
        # A failed task has no result (cell.md C1, variant A).
        return _decide(work, Completion(True, cut_reason(event.error)))
    if work.result_file:
        return Step(_at(work, D), (ReadResult(work.result_file),))
    return _decide(work, Completion(False))


def _result_read(work: Work, event: ResultRead) -> Step:
    # The wire carries text: what is not UTF-8 becomes U+FFFD (cell.md section 4).
    return _decide(work, Completion(False, "", event.content.decode("utf-8", "replace")))


def _result_unreadable(work: Work, _event: Event) -> Step:
    return _decide(work, Completion(True, RESULT_UNREADABLE))


def _report(work: Work, _event: Event) -> Step:
    assert work.outcome is not None
    return Step(work, (Report(work.outcome),))


def _settle(work: Work, _event: Event) -> Step:
    return _leave(work, JournalSettled())


def _leave_now(work: Work, _event: Event) -> Step:
    return _leave(work)


def _decide(work: Work, outcome: Outcome) -> Step:
    decided = Work(T, work.result_file, outcome, "", work.container)
    return Step(decided, (JournalOutcome(outcome), Report(outcome)))


def _leave(work: Work, *before: Command) -> Step:
    if work.container:
        return Step(_at(work, L), (*before, Destroy()))
    return Step(_at(work, X), (*before, Forget()))


def _at(work: Work, phase: Phase, *, container: bool | None = None) -> Work:
    # dataclasses.replace is five times as slow, and this is on every task's way several times.
    return Work(
        phase, work.result_file, work.outcome, work.prepare_error, work.container if container is None else container
    )


def _prepare_reason(event: PrepareFailed) -> str:
    text = _PREPARE_TEXTS[event.stage]
    if event.stage is Stage.CONTAINER:
        text = f"{text}: {event.error}"
    elif event.stage is Stage.VOLUMES and event.error:
        text = f"{text}, errors: {event.error}"
    return cut_reason(text)


_PREPARE_TEXTS = {
    Stage.DEPENDENCIES: "failed to download cached artifacts",
    Stage.VOLUMES: "failed to mount volume",
    Stage.CREDENTIALS: "failed to create credentials directory",
    Stage.FILES: "failed to create volume mounted files",
    Stage.CONTAINER: "failed to create container",
}


_Pair = tuple[type[Event], Phase]
_Handler = Callable[..., Step]
_HANDLERS: dict[_Pair, _Handler] = {
    (StartGranted, P): _go(G),
    (StartGranted, M): _go(R, RunSteps()),
    (StartGranted, U): _reject_unmade,
    (StartRefused, P): _go(W, CancelPrepare()),
    (StartRefused, M): _leave_now,
    (StartRefused, U): _leave_now,
    (Prepared, P): _prepared(M),
    (Prepared, G): _prepared(R, RunSteps()),
    (Prepared, W): _withdrawn,
    (PrepareFailed, P): _unmade,
    (PrepareFailed, G): _granted_unmade,
    (PrepareFailed, W): _withdrawn,
    (StepsEnded, R): _steps_ended,
    (StepsEnded, S): _leave_now,
    (ResultRead, D): _result_read,
    (ResultRead, S): _leave_now,
    (ResultUnreadable, D): _result_unreadable,
    (ResultUnreadable, S): _leave_now,
    (Acknowledged, T): _settle,
    (StopRequested, P): _go(W, CancelPrepare()),
    (StopRequested, G): _go(W, CancelPrepare()),
    (StopRequested, M): _leave_now,
    (StopRequested, U): _leave_now,
    (StopRequested, W): _stop_withdrawn,
    (StopRequested, R): _go(S, InterruptSteps()),
    (StopRequested, D): _go(S),
    (StopRequested, T): _settle,
    (CellStopping, P): _go(W, CancelPrepare()),
    (CellStopping, G): _go(W, CancelPrepare()),
    (CellStopping, M): _leave_now,
    (CellStopping, U): _leave_now,
    (CellStopping, W): _stop_withdrawn,
    (CellStopping, R): _go(S, InterruptSteps()),
    (CellStopping, D): _go(S),
    (CellStopping, T): _leave_now,
    (Destroyed, L): _go(X, Forget()),
    (DestroyFailed, L): _go(L, DestroyAgain()),
    (LinkRestored, P): _go(P, AskStart()),
    (LinkRestored, M): _go(M, AskStart()),
    (LinkRestored, U): _go(U, AskStart()),
    (LinkRestored, T): _report,
    (Expired, P): _expired,
    (Expired, M): _expired,
    (Expired, U): _reject_unmade,
}
