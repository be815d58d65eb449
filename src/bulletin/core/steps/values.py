"""What the step tree hears and says: events in, commands out, and the errors its steps end with (cell.md 2.1).

A *step* is one action of the tree, named by its number in the order the tree is read (the root is 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from bulletin.core.actions import DownloadAction, RunAction, UploadAction

__all__ = [
    "CancelTransfer",
    "ClearTimer",
    "Command",
    "Emit",
    "ErrorKind",
    "Event",
    "Exited",
    "Finished",
    "Interrupt",
    "Policy",
    "Ready",
    "SetTimer",
    "SignalName",
    "SignalProcess",
    "SpawnFailed",
    "SpawnProcess",
    "Spawned",
    "StartDownload",
    "StartUpload",
    "StepError",
    "StreamName",
    "TimerFired",
    "TimerName",
    "TransferEnded",
    "TransferFault",
    "TransferStarted",
    "WaitFailed",
]

StreamName = Literal["out", "err"]
SignalName = Literal["TERM", "KILL"]


class TimerName(Enum):
    """The timers a step may set; at most one of them runs in a step at a time."""

    #: The time of a timeout action.
    TIMEOUT = "timeout"
    #: From SIGTERM to SIGKILL.
    GRACEFUL = "graceful"
    #: From SIGKILL to giving up.
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator may set of the steps (cell.md section 9)."""

    #: From SIGTERM to SIGKILL.
    graceful_shutdown_seconds: float = 10.0
    #: From SIGKILL to ``process did not exit``.
    kill_seconds: float = 1.0


# -- errors ------------------------------------------------------------------------------------------------------


class ErrorKind(Enum):
    """Who may see an error's text (cell.md 2.1)."""

    #: May be shown to users: timeout and emit_progress embed it.
    EMITTABLE = "emittable"
    PLAIN = "plain"
    #: Left out of joined texts, shown when alone.
    HIDDEN = "hidden"


@dataclass(frozen=True, slots=True)
class StepError:
    """How a step failed. An empty text at the root counts as success (cell.md 2.1)."""

    text: str
    kind: ErrorKind = ErrorKind.PLAIN


# -- commands ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpawnProcess:
    """Start a process; answered by Spawned or SpawnFailed, then by Exited or WaitFailed."""

    step: int
    run: RunAction
    #: The source of its output, and whether there is any: ``run.suppress_log_output``.
    log_source: str


@dataclass(frozen=True, slots=True)
class SignalProcess:
    """Signal a process. KILL may come while it is still being spawned: then it is killed as soon as it is there."""

    step: int
    signal: SignalName


@dataclass(frozen=True, slots=True)
class StartDownload:
    """Fetch and unpack; answered by TransferStarted when its turn comes, then by TransferEnded."""

    step: int
    download: DownloadAction
    log_source: str


@dataclass(frozen=True, slots=True)
class StartUpload:
    """Read and POST; answered by TransferStarted when its turn comes, then by TransferEnded."""

    step: int
    upload: UploadAction
    log_source: str


@dataclass(frozen=True, slots=True)
class CancelTransfer:
    """Stop a download or upload; nothing it answers counts any more."""

    step: int


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Send TimerFired after ``seconds``."""

    step: int
    name: TimerName
    seconds: float


@dataclass(frozen=True, slots=True)
class ClearTimer:
    """Forget the timer."""

    step: int
    name: TimerName


@dataclass(frozen=True, slots=True)
class Emit:
    """Write ``text``, which ends with a newline, to the step's log stream, behind what its process wrote."""

    step: int
    source: str
    stream: StreamName
    text: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The last process has been started; at most once, and never after Finished."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The tree has ended; the last command. ``error`` is the task's failure reason, None is success."""

    error: str | None


Command = (
    SpawnProcess
    | SignalProcess
    | StartDownload
    | StartUpload
    | CancelTransfer
    | SetTimer
    | ClearTimer
    | Emit
    | Ready
    | Finished
)

# -- events ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawned:
    """The process runs."""

    step: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """The process could not be created; ``text`` is the runtime's."""

    step: int
    text: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The process has ended and all of its output has been written."""

    step: int
    #: 0 to 255; 128 + signal for a signalled process.
    status: int
    #: Whether the container had an out-of-memory kill by now.
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class WaitFailed:
    """The runtime lost the process."""

    step: int
    text: str


@dataclass(frozen=True, slots=True)
class TransferStarted:
    """A download or upload got its slot and begins."""

    step: int


class TransferFault(Enum):
    """Where a download or upload failed; decides its texts (cell.md 2.3, 2.4)."""

    #: Download: fetching, parsing, checksum, format.
    FETCH = "fetch"
    #: Download: unpacking into the container.
    COPY = "copy"
    #: Upload: the address cannot be parsed.
    URL = "url"
    #: Upload: no temporary directory.
    TEMP_DIR = "temp_dir"
    #: Upload: no temporary file.
    TEMP_FILE = "temp_file"
    #: Upload: spooling.
    SPOOL = "spool"
    #: Upload: the container gave no stream.
    STREAM = "stream"
    #: Upload: file missing or unreadable.
    FIRST_ITEM = "first_item"
    #: Upload: all attempts failed.
    ATTEMPTS = "attempts"
    #: The cell cannot do it at all: the text is the reason, plain and unlogged.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class TransferEnded:
    """A download or upload has ended: well when ``fault`` is None and it was not cancelled."""

    step: int
    #: What was moved; 0 for a download served from the cache.
    size_bytes: int = 0
    fault: TransferFault | None = None
    #: The error behind ``fault``.
    text: str = ""
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer ran out. One that was cleared meanwhile changes nothing."""

    step: int
    name: TimerName


@dataclass(frozen=True, slots=True)
class Interrupt:
    """The one signal to the whole tree; a second one changes nothing."""


Event = Spawned | SpawnFailed | Exited | WaitFailed | TransferStarted | TransferEnded | TimerFired | Interrupt
