"""Tasks as JSON text, for streams: many events tell of few definitions, so a definition is turned into text once.

The text says what ``codec`` says of the same task: names as in the .proto files, defaults left out, enums by name,
64-bit numbers as strings.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Final

from bulletin.core.model import Definition, Task
from bulletin.wire.jsonwriting import message_as_json
from bulletin.wire.tasks import parse_definition

__all__ = ["task_as_json"]

#: Of definitions no larger than this the text is kept for the next event: at most some ten MB.
_KEPT_BYTES_MAX: Final = 8 * 1024
_KEPT_DEFINITIONS: Final = 512


def task_as_json(task: Task) -> str:
    """``task`` as one line of JSON.

    Raises:
        TaskError: Deserialize, when the stored definition cannot be read.
    """
    definition = task.definition
    text = _kept_text(definition) if len(definition.encoded) <= _KEPT_BYTES_MAX else _definition_text(definition)
    members: dict[str, object] = {
        "task_guid": task.guid,
        "domain": task.domain,
        "created_at": str(task.created_at) if task.created_at else "",
        "updated_at": str(task.updated_at) if task.updated_at else "",
        "first_completed_at": str(task.first_completed_at) if task.first_completed_at else "",
        "state": task.state.label if task.state else "",
        "cell_id": task.cell_id,
        "result": task.result,
        "failed": task.failed,
        "failure_reason": task.failure_reason,
        "rejection_count": task.rejection_count,
        "rejection_reason": task.rejection_reason,
    }
    others = json.dumps({name: value for name, value in members.items() if value})
    if others == "{}":
        return f'{{"task_definition": {text}}}'
    return f'{{"task_definition": {text}, {others[1:]}'


def _definition_text(definition: Definition) -> str:
    return message_as_json(parse_definition(definition))


@lru_cache(maxsize=_KEPT_DEFINITIONS)
def _kept_text_of(encoded: bytes) -> str:
    return _definition_text(Definition(encoded, ""))


def _kept_text(definition: Definition) -> str:
    # By the bytes, whose hash is made once: a definition's other members follow from them.
    return _kept_text_of(definition.encoded)
