"""Our own event stream, ``GET /v1/task_events``: events as JSON, with ids to resume from (docs/reference/api.md).

An id is ``<epoch>-<sequence>``: the epoch of the lease under which the board rules, and the number of the event in
that reign, from 1. It means the same to every subscriber, so an event is framed once for all. An id alone, without
data, tells a client how far it is and is no event.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

from bulletin.core.errors import Blame, ErrorType, TaskError
from bulletin.core.model import Task
from bulletin.core.operations import Event, TaskChanged, TaskCreated, TaskRemoved
from bulletin.wire.codec import message_from_json
from bulletin.wire.events import RawEvent
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.taskjson import task_as_json
from bulletin.wire.tasks import decode_task

__all__ = ["MISSED", "EventId", "Missed", "decode_own_event", "encode_missed", "encode_own_event", "encode_position"]

#: The name of the event that says that others are lost to this subscriber.
MISSED: Final = "missed"

_ID: Final = re.compile(r"([0-9]{1,19})-([0-9]{1,19})", re.ASCII)


class EventId(NamedTuple):
    """Which event of which reign."""

    epoch: int
    sequence: int

    @classmethod
    def parse(cls, text: str) -> EventId | None:
        """Read what a client sent as ``Last-Event-ID``; None when it is not one of our ids."""
        match = _ID.fullmatch(text)
        return cls(int(match[1]), int(match[2])) if match else None

    def __str__(self) -> str:
        return f"{self.epoch}-{self.sequence}"


@dataclass(frozen=True, slots=True)
class Missed:
    """Events were lost to this subscriber: whoever needs the whole truth looks at the tasks now."""

    reason: str


# -- writing -----------------------------------------------------------------------------------------------------


def encode_own_event(event_id: EventId, event: Event) -> bytes:
    """``event`` framed.

    Raises:
        TaskError: Deserialize, when a stored definition cannot be read.
    """
    if isinstance(event, TaskChanged):
        name = "task_changed"
        data = f'{{"before": {task_as_json(event.before)}, "after": {task_as_json(event.after)}}}'
    else:
        name = "task_created" if isinstance(event, TaskCreated) else "task_removed"
        data = f'{{"task": {task_as_json(event.task)}}}'
    return _frame(event_id, name, data)


def encode_missed(event_id: EventId, reason: str) -> bytes:
    """That events up to ``event_id`` are lost to this subscriber."""
    return _frame(event_id, MISSED, json.dumps({"reason": reason}))


def encode_position(event_id: EventId) -> bytes:
    """That there is nothing to tell up to ``event_id``: a comment, for what stands between, and the id."""
    return f":\nid: {event_id}\n\n".encode("ascii")


def _frame(event_id: EventId, name: str, data: str) -> bytes:
    # JSON text is ASCII and has no line ends outside of strings, where they are escaped.
    return f"id: {event_id}\nevent: {name}\ndata: {data}\n\n".encode("ascii")


# -- reading -----------------------------------------------------------------------------------------------------


def decode_own_event(raw: RawEvent) -> Event | Missed:
    """What ``raw``, an event of our own stream, tells.

    Raises:
        TaskError: InvalidResponse, when its name or its data makes no sense. The stream can go on.
    """
    try:
        data = json.loads(raw.data)
        if raw.name == MISSED:
            return Missed(str(data["reason"]))
        if raw.name == "task_changed":
            return TaskChanged(_read_task(data["before"]), _read_task(data["after"]))
        made = _MADE[raw.name]
        return made(_read_task(data["task"]))
    except (ValueError, TypeError, KeyError, TaskError) as error:
        text = f"the event {raw.name[:64]!r} cannot be read"
        raise TaskError(ErrorType.INVALID_RESPONSE, text, Blame.PEER) from error


_MADE: Final[dict[str, type[TaskCreated | TaskRemoved]]] = {"task_created": TaskCreated, "task_removed": TaskRemoved}


def _read_task(value: object) -> Task:
    return decode_task(cast("bbs_pb2.Task", message_from_json(bbs_pb2.Task, value)))
