"""Tasks, cells and events as JSON values: the wire's field names, secrets masked unless they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from google.protobuf import json_format

from bulletin.client.values import Cell, OutputLine
from bulletin.core.model import CallbackAttempt, Task
from bulletin.core.operations import Event, TaskChanged, TaskCreated
from bulletin.wire.tasks import parse_definition

__all__ = ["MASK", "attempt_value", "cell_value", "definition_value", "event_value", "line_value", "task_value"]

MASK: Final = "********"
#: Fields whose value may be a secret, wherever they stand: one string each, or a list of messages with such a field.
_SECRET_TEXTS: Final = frozenset({"image_password", "mount_config", "device_config"})
_SECRET_LISTS: Final = {"environment_variables": "value", "env": "value", "volume_mounted_files": "content"}
#: Maps whose keys are the user's own words, not field names.
_MAPS: Final = frozenset({"metric_tags", "network"})


def task_value(task: Task, *, show_secrets: bool = False) -> dict[str, Any]:
    """A task with every field of the wire's message; times are integers, nanoseconds since the epoch."""
    return {
        "task_guid": task.guid,
        "domain": task.domain,
        "state": task.state.label,
        "cell_id": task.cell_id,
        "created_at": task.created_at,
        "updated_at": task.updated_at,
        "first_completed_at": task.first_completed_at,
        "failed": task.failed,
        "failure_reason": task.failure_reason,
        "result": task.result,
        "rejection_count": task.rejection_count,
        "rejection_reason": task.rejection_reason,
        "task_definition": definition_value(task, show_secrets=show_secrets),
    }


def definition_value(task: Task, *, show_secrets: bool = False) -> dict[str, Any]:
    """A task's definition; fields that have their default are left out, as in the wire's JSON."""
    message = parse_definition(task.definition)
    value: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    if not show_secrets:
        _mask(value)
    return value


def attempt_value(attempt: CallbackAttempt) -> dict[str, Any]:
    """An attempt at a completion callback, as the board's own route gives it."""
    return {
        "at_ns": attempt.at,
        "duration_ns": attempt.duration_ns,
        "status": attempt.status,
        "problem": attempt.problem,
    }


def event_value(event: Event, *, show_secrets: bool = False) -> dict[str, Any]:
    """An event as the reference's tool prints it: ``{"type": "task_created", "data": {"task": …}}``."""
    if isinstance(event, TaskChanged):
        before = task_value(event.before, show_secrets=show_secrets)
        return {
            "type": "task_changed",
            "data": {"before": before, "after": task_value(event.after, show_secrets=show_secrets)},
        }
    name = "task_created" if isinstance(event, TaskCreated) else "task_removed"
    return {"type": name, "data": {"task": task_value(event.task, show_secrets=show_secrets)}}


def cell_value(cell: Cell, tasks: Iterable[Task]) -> dict[str, Any]:
    """A cell, and what ``tasks``, those that run on it, take of it."""
    running = list(tasks)
    return {
        "cell_id": cell.cell_id,
        "zone": cell.zone,
        "capacity": {"memory_mb": cell.memory_mb, "disk_mb": cell.disk_mb, "containers": cell.containers},
        "used": {
            "memory_mb": sum(task.definition.memory_mb for task in running),
            "disk_mb": sum(task.definition.disk_mb for task in running),
            "containers": len(running),
        },
        "rootfs_providers": {
            **{name: sorted(members) for name, members in sorted(cell.fixed_rootfs.items())},
            **{name: [] for name in sorted(cell.arbitrary_rootfs)},
        },
        "placement_tags": sorted(cell.placement_tags),
        "optional_placement_tags": sorted(cell.optional_placement_tags),
        "rep_url": cell.rep_url,
    }


def line_value(line: OutputLine) -> dict[str, Any]:
    """A line of output, as the board's own route gives it."""
    return {"time_ns": line.time_ns, "stream": line.stream, "source": line.source, "text": line.text}


def _mask(value: dict[str, Any]) -> None:
    """Put a mask over every secret in a definition, in place."""
    for name, field in value.items():
        if name in _MAPS:
            continue
        if name in _SECRET_TEXTS:
            value[name] = MASK
        elif name in _SECRET_LISTS:
            for member in field:
                member[_SECRET_LISTS[name]] = MASK
        elif name == "completion_callback_url":
            value[name] = _mask_url(field)
        elif isinstance(field, dict):
            _mask(field)
        elif isinstance(field, list):
            for member in field:
                if isinstance(member, dict):
                    _mask(member)


def _mask_url(url: str) -> str:
    """Hide what may be a password before the host, and the query, which often carries a token."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{MASK}@{host}" if "@" in parts.netloc else host
    return urlunsplit(parts._replace(netloc=netloc, query=MASK if parts.query else ""))
