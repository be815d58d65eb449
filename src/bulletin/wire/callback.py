"""The body of a completion callback (board-api.md section 8), byte for byte as Go's ``encoding/json`` writes it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from bulletin.core import errors
from bulletin.core.limits import CALLBACK_REQUEST_BYTES_MAX
from bulletin.core.model import Task
from bulletin.wire.jsontext import load_json
from bulletin.wire.tasks import parse_definition

__all__ = ["Callback", "callback_body", "parse_callback"]


@dataclass(frozen=True, slots=True)
class Callback:
    """What a callback tells: the outcome of one task. ``created_at`` is nanoseconds since the epoch."""

    task_guid: str
    failed: bool
    failure_reason: str
    result: str
    annotation: str
    created_at: int


def callback_body(task: Task) -> bytes:
    """The JSON to POST when ``task`` has ended.

    Raises:
        TaskError: Deserialize, when the stored definition, which holds the annotation, cannot be read.
    """
    members: dict[str, Any] = {
        "task_guid": task.guid,
        "failed": task.failed,
        "failure_reason": task.failure_reason,
        "result": task.result,
    }
    annotation = parse_definition(task.definition).annotation
    if annotation:
        members["annotation"] = annotation
    members["created_at"] = task.created_at
    return _GO_ESCAPED.sub(_escape, _ENCODER.encode(members)).encode()


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
#: What Go escapes and json leaves alone; outside of strings none of it occurs.
_GO_ESCAPED: Final = re.compile("[<>&\u2028\u2029]")


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


def parse_callback(body: bytes) -> Callback:
    """What a callback's body tells; unknown keys are ignored, missing ones are empty, as in Go.

    Raises:
        TaskError: InvalidRequest, when it is over ``CALLBACK_REQUEST_BYTES_MAX``, not JSON, not an object, or a value
            is of the wrong kind.
    """
    if len(body) > CALLBACK_REQUEST_BYTES_MAX:
        raise errors.bad_request()
    members = load_json(body)
    if not isinstance(members, dict):
        raise errors.bad_request()
    values: dict[str, Any] = {}
    for name, default in _DEFAULTS.items():
        value = members.get(name)
        if value is None:
            value = default
        # bool is an int to Python, but not here.
        if type(value) is not type(default):
            raise errors.bad_request()
        values[name] = _LONE_SURROGATE.sub("\ufffd", value) if isinstance(value, str) else value
    return Callback(**values)


#: An escape may stand for half a character, which no text may hold; Go reads it as the replacement character too.
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")

_DEFAULTS: Final[dict[str, str | bool | int]] = {
    "task_guid": "",
    "failed": False,
    "failure_reason": "",
    "result": "",
    "annotation": "",
    "created_at": 0,
}
