"""What may be asked of a task, and what comes of it: operations, events and effects.

Plain values. ``core.lifecycle`` says which operation is allowed when and what it leads to.
"""

from __future__ import annotations

from dataclasses import dataclass

from bulletin.core.model import CallbackAttempt, Definition, Task

__all__ = [
    "Cancel",
    "CellDisappeared",
    "Complete",
    "Delete",
    "Deliver",
    "DeliverCallback",
    "Demote",
    "Desire",
    "Effect",
    "Event",
    "Expire",
    "Fail",
    "Operation",
    "Place",
    "Prune",
    "RecordAttempts",
    "Reject",
    "Resolving",
    "Start",
    "Stop",
    "TaskChanged",
    "TaskCreated",
    "TaskRemoved",
]

# -- operations: what callers, cells and convergence ask for -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Desire:
    """A client wants a task; the guid has to be free, or its task delivered and only kept for late pollers."""

    guid: str
    domain: str
    definition: Definition


@dataclass(frozen=True, slots=True)
class Start:
    """A cell claims a task before it runs any of its code."""

    guid: str
    cell_id: str


@dataclass(frozen=True, slots=True)
class Complete:
    """The cell that runs a task tells its outcome."""

    guid: str
    cell_id: str
    failed: bool
    failure_reason: str
    result: str


@dataclass(frozen=True, slots=True)
class Fail:
    """Anybody fails a task."""

    guid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """A client takes a task back."""

    guid: str


@dataclass(frozen=True, slots=True)
class Reject:
    """No cell for a task, or its cell could not make the container: try again, or fail after enough tries."""

    guid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Resolving:
    """Somebody, and only one, takes it on to tell the outcome."""

    guid: str


@dataclass(frozen=True, slots=True)
class Deliver:
    """The outcome was told; the task stays readable for a while (design section 6). Changes nothing on the wire."""

    guid: str
    #: Attempts that were not recorded yet, oldest first; the last of them told it.
    attempts: tuple[CallbackAttempt, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordAttempts:
    """Attempts to tell the outcome came to nothing, oldest first. Changes nothing on the wire."""

    guid: str
    attempts: tuple[CallbackAttempt, ...]


@dataclass(frozen=True, slots=True)
class Delete:
    """The outcome was told; the task goes."""

    guid: str


@dataclass(frozen=True, slots=True)
class Expire:
    """Convergence: pending for too long."""

    guid: str


@dataclass(frozen=True, slots=True)
class CellDisappeared:
    """Convergence: its cell is gone."""

    guid: str


@dataclass(frozen=True, slots=True)
class Demote:
    """Convergence: the resolver did not finish; back to Completed, times untouched."""

    guid: str


@dataclass(frozen=True, slots=True)
class Prune:
    """Convergence: completed and nobody came for it."""

    guid: str


Operation = (
    Desire
    | Start
    | Complete
    | Fail
    | Cancel
    | Reject
    | Resolving
    | Deliver
    | RecordAttempts
    | Delete
    | Expire
    | CellDisappeared
    | Demote
    | Prune
)

# -- what comes of them ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TaskCreated:
    """The event ``task_created``."""

    task: Task


@dataclass(frozen=True, slots=True)
class TaskChanged:
    """The event ``task_changed``."""

    before: Task
    after: Task


@dataclass(frozen=True, slots=True)
class TaskRemoved:
    """The event ``task_removed``; carries the task as last stored."""

    task: Task


Event = TaskCreated | TaskChanged | TaskRemoved


@dataclass(frozen=True, slots=True)
class Place:
    """Find a cell for the task."""

    guid: str


@dataclass(frozen=True, slots=True)
class DeliverCallback:
    """Tell the completion callback."""

    guid: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Whoever holds the task's container has no more reason to; ``cell_id`` may be empty when none was recorded."""

    guid: str
    cell_id: str


Effect = Place | DeliverCallback | Stop
