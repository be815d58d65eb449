"""Task events as server-sent events (board-api.md section 11): both directions, without I/O.

An event is encoded once and shared by all subscribers: ``encode_event`` makes what they have in common, ``frame`` puts
a connection's own number before it.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from bulletin.core.errors import Blame, ErrorType, TaskError
from bulletin.core.limits import EVENT_LINE_BYTES_MAX
from bulletin.core.operations import Event, TaskChanged, TaskCreated, TaskRemoved
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.routes import Form
from bulletin.wire.splicing import delimited
from bulletin.wire.tasks import decode_task, encode_task_as

__all__ = ["HEARTBEAT", "EventParser", "RawEvent", "decode_event", "encode_event", "frame"]

#: A comment: read and forgotten by every client, so it may be sent to find dead connections (board-api.md 11.1).
HEARTBEAT: Final = b":\n\n"

#: Field numbers 1 and 2 of the event messages, length-delimited.
_FIRST_TAG: Final = b"\x0a"
_SECOND_TAG: Final = b"\x12"


# -- writing -----------------------------------------------------------------------------------------------------


def encode_event(event: Event, form: Form = "v3") -> bytes:
    """The part of an event that all subscribers of a form share: everything but its id.

    Raises:
        TaskError: Deserialize, in the V2 form, when a stored definition cannot be read.
    """
    if isinstance(event, TaskChanged):
        name = b"task_changed"
        payload = delimited(_FIRST_TAG, encode_task_as(event.before, form)) + delimited(
            _SECOND_TAG, encode_task_as(event.after, form)
        )
    else:
        name = b"task_created" if isinstance(event, TaskCreated) else b"task_removed"
        payload = delimited(_FIRST_TAG, encode_task_as(event.task, form))
    return b"event: %b\ndata: %b\n" % (name, binascii.b2a_base64(payload))


def frame(first_id: int, tails: Iterable[bytes]) -> bytes:
    """Events as they are sent: ids count from 0 on each connection, ``tails`` are from ``encode_event``."""
    return b"".join([b"id: %d\n%b" % numbered for numbered in enumerate(tails, first_id)])


# -- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RawEvent:
    """An event as it came: the last id seen, its name, its data with lines joined by newlines."""

    id: str
    name: str
    data: str


class EventParser:
    """Takes the bytes of a stream as they come and gives the events that are complete.

    Comments, unknown fields and events without data are skipped; lines end with CRLF, LF or CR; an event may have
    several lines of data. ``retry_ms`` is the last reconnection time the server asked for. After a ``TaskError`` the
    stream is of no more use.
    """

    __slots__ = (
        "_after_cr",
        "_data",
        "_data_bytes",
        "_first",
        "_id",
        "_name",
        "_pending",
        "_pending_bytes",
        "retry_ms",
    )

    def __init__(self) -> None:
        self.retry_ms: int | None = None
        #: The pieces of a line whose end has not come.
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._after_cr = False
        self._first = True
        self._id = ""
        self._name = ""
        self._data: list[str] = []
        self._data_bytes = 0

    def feed(self, data: bytes) -> list[RawEvent]:
        """The events that ``data`` completes.

        Raises:
            TaskError: InvalidResponse, when a line or the data of one event is over ``EVENT_LINE_BYTES_MAX``.
        """
        if self._after_cr and data:
            # The LF of a CRLF that was cut in two.
            self._after_cr = False
            if data.startswith(b"\n"):
                data = data[1:]
        if not data:
            return []
        self._after_cr = data.endswith(b"\r")
        events: list[RawEvent] = []
        *lines, rest = _LINE_END.split(data)
        for line in lines:
            event = self._end_line(line)
            if event is not None:
                events.append(event)
        if rest:
            self._pending.append(rest)
            self._pending_bytes += len(rest)
            self._check_length(self._pending_bytes)
        return events

    def _end_line(self, line: bytes) -> RawEvent | None:
        if self._pending:
            line = b"".join((*self._pending, line))
            self._pending.clear()
            self._pending_bytes = 0
        self._check_length(len(line))
        text = line.decode("utf-8", "replace")
        if self._first:
            self._first = False
            text = text.removeprefix("\ufeff")
        if not text:
            return self._dispatch()
        name, _, value = text.partition(":")
        self._take(name, value.removeprefix(" "))
        return None

    def _take(self, name: str, value: str) -> None:
        if name == "data":
            self._data_bytes += len(value) + 1
            self._check_length(self._data_bytes)
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit() and len(value) <= _RETRY_DIGITS_MAX:
            self.retry_ms = int(value)

    def _dispatch(self) -> RawEvent | None:
        data, name = "\n".join(self._data), self._name
        self._data.clear()
        self._data_bytes = 0
        self._name = ""
        return RawEvent(self._id, name, data) if data else None

    @property
    def last_id(self) -> str:
        """The id to come again with; it may have come without an event."""
        return self._id

    @staticmethod
    def _check_length(length: int) -> None:
        if length > EVENT_LINE_BYTES_MAX:
            text = f"an event over {EVENT_LINE_BYTES_MAX} bytes"
            raise TaskError(ErrorType.INVALID_RESPONSE, text, Blame.PEER)


_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_RETRY_DIGITS_MAX: Final = 9


def decode_event(raw: RawEvent) -> Event:
    """The task event that ``raw`` carries.

    Raises:
        TaskError: the name is not a task event's, or the data is not its message. Only this event is lost; the stream
            goes on (board-api.md 11.4).
    """
    kind = _MESSAGES.get(raw.name)
    if kind is None:
        raise TaskError(ErrorType.INVALID_RESPONSE, f"unknown event {raw.name[:64]!r}", Blame.PEER)
    try:
        # Several lines of data come joined by newlines, which Go's decoder passes over.
        message = kind.FromString(b64decode(raw.data.replace("\n", ""), validate=True))
    except (ValueError, DecodeError) as error:
        raise TaskError(ErrorType.INVALID_PROTOBUF_MESSAGE, f"{raw.name} cannot be read", Blame.PEER) from error
    if isinstance(message, bbs_pb2.TaskChangedEvent):
        return TaskChanged(decode_task(message.before), decode_task(message.after))
    made = TaskCreated if isinstance(message, bbs_pb2.TaskCreatedEvent) else TaskRemoved
    return made(decode_task(message.task))


_TaskEvent = bbs_pb2.TaskCreatedEvent | bbs_pb2.TaskChangedEvent | bbs_pb2.TaskRemovedEvent
_MESSAGES: Final[dict[str, type[_TaskEvent]]] = {
    "task_created": bbs_pb2.TaskCreatedEvent,
    "task_changed": bbs_pb2.TaskChangedEvent,
    "task_removed": bbs_pb2.TaskRemovedEvent,
}
