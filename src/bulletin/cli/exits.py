"""What the exit status of every command means, and what is said when a command cannot go on."""

from __future__ import annotations

from typing import Final

from bulletin.client.errors import (
    BoardError,
    BoardUnreachable,
    InvalidRequest,
    InvalidTransition,
    OutputNotFound,
    ResourceConflict,
    RunningOnAnotherCell,
    TaskExists,
    TaskNotFound,
    WaitTimeout,
)

__all__ = [
    "CONFLICT",
    "FAILED",
    "HUNG_UP",
    "INTERRUPTED",
    "NOT_FOUND",
    "OK",
    "PIPE_CLOSED",
    "SUMMARY",
    "TERMINATED",
    "TIMEOUT",
    "UNREACHABLE",
    "USAGE",
    "CommandFailed",
    "status_of",
]

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
CONFLICT: Final = 4
UNREACHABLE: Final = 5
TIMEOUT: Final = 124
HUNG_UP: Final = 129
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141
TERMINATED: Final = 143

SUMMARY: Final = """\
Exit status:
  0 ok             1 failed         2 wrong usage    3 not found
  4 conflict       5 no board       124 timed out    130 interrupted"""

_STATUSES: Final[tuple[tuple[type[BoardError], int], ...]] = (
    (TaskNotFound, NOT_FOUND),
    (OutputNotFound, NOT_FOUND),
    (TaskExists, CONFLICT),
    (InvalidTransition, CONFLICT),
    (ResourceConflict, CONFLICT),
    (RunningOnAnotherCell, CONFLICT),
    (InvalidRequest, USAGE),
    (BoardUnreachable, UNREACHABLE),
    (WaitTimeout, TIMEOUT),
)


class CommandFailed(Exception):
    """A command cannot go on, for a reason its user can do something about.

    Attributes:
        message: one line, what is wrong.
        hint: what to do about it; may be empty.
        status: the exit status.
    """

    def __init__(self, message: str, hint: str = "", status: int = FAILED) -> None:
        super().__init__(message, hint, status)
        self.message = message
        self.hint = hint
        self.status = status

    def __str__(self) -> str:
        return self.message


def status_of(error: BoardError) -> int:
    """The exit status for an error of the client."""
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return status
    return FAILED
