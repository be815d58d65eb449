"""Between the wire's values and the client's: definitions out; tasks, cells, output and reasons in."""

from __future__ import annotations

import contextlib
import json

from bulletin.client.errors import BoardFault, InvalidRequest, refusal
from bulletin.client.values import Cell, OutputLine
from bulletin.core.definition import TaskDefinition
from bulletin.core.errors import ErrorType, TaskError
from bulletin.core.model import CallbackAttempt, Task
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.tasks import decode_task, encode_definition

__all__ = ["read_attempt", "read_cell", "read_line", "read_reason", "read_task", "write_definition"]


def write_definition(definition: TaskDefinition) -> bbs_pb2.TaskDefinition:
    """A definition as a message.

    Raises:
        InvalidRequest: it cannot be one.
    """
    try:
        return encode_definition(definition)
    except TaskError as error:
        raise refusal(error.type, error.message) from error
    except ValueError as error:
        raise InvalidRequest(ErrorType.INVALID_REQUEST, str(error)) from error


def read_task(message: bbs_pb2.Task) -> Task:
    """A task of the wire.

    Raises:
        BoardFault: it cannot be read.
    """
    try:
        return decode_task(message)
    except TaskError as error:
        raise BoardFault(error.type, error.message, subject=message.task_guid) from error


def read_cell(message: bbs_pb2.CellPresence) -> Cell:
    """A cell of the wire."""
    providers = {provider.name: frozenset(provider.properties) for provider in message.rootfs_providers}
    return Cell(
        cell_id=message.cell_id,
        zone=message.zone,
        memory_mb=message.capacity.memory_mb,
        disk_mb=message.capacity.disk_mb,
        containers=message.capacity.containers,
        arbitrary_rootfs=frozenset(name for name, members in providers.items() if not members),
        fixed_rootfs={name: members for name, members in providers.items() if members},
        placement_tags=frozenset(message.placement_tags),
        optional_placement_tags=frozenset(message.optional_placement_tags),
        rep_url=message.rep_url,
    )


def read_line(line: bytes) -> OutputLine:
    """A line of kept output.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    value = json.loads(line)
    stream = value["stream"]
    if stream not in {"out", "err"}:
        msg = "neither out nor err"
        raise ValueError(msg)
    return OutputLine(int(value["time_ns"]), stream, str(value["source"]), str(value["text"]))


def read_attempt(value: dict[str, object]) -> CallbackAttempt:
    """An attempt to deliver a callback.

    Raises:
        KeyError, TypeError: it is none.
    """
    at, duration, status, problem = (value[name] for name in ("at_ns", "duration_ns", "status", "problem"))
    if not (isinstance(at, int) and isinstance(duration, int) and isinstance(status, int) and isinstance(problem, str)):
        msg = "a value of the wrong kind"
        raise TypeError(msg)
    return CallbackAttempt(at, duration, status, problem)


def read_reason(content_type: str, body: bytes) -> str:
    """Why a board says that there is nothing."""
    if content_type == "application/json":
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return str(json.loads(body)["error"])
    return "this board does not keep any"
