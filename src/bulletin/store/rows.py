"""A task as a row and back; the same for every SQL store.

``COLUMNS`` is the order of both directions. The long ones stand last, so that a database that reads a row from its
beginning need not walk over them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.message import DecodeError

from bulletin.core.model import Task, TaskState
from bulletin.store.api import Batch
from bulletin.store.sealing import Sealer, Unsealable
from bulletin.wire.proto.bbs_pb2 import TaskDefinition
from bulletin.wire.tasks import summarise

__all__ = ["COLUMNS", "Row", "RowUnreadable", "check", "decode", "encode"]

#: One row of ``tasks``, its values in the order of ``COLUMNS``.
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
)

#: What SQLite gives for an intact row, which has no booleans.
_TYPES: Final = (str, str, int, str, int, int, int, int, int, int, str, str, str, bytes)


class RowUnreadable(Exception):
    """The row makes no task; the text says why without any of its content."""


def check(batch: Batch) -> None:
    """Assert what ``Batch`` promises, before anything of it is written."""
    assert batch.removed.isdisjoint(batch.tasks), "a guid stands in tasks and in removed"
    assert batch.removed_domains.isdisjoint(batch.domains), "a domain stands in domains and in removed_domains"
    assert all(guid == task.guid for guid, task in batch.tasks.items()), "a task stands under another guid"


def encode(tasks: Iterable[Task], sealer: Sealer) -> list[Row]:
    """Rows for ``tasks``, definitions sealed."""
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
            int(task.failed),
            task.rejection_count,
            task.failure_reason,
            task.rejection_reason,
            task.result,
            seal(task.definition.encoded),
        )
        for task in tasks
    ]


def decode(row: Row, sealer: Sealer) -> Task:
    """The task of a row.

    Raises:
        RowUnreadable: a value has the wrong type, the definition cannot be opened or parsed, or the state is unknown.
    """
    types = tuple(map(type, row))
    if types != _TYPES:
        wrong = [name for name, type_, expected in zip(COLUMNS, types, _TYPES, strict=True) if type_ is not expected]
        raise RowUnreadable(f"no value of the right type in {', '.join(wrong)}")
    try:
        definition = summarise(TaskDefinition.FromString(sealer.open(row[13])))
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
    )
