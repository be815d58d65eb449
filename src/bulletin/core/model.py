"""The values everything else speaks about: tasks, definitions, resources, cells.

All are frozen. A ``Task`` is what the board keeps; the wire's ``Task`` message is made from it. The definition
travels as the bytes it came in (canonical protobuf, opaque here); beside them stand the few facts that decisions
need, so that the core never parses a message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

__all__ = ["CallbackAttempt", "CellState", "Definition", "Resources", "Task", "TaskState"]


class TaskState(IntEnum):
    """``Task.State`` of the wire (board-api.md 3.3)."""

    INVALID = 0
    PENDING = 1
    RUNNING = 2
    COMPLETED = 3
    RESOLVING = 4

    @property
    def label(self) -> str:
        """The name as error texts and JSON print it: ``Pending``."""
        return self.name.capitalize()


@dataclass(frozen=True, slots=True)
class Resources:
    """An amount of what a cell has and a task takes; units in the names."""

    memory_mb: int = 0
    disk_mb: int = 0
    containers: int = 1

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            self.memory_mb + other.memory_mb, self.disk_mb + other.disk_mb, self.containers + other.containers
        )

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            self.memory_mb - other.memory_mb, self.disk_mb - other.disk_mb, self.containers - other.containers
        )

    def covers(self, other: Resources) -> bool:
        """Whether an amount ``other`` fits into this one."""
        return (
            self.memory_mb >= other.memory_mb and self.disk_mb >= other.disk_mb and self.containers >= other.containers
        )


@dataclass(frozen=True, slots=True)
class Definition:
    """A task definition: its canonical bytes and the facts that placement and callbacks decide by."""

    #: ``models.TaskDefinition`` in canonical protobuf, without unknown fields.
    encoded: bytes
    #: The URL as desired, scheme included.
    rootfs: str
    memory_mb: int = 0
    disk_mb: int = 0
    max_pids: int = 0
    #: In the order desired; compared as a set (cell.md 7.4).
    placement_tags: tuple[str, ...] = ()
    #: The driver of every volume mount, in order (board-api.md 6).
    volume_drivers: tuple[str, ...] = ()
    #: Empty: nobody is called back.
    completion_callback_url: str = ""

    @property
    def resources(self) -> Resources:
        """What the task takes from a cell; every task takes one container."""
        return Resources(self.memory_mb, self.disk_mb, 1)


@dataclass(frozen=True, slots=True)
class CallbackAttempt:
    """One attempt to tell a task's outcome to its callback URL (board-api.md 8, design section 6)."""

    #: When it began, ns since the Unix epoch.
    at: int
    duration_ns: int
    #: The HTTP status of the last answer, redirects followed; 0: no answer came.
    status: int
    #: Why the outcome does not count as told; empty: it does.
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """One task as the board keeps it (board-api.md 3.3). Times are nanoseconds since the Unix epoch, 0 = never.

    Only ``core.lifecycle.step`` makes a changed one, only ``board.writer`` keeps it.
    """

    guid: str
    domain: str
    definition: Definition
    state: TaskState
    created_at: int
    updated_at: int
    first_completed_at: int = 0
    cell_id: str = ""
    result: str = ""
    failed: bool = False
    failure_reason: str = ""
    rejection_count: int = 0
    rejection_reason: str = ""
    #: When the callback was delivered; the task is then Resolving and kept for ``resolved_retention`` (design 6).
    #: Not on the wire.
    delivered_at: int = 0
    #: The attempts to tell the outcome, oldest first; only the newest are kept. Not on the wire.
    attempts: tuple[CallbackAttempt, ...] = ()


@dataclass(frozen=True, slots=True)
class CellState:
    """A present cell as placement sees it (cell.md 7.4, 7.5, 8.1)."""

    cell_id: str
    zone: str
    total: Resources
    #: What is left of ``total`` after every container the cell holds or was promised.
    available: Resources
    #: Schemes whose every rootfs the cell can run (``docker``).
    arbitrary_rootfs: frozenset[str] = frozenset()
    #: Scheme to the opaque parts it has: ``{"preloaded": {"cflinuxfs4"}}``.
    fixed_rootfs: dict[str, frozenset[str]] = field(default_factory=dict)
    volume_drivers: frozenset[str] = frozenset()
    placement_tags: frozenset[str] = frozenset()
    optional_placement_tags: frozenset[str] = frozenset()
    #: Task containers on the cell, completed ones that still exist included.
    task_count: int = 0
    #: Those of them whose user code has not begun.
    starting_count: int = 0
    #: Draining: takes nothing new.
    evacuating: bool = False
