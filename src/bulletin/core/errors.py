"""The error taxonomy: what went wrong, in the wire's own types, and who is to blame.

Every refusal a caller can see is a ``TaskError``; its type and text are those of board-api.md section 4, which
clients compare byte for byte. Anything else that is raised is a defect of ours or a fault of the environment.
"""

from __future__ import annotations

from enum import Enum, IntEnum

__all__ = [
    "Blame",
    "ErrorType",
    "TaskError",
    "bad_request",
    "conflicting_cell",
    "invalid_fields",
    "transition",
    "unstorable",
]


class ErrorType(IntEnum):
    """``Error.Type`` of the wire (board-api.md 4.1); the LRP ones are named where phase 2 needs them."""

    UNKNOWN_ERROR = 0
    INVALID_RECORD = 3
    INVALID_REQUEST = 4
    INVALID_RESPONSE = 5
    INVALID_PROTOBUF_MESSAGE = 6
    INVALID_JSON = 7
    FAILED_TO_OPEN_ENVELOPE = 8
    INVALID_STATE_TRANSITION = 9
    RESOURCE_CONFLICT = 11
    RESOURCE_EXISTS = 12
    RESOURCE_NOT_FOUND = 13
    ROUTER_ERROR = 14
    RUNNING_ON_DIFFERENT_CELL = 24
    GUID_GENERATION = 26
    DESERIALIZE = 27
    DEADLOCK = 28
    UNRECOVERABLE = 29
    LOCK_COLLISION = 30
    TIMEOUT = 31


class Blame(Enum):
    """Whose fault an error is; decides log level and whether a retry can help."""

    CALLER = "caller"
    PEER = "peer"
    ENVIRONMENT = "environment"
    OURS = "ours"


_TEXTS = {
    ErrorType.RESOURCE_NOT_FOUND: "the requested resource could not be found",
    ErrorType.RESOURCE_EXISTS: "the requested resource already exists",
    ErrorType.RESOURCE_CONFLICT: "the requested resource is in a conflicting state",
    ErrorType.DEADLOCK: "the request failed due to deadlock",
    ErrorType.INVALID_REQUEST: "the request received is invalid",
    ErrorType.UNKNOWN_ERROR: "the request failed for an unknown reason",
    ErrorType.DESERIALIZE: "could not deserialize record",
    ErrorType.FAILED_TO_OPEN_ENVELOPE: "could not open envelope",
    ErrorType.LOCK_COLLISION: "lock already exists",
    ErrorType.GUID_GENERATION: "cannot generate random guid",
}


class TaskError(Exception):
    """A refusal that travels to the caller inside the answer's ``error`` field.

    Args:
        type: the wire type.
        message: the text; the fixed one of board-api.md 4.2 when left out.
        blame: who has to change something for it to go away.
    """

    def __init__(self, type: ErrorType, message: str | None = None, blame: Blame = Blame.CALLER) -> None:  # noqa: A002
        text = _TEXTS.get(type, "") if message is None else message
        super().__init__(text)
        self.type = type
        self.message = text
        self.blame = blame

    def __repr__(self) -> str:
        return f"TaskError({self.type.name}, {self.message!r})"


def bad_request() -> TaskError:
    """The one text for a request that could not be read at all (board-api.md 1.3)."""
    return TaskError(ErrorType.INVALID_REQUEST)


def invalid_fields(problems: list[str]) -> TaskError:
    """All problems of a request in one error, joined as board-api.md section 5 says."""
    return TaskError(ErrorType.INVALID_REQUEST, ", ".join(problems))


def transition(from_label: str, to_label: str) -> TaskError:
    """``Cannot transition from <From> to <To>`` (board-api.md 4.2)."""
    return TaskError(ErrorType.INVALID_STATE_TRANSITION, f"Cannot transition from {from_label} to {to_label}")


def conflicting_cell(actual: str, requested: str) -> TaskError:
    """``Running on cell <actual> not <requested>`` (board-api.md 4.2)."""
    return TaskError(ErrorType.RUNNING_ON_DIFFERENT_CELL, f"Running on cell {actual} not {requested}")


def unstorable() -> TaskError:
    """A text with U+0000, which PostgreSQL does not hold (board-api.md 4.3); refused whatever the store is."""
    return TaskError(ErrorType.UNKNOWN_ERROR, 'invalid byte sequence for encoding "UTF8": 0x00')
