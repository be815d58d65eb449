"""A task as a row and back; the same for every SQL store.

A row that is inserted or overwritten whole has its values in the order of ``COLUMNS``, and so has one that is read. A
change of a row that is there has those of ``CHANGING``, its guid last: what a task keeps for life, its sealed
definition above all, is not written again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.message import DecodeError

from bulletin.core.model import CallbackAttempt, Task, TaskState
from bulletin.store.api import Batch
from bulletin.store.sealing import Sealer, Unsealable
from bulletin.wire.tasks import recall_definition

__all__ = [
    "CHANGING",
    "COLUMNS",
    "Row",
    "RowUnreadable",
    "check",
    "decode",
    "encode",
    "encode_attempts",
    "encode_changes",
]

#: The values of one row, in the order of ``COLUMNS`` or of ``CHANGING`` and the guid.
Row = tuple[Any, ...]

COLUMNS: Final = (
    "guid",
    "domain",
    "state",
    "cell_id",
    "created_at",
    "updated_at",
    "first_completed_at",
    "delivered_at",
    "failed",
    "rejection_count",
    "failure_reason",
    "rejection_reason",
    "result",
    "definition",
    "attempts",
)

#: What can change in a task's life.
CHANGING: Final = (
    "state",
    "cell_id",
    "updated_at",
    "first_completed_at",
    "delivered_at",
    "failed",
    "rejection_count",
    "failure_reason",
    "rejection_reason",
    "result",
    "attempts",
)

#: What SQLite gives for an intact row, which has no booleans.
_TYPES: Final = (str, str, int, str, int, int, int, int, int, int, str, str, str, bytes, str)


class RowUnreadable(Exception):
    """The row makes no task; the text says why without any of its content."""


def check(batch: Batch) -> None:
    """Assert what ``Batch`` promises, before anything of it is written."""
    assert batch.removed.isdisjoint(batch.tasks), "a guid stands in tasks and in removed"
    assert batch.whole <= batch.tasks.keys(), "a guid stands in whole and not in tasks"
    assert batch.removed_domains.isdisjoint(batch.domains), "a domain stands in domains and in removed_domains"
    assert all(guid == task.guid for guid, task in batch.tasks.items()), "a task stands under another guid"


def encode(tasks: Iterable[Task], sealer: Sealer) -> list[Row]:
    """Whole rows for ``tasks``, definitions sealed."""
    seal = sealer.seal
    return [
        (
            task.guid,
            task.domain,
            int(task.state),
            task.cell_id,
            task.created_at,
            task.updated_at,
            task.first_completed_at,
            task.delivered_at,
            task.failed,
            task.rejection_count,
            task.failure_reason,
            task.rejection_reason,
            task.result,
            seal(task.definition.encoded),
            encode_attempts(task.attempts) if task.attempts else "",
        )
        for task in tasks
    ]


def encode_changes(batch: Batch) -> list[Row]:
    """Changes of the tasks that are not ``batch.whole``."""
    if len(batch.whole) == len(batch.tasks):
        return []
    whole = batch.whole
    return [
        (
            int(task.state),
            task.cell_id,
            task.updated_at,
            task.first_completed_at,
            task.delivered_at,
            task.failed,
            task.rejection_count,
            task.failure_reason,
            task.rejection_reason,
            task.result,
            encode_attempts(task.attempts) if task.attempts else "",
            guid,
        )
        for guid, task in batch.tasks.items()
        if guid not in whole
    ]


def encode_attempts(attempts: Iterable[CallbackAttempt]) -> str:
    """JSON of ASCII only: ``[[at, duration_ns, status, problem], ...]``."""
    values = [(attempt.at, attempt.duration_ns, attempt.status, attempt.problem) for attempt in attempts]
    return json.dumps(values, separators=(",", ":"))


def decode(row: Row, sealer: Sealer) -> Task:
    """The task of a row.

    Raises:
        RowUnreadable: a value has the wrong type, the definition cannot be opened or parsed, the state is unknown, or
            the attempts are none.
    """
    types = tuple(map(type, row))
    if types != _TYPES:
        wrong = [name for name, type_, expected in zip(COLUMNS, types, _TYPES, strict=True) if type_ is not expected]
        raise RowUnreadable(f"no value of the right type in {', '.join(wrong)}")
    try:
        definition = recall_definition(sealer.open(row[13]))
        state = TaskState(row[2])
    except Unsealable as error:
        raise RowUnreadable(str(error)) from error
    except DecodeError as error:
        raise RowUnreadable("the definition is no protobuf message of its kind") from error
    except ValueError as error:
        raise RowUnreadable(str(error)) from error
    return Task(
        guid=row[0],
        domain=row[1],
        definition=definition,
        state=state,
        cell_id=row[3],
        created_at=row[4],
        updated_at=row[5],
        first_completed_at=row[6],
        delivered_at=row[7],
        failed=bool(row[8]),
        rejection_count=row[9],
        failure_reason=row[10],
        rejection_reason=row[11],
        result=row[12],
        attempts=_decode_attempts(row[14]) if row[14] else (),
    )


def _decode_attempts(text: str) -> tuple[CallbackAttempt, ...]:
    try:
        attempts = tuple([CallbackAttempt(*values) for values in json.loads(text)])
    except (ValueError, TypeError, RecursionError) as error:
        raise RowUnreadable("the callback attempts are not readable") from error
    if any(
        (type(attempt.at), type(attempt.duration_ns), type(attempt.status), type(attempt.problem))
        != (int, int, int, str)
        for attempt in attempts
    ):
        raise RowUnreadable("the callback attempts are not readable")
    return attempts
