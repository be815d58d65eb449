"""What a call to a board may raise: one hierarchy, made from the error types of the wire (board-api.md section 4).

``Refused`` and its kinds are answers: the board was reached, said no, and nothing was changed by the call.
``BoardUnreachable`` is the absence of an answer: the call may or may not have had its effect. Every error carries a
``hint``, the thing to do next, and both stand in its text.
"""

from __future__ import annotations

import re

from bulletin.core.errors import ErrorType
from bulletin.core.model import TaskState

__all__ = [
    "BoardError",
    "BoardFault",
    "BoardTimeout",
    "BoardUnreachable",
    "Forbidden",
    "InvalidRequest",
    "InvalidTransition",
    "OutputNotFound",
    "Refused",
    "ResourceConflict",
    "RunningOnAnotherCell",
    "TaskExists",
    "TaskGone",
    "TaskNotFound",
    "WaitTimeout",
    "forbidden",
    "refusal",
]


class BoardError(Exception):
    """Anything that went wrong between a client and its board.

    Attributes:
        message: what happened, without the hint.
        hint: what to do next.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}"


class BoardUnreachable(BoardError):
    """No usable answer came after every attempt; whether the call had its effect is not known.

    Attributes:
        url: the board that was asked; several, separated by commas, when there were several.
    """

    def __init__(self, url: str, cause: str, hint: str | None = None) -> None:
        super().__init__(
            f"the board at {url} cannot be reached: {cause}",
            hint or "start one with `bulletin up`, or check the address (--board, BULLETIN_BOARD)",
        )
        self.args = (url, cause, hint)
        self.url = url
        self.cause = cause


class BoardTimeout(BoardUnreachable):
    """The board was reached and did not answer in time."""


class Refused(BoardError):
    """The board answered no.

    Attributes:
        type: the wire's error type.
        text: the board's own words.
        repeated: whether an earlier attempt of the same call may have reached the board, its answer being lost; then
            the refusal may be the echo of the call's own success.
    """

    advice = "the board's log tells more"
    #: The message when it is known which task, cell or domain the call was about; else it is the text alone.
    about = "{subject}: {text}"

    def __init__(self, type: ErrorType, text: str, *, subject: str = "") -> None:  # noqa: A002 - the wire's word
        super().__init__(self.about.format(subject=subject, text=text) if subject else text, self.advice)
        self.args = (type, text)
        self.type = type
        self.text = text
        self.subject = subject
        self.repeated = False

    def __reduce__(self) -> tuple[object, ...]:
        return _restore_refusal, (type(self), self.type, self.text, self.subject)


class TaskNotFound(Refused):
    """No task has that guid (any more)."""

    advice = "`bulletin task list` shows the tasks there are; an ended task is removed once its outcome was delivered"
    about = "there is no task {subject}"


class TaskExists(Refused):
    """A task of that guid exists, in whatever state and domain."""

    advice = "choose another guid, or remove that task first (`bulletin task delete GUID`)"
    about = "a task {subject} exists already"


class InvalidRequest(Refused):
    """The request cannot be right; nothing was stored.

    Attributes:
        problems: one text for each problem the board found, in its order: ``Invalid field: rootfs``.
    """

    advice = "correct what is named and send it again"
    about = "the request is refused: {text}"

    @property
    def problems(self) -> tuple[str, ...]:
        """The board's list, taken apart (board-api.md section 5)."""
        return tuple(self.text.split(", "))


class InvalidTransition(Refused):
    """The task is not in a state that allows this (board-api.md 4.4).

    Attributes:
        from_state: the state it is in; None when the text does not tell.
        to_state: the state it was to go to; None when the text does not tell.
    """

    advice = "look at the task (`bulletin task get GUID`): it has moved on, perhaps by an earlier attempt of this call"

    def __init__(self, type: ErrorType, text: str, *, subject: str = "") -> None:  # noqa: A002 - the wire's word
        super().__init__(type, text, subject=subject)
        match = re.fullmatch(r"Cannot transition from (\w+) to (\w+)", text)
        names = TaskState.__members__
        self.from_state = names.get(match[1].upper()) if match else None
        self.to_state = names.get(match[2].upper()) if match else None


