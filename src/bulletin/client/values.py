"""What a client hands back besides tasks: outcomes, lines of output, events with their places, cells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from bulletin.core.model import Task, TaskState
from bulletin.core.operations import Event
from bulletin.wire.ownevents import Missed

__all__ = ["ENDED_STATES", "Cell", "Followed", "Missed", "Outcome", "OutputLine"]

#: A task in one of these has its outcome.
ENDED_STATES: Final = frozenset({TaskState.COMPLETED, TaskState.RESOLVING})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended."""

    #: The task as it was when its end was told.
    task: Task

    @property
    def guid(self) -> str:
        """The task's guid."""
        return self.task.guid

    @property
    def succeeded(self) -> bool:
        """Whether it did what it was to do."""
        return not self.task.failed

    @property
    def result(self) -> str:
        """The content of the result file; empty when none was asked for or the task failed."""
        return self.task.result

    @property
    def failure_reason(self) -> str:
        """Why it failed; may be set on success too, as the cell sent it (board-api.md section 6)."""
        return self.task.failure_reason

    @property
    def exit_status(self) -> int | None:
        """The exit status of its process, as the outcome tells it (cell.md 2.2).

        0 for a success; the number of the one ``Exited with status N`` in a failure's reason; None for a failure that
        names none or several, such as a cancelled task or one that no cell took.
        """
        if self.succeeded:
            return 0
        statuses = _EXIT_STATUS.findall(self.failure_reason)
        return int(statuses[0]) if len(statuses) == 1 else None


_EXIT_STATUS: Final = re.compile(r"(?<!\w)Exited with status ([0-9]{1,3})(?![0-9])")


@dataclass(frozen=True, slots=True)
class OutputLine:
    """One line of a task's kept output, without its line end (cell.md section 10)."""

    #: When it was read, nanoseconds since the Unix epoch.
    time_ns: int
    stream: Literal["out", "err"]
    #: The action's ``log_source``; the cell's own lines have the task's.
    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Followed:
    """One event of a stream that can be resumed, or word of events that were lost."""

    #: To be passed as ``after`` to go on behind it; empty when the board has no stream that can be resumed.
    position: str
    #: ``Missed`` says that something happened which nobody can tell any more: look at the tasks.
    event: Event | Missed


@dataclass(frozen=True, slots=True)
class Cell:
    """A present cell and all that it has; what is taken of it follows from the tasks that run there."""

    cell_id: str
    zone: str
    memory_mb: int
    disk_mb: int
    containers: int
    #: Schemes of which any rootfs will do: ``docker``.
    arbitrary_rootfs: frozenset[str] = frozenset()
    #: Scheme to the names it has: ``{"preloaded": {"cflinuxfs4"}}``.
    fixed_rootfs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    placement_tags: frozenset[str] = frozenset()
    optional_placement_tags: frozenset[str] = frozenset()
    #: Where a Diego cell listens; empty for a cell that dialled its board.
    rep_url: str = ""
