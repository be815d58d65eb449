"""The action tree as a state machine (cell.md section 2).

``begin(root)`` gives a tree and the first commands; ``advance(tree, event, policy)`` gives the next tree and what to
do. The last command is ``Finished``. A tree is a value: ``to_data`` and ``from_data`` carry it over a restart.
"""

from __future__ import annotations

from bulletin.core.steps.machine import CANCELLED, CODEPENDENT_EXITED, KILLED, UnexpectedEvent, advance, begin
from bulletin.core.steps.texts import duration_text, size_text
from bulletin.core.steps.tree import DEFAULT_LOG_SOURCE, Tree, from_data, sole_run, to_data
from bulletin.core.steps.values import (
    CancelTransfer,
    ClearTimer,
    Command,
    Emit,
    ErrorKind,
    Event,
    Exited,
    Finished,
    Interrupt,
    Policy,
    Ready,
    SetTimer,
    SignalName,
    SignalProcess,
    Spawned,
    SpawnFailed,
    SpawnProcess,
    StartDownload,
    StartUpload,
    StepError,
    StreamName,
    TimerFired,
    TimerName,
    TransferEnded,
    TransferFault,
    TransferStarted,
    WaitFailed,
)

__all__ = [
    "CANCELLED",
    "CODEPENDENT_EXITED",
    "DEFAULT_LOG_SOURCE",
    "KILLED",
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
    "Tree",
    "UnexpectedEvent",
    "WaitFailed",
    "advance",
    "begin",
    "duration_text",
    "from_data",
    "size_text",
    "sole_run",
    "to_data",
]