class RunningOnAnotherCell(Refused):
    """A cell spoke for a task that another cell runs.

    Attributes:
        actual: the cell that runs it; empty when the text does not tell.
        requested: the cell that spoke; empty when the text does not tell.
    """

    advice = "give the task up: it belongs to the other cell"

    def __init__(self, type: ErrorType, text: str, *, subject: str = "") -> None:  # noqa: A002 - the wire's word
        super().__init__(type, text, subject=subject)
        match = re.fullmatch(r"Running on cell (.*) not (.*)", text, re.DOTALL)
        self.actual = match[1] if match else ""
        self.requested = match[2] if match else ""


class Forbidden(Refused):
    """Our certificate has no role that may do this; the text names the roles that may (design promise S14)."""

    advice = "call with a certificate that has such a role (--cert, --key)"


class ResourceConflict(Refused):
    """Something else was changing it at the same time."""

    advice = "try again"


class BoardFault(Refused):
    """The board could not do it, through no fault of the caller: a store that fails, a record that cannot be read."""


class OutputNotFound(BoardError):
    """There is no kept output: the task has not ended, ended long ago, or this board keeps none."""

    def __init__(self, guid: str, reason: str) -> None:
        super().__init__(
            f"there is no output of task {guid}: {reason}",
            "output is kept for a while after the end of a task that had a log_guid, by boards of Bulletin",
        )
        self.args = (guid, reason)
        self.guid = guid


class TaskGone(BoardError):
    """A task that was waited for was removed and nothing told its outcome."""

    def __init__(self, guid: str, reason: str) -> None:
        super().__init__(
            f"task {guid} is gone and its outcome is not known: {reason}",
            "whatever consumed its outcome (a completion callback, another client) knows it",
        )
        self.args = (guid, reason)
        self.guid = guid


class WaitTimeout(BoardError, TimeoutError):
    """A task did not end in the time the caller had; the task goes on."""

    def __init__(self, guid: str, seconds: float) -> None:
        super().__init__(
            f"task {guid} has not ended within {seconds:g} s",
            "it goes on: wait again (`bulletin task wait GUID`) or cancel it (`bulletin task cancel GUID`)",
        )
        self.args = (guid, seconds)
        self.guid = guid
        self.seconds = seconds


_KINDS: dict[ErrorType, type[Refused]] = {
    ErrorType.RESOURCE_NOT_FOUND: TaskNotFound,
    ErrorType.RESOURCE_EXISTS: TaskExists,
    ErrorType.INVALID_REQUEST: InvalidRequest,
    ErrorType.INVALID_RECORD: InvalidRequest,
    ErrorType.INVALID_STATE_TRANSITION: InvalidTransition,
    ErrorType.RUNNING_ON_DIFFERENT_CELL: RunningOnAnotherCell,
    ErrorType.RESOURCE_CONFLICT: ResourceConflict,
    ErrorType.DEADLOCK: ResourceConflict,
    ErrorType.LOCK_COLLISION: ResourceConflict,
}


def refusal(type_number: int, text: str, subject: str = "") -> Refused:
    """The error for an ``Error`` message of the wire; an unknown type counts as ``UnknownError``, as in Diego.

    Args:
        type_number: ``Error.type``.
        text: ``Error.message``.
        subject: the guid, cell or domain the call was about, for the message; may be empty.
    """
    try:
        kind = ErrorType(type_number)
    except ValueError:
        kind = ErrorType.UNKNOWN_ERROR
    return _KINDS.get(kind, BoardFault)(kind, text or "the board gave no reason", subject=subject)


def forbidden(text: str) -> Forbidden:
    """The error for an answer 403, whose text is in a message of the wire or plain."""
    return Forbidden(ErrorType.INVALID_REQUEST, text.strip() or "the board gave no reason")


def _restore_refusal(kind: type[Refused], error_type: ErrorType, text: str, subject: str) -> Refused:
    return kind(error_type, text, subject=subject)
