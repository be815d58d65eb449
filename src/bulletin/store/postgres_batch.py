"""A batch as a statement for PostgreSQL with its arrays."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

from bulletin.core.model import Task, TaskState
from bulletin.store.api import Batch
from bulletin.store.postgres_sql import commit_statement
from bulletin.store.rows import encode, encode_changes
from bulletin.store.sealing import Sealer

__all__ = ["STATEMENT_BYTES_MAX", "Statement", "encode_batch", "slices"]

#: Definitions, results and outputs in one statement; a message of the protocol ends at 1 GiB, and much less takes long.
STATEMENT_BYTES_MAX: Final = 32 * 1024 * 1024


class Statement(NamedTuple):
    """What ``commit_statement`` gives for a batch, and its arguments behind the three of the lease."""

    text: str
    arrays: list[Any]
    #: Rows that have to be there to be changed.
    changed: int


def encode_batch(batch: Batch, sealer: Sealer) -> Statement:
    """The statement for ``batch``, definitions sealed."""
    names: list[str] = []
    arrays: list[Any] = []

    def add(name: str, *columns: Collection[object]) -> None:
        names.append(name)
        arrays.extend(columns)

    # In the order of ``postgres_sql.PARTS``.
    if batch.removed:
        add("removed", batch.removed)
    if batch.whole:
        tasks = batch.tasks
        fresh = [task for guid in batch.whole if _is_fresh(task := tasks[guid])]
        if fresh:
            seal = sealer.seal
            add(
                "fresh",
                [task.guid for task in fresh],
                [task.domain for task in fresh],
                [task.created_at for task in fresh],
                [task.updated_at for task in fresh],
                [seal(task.definition.encoded) for task in fresh],
            )
        if len(fresh) < len(batch.whole):
            others = [task for guid in batch.whole if not _is_fresh(task := tasks[guid])]
            add("whole", *zip(*encode(others, sealer), strict=True))
    changes = encode_changes(batch)
    if changes:
        add("changed", *zip(*changes, strict=True))
    if batch.domains:
        add("domains", batch.domains.keys(), batch.domains.values())
    if batch.removed_domains:
        add("removed_domains", batch.removed_domains)
    if batch.outputs:
        # One statement may write a row once: of several outputs of a task the last counts.
        outputs = {output.guid: output for output in batch.outputs}.values()
        add(
            "outputs",
            [output.guid for output in outputs],
            [output.expires_at for output in outputs],
            [len(output.lines) for output in outputs],
            [output.lines for output in outputs],
        )
    if batch.configurations:
        add("configurations", batch.configurations.keys(), batch.configurations.values())
    return Statement(commit_statement(tuple(names)), arrays, len(changes))


def slices(batch: Batch) -> Iterator[Batch]:
    """``batch`` in batches of about ``STATEMENT_BYTES_MAX`` at most, to be committed in one transaction."""
    size = sum([_size(task) for task in batch.tasks.values()]) + sum([len(output.lines) for output in batch.outputs])
    if size <= STATEMENT_BYTES_MAX:
        yield batch
        return
    part = Batch(
        removed=batch.removed,
        domains=batch.domains,
        removed_domains=batch.removed_domains,
        configurations=batch.configurations,
    )
    left = STATEMENT_BYTES_MAX
    for guid, task in batch.tasks.items():
        left -= _size(task)
        if left < 0:
            yield part
            part, left = Batch(), STATEMENT_BYTES_MAX - _size(task)
        part.tasks[guid] = task
        if guid in batch.whole:
            part.whole.add(guid)
    for output in batch.outputs:
        left -= len(output.lines)
        if left < 0:
            yield part
            part, left = Batch(), STATEMENT_BYTES_MAX - len(output.lines)
        part.outputs.append(output)
    yield part


def _size(task: Task) -> int:
    return len(task.definition.encoded) + len(task.result)


def _is_fresh(task: Task) -> bool:
    """Whether ``postgres_sql.FRESH`` and the constants beside it say all of the task."""
    return task.state is TaskState.PENDING and not (
        task.cell_id
        or task.first_completed_at
        or task.delivered_at
        or task.failed
        or task.rejection_count
        or task.failure_reason
        or task.rejection_reason
        or task.result
        or task.attempts
    )
