"""The definition of a task that came from a board, taken apart."""

from __future__ import annotations

from bulletin.client.errors import BoardFault
from bulletin.core.definition import TaskDefinition
from bulletin.core.errors import TaskError
from bulletin.core.model import Task
from bulletin.wire.tasks import decode_definition, parse_definition

__all__ = ["read_definition"]


def read_definition(task: Task) -> TaskDefinition:
    """What ``task`` was to do; ``task.definition`` itself keeps only its bytes and the facts placement needs.

    Raises:
        BoardFault: the board sent a definition that is none.
    """
    try:
        return decode_definition(parse_definition(task.definition))
    except TaskError as error:
        raise BoardFault(error.type, error.message, subject=task.guid) from error
