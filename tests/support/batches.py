"""Batches for tests that write to a store themselves, as the board's writer does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bulletin.core.model import Task
from bulletin.store.api import Batch

__all__ = ["whole_batch"]


def whole_batch(tasks: dict[str, Task] | Iterable[Task], **rest: Any) -> Batch:
    """A batch whose tasks are inserted or overwritten whole; ``rest`` are other fields of ``Batch``."""
    by_guid = dict(tasks) if isinstance(tasks, dict) else {task.guid: task for task in tasks}
    return Batch(by_guid, set(by_guid), **rest)
