"""What a task on a cell can be, hear and ask for: phases, events, commands, outcomes and the work itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

__all__ = [
    "Acknowledged",
    "AskStart",
    "Assigned",
    "CancelPrepare",
    "CellStopping",
    "Command",
    "Completion",
    "Destroy",
    "DestroyAgain",
    "DestroyFailed",
    "Destroyed",
    "Event",
    "Expired",
    "Forget",
    "InterruptSteps",
    "JournalAccepted",
    "JournalOutcome",
    "JournalSettled",
    "LinkRestored",
    "Outcome",
    "Phase",
    "Prepare",
    "PrepareFailed",
    "Prepared",
    "ReadResult",
    "Rejection",
    "Report",
    "ResultRead",
    "ResultUnreadable",
    "RunSteps",
    "Stage",
    "StartGranted",
    "StartRefused",
    "StepsEnded",
    "StopRequested",
    "Work",
]


class Phase(Enum):
    """How far a task is on its cell."""

    #: The container is being made, and the board has not answered.
    PREPARING = "preparing"
    #: The board granted the start, the container is still being made.
    GRANTED = "granted"
    #: The container is there, the board has not answered.
    MADE = "made"
    #: The container could not be made, the board has not answered.
    UNMADE = "unmade"
    #: Nobody wants it any more, and the making of the container is being ended.
    WITHDRAWN = "withdrawn"
    #: User code runs.
    RUNNING = "running"
    #: Nobody wants it any more, and what runs is being ended.
    STOPPING = "stopping"
    #: User code has ended well, its result file is being read.
    READING = "reading"
    #: The outcome is decided and the board has not acknowledged it.
    REPORTING = "reporting"
    #: The container is being destroyed.
    LEAVING = "leaving"
    GONE = "gone"


class Stage(Enum):
    """Where making a container failed; decides the text (cell.md 1.3)."""

    DEPENDENCIES = "dependencies"
    VOLUMES = "volumes"
    CREDENTIALS = "credentials"
    FILES = "files"
    CONTAINER = "container"


# -- outcomes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Completion:
    """User code ran; this is what became of it."""

    failed: bool
    failure_reason: str = ""
    result: str = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """User code never ran; another try may succeed."""

    reason: str


Outcome = Completion | Rejection

# -- events ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Assigned:
    """The board gave the task to this cell: the first event."""


@dataclass(frozen=True, slots=True)
class StartGranted:
    """The board made the task Running here, durably."""


@dataclass(frozen=True, slots=True)
class StartRefused:
    """The task is not this cell's to run."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The container is there and nothing runs in it."""


@dataclass(frozen=True, slots=True)
class PrepareFailed:
    """The container could not be made, and nothing of it is left."""

    #: The error as the user may see it; what cell.md 1.3 puts around it depends on ``stage``.
    error: str
    stage: Stage = Stage.CONTAINER


@dataclass(frozen=True, slots=True)
class StepsEnded:
    """The step tree has finished; None is success."""

    error: str | None


@dataclass(frozen=True, slots=True)
class ResultRead:
    """The result file's bytes, at most ``RESULT_BYTES_MAX``."""

    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ResultUnreadable:
    """There is no usable result file."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The board has the outcome, or does not want it any more."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Cancelled, or no longer this cell's: end it and report nothing."""


@dataclass(frozen=True, slots=True)
class CellStopping:
    """The cell shuts down: end it; an outcome in the journal is for the next process to report."""


@dataclass(frozen=True, slots=True)
class Destroyed:
    """Nothing of the container is left."""


@dataclass(frozen=True, slots=True)
class DestroyFailed:
    """Something of the container is left."""


@dataclass(frozen=True, slots=True)
class LinkRestored:
    """The link is new; what was said on the old one may be lost."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The board did not answer the Start in time."""


Event = (
    Assigned
    | StartGranted
    | StartRefused
    | Prepared
    | PrepareFailed
    | StepsEnded
    | ResultRead
    | ResultUnreadable
    | Acknowledged
    | StopRequested
    | CellStopping
    | Destroyed
    | DestroyFailed
    | LinkRestored
    | Expired
)

# -- commands ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JournalAccepted:
    """Write down that the task is here."""


@dataclass(frozen=True, slots=True)
class AskStart:
    """Ask the board for leave; Expired follows when it says nothing for too long."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make the container; answered by Prepared or PrepareFailed, once."""


@dataclass(frozen=True, slots=True)
class CancelPrepare:
    """Hurry the end of Prepare; it is answered all the same."""


@dataclass(frozen=True, slots=True)
class RunSteps:
    """Run user code; answered by StepsEnded."""


@dataclass(frozen=True, slots=True)
class InterruptSteps:
    """Give the step tree its one signal."""


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Read the result file; answered by ResultRead or ResultUnreadable."""

    path: str


@dataclass(frozen=True, slots=True)
class JournalOutcome:
    """Write the outcome down, before it is reported."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the board the outcome; nothing happens while there is no link, LinkRestored brings it again."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class JournalSettled:
    """Write down that the outcome needs no more telling."""


@dataclass(frozen=True, slots=True)
class Destroy:
    """Destroy the container; answered by Destroyed or DestroyFailed."""


@dataclass(frozen=True, slots=True)
class DestroyAgain:
    """The same after a pause, which grows."""


@dataclass(frozen=True, slots=True)
class Forget:
    """The last command: tell the board that what it took is free, and drop it."""


Command = (
    JournalAccepted
    | AskStart
    | Prepare
    | CancelPrepare
    | RunSteps
    | InterruptSteps
    | ReadResult
    | JournalOutcome
    | Report
    | JournalSettled
    | Destroy
    | DestroyAgain
    | Forget
)

# -- the work ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Work:
    """What a cell knows of one task. Only ``step`` makes a changed one."""

    phase: Phase
    #: The definition's ``result_file``; empty: nobody asked for one.
    result_file: str = ""
    #: Set from the moment it is decided: in REPORTING, and in WITHDRAWN when a report follows.
    outcome: Outcome | None = None
    #: Why the container could not be made; set in UNMADE.
    prepare_error: str = ""
    #: Whether there is a container to destroy.
    container: bool = False
