"""A store in memory: for tests, and for a board that shall forget everything when it ends (``:memory:``).

It keeps every promise of ``api.Store`` but durability. What it holds lives in ``Contents``, apart from the store, so
that a test can open the same contents again after a "crash", or from a second board, as it would a database.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from bulletin.core.model import Task
from bulletin.seams import Clock
from bulletin.store.api import Batch, BrokenRow, Lease, LeaseHeld, LeaseLost, Output, StoreError
from bulletin.store.rows import check

__all__ = ["Contents", "MemoryStore"]

_LOAD_ROWS: Final = 256


@dataclass(slots=True)
class Contents:
    """What a database would hold."""

    tasks: dict[str, Task] = field(default_factory=dict)
    #: Rows that shall be reported as unreadable; a test's way to damage one.
    broken: dict[str, BrokenRow] = field(default_factory=dict)
    domains: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, Output] = field(default_factory=dict)
    configurations: dict[str, str] = field(default_factory=dict)
    #: Empty: nobody's.
    owner: str = ""
    epoch: int = 0
    #: ns since the epoch.
    expires_at: int = 0


class MemoryStore:
    """See ``api.Store``. Stores over the same ``contents`` see each other, and fight for its lease."""

    def __init__(self, *, clock: Clock, contents: Contents | None = None) -> None:
        self.contents = Contents() if contents is None else contents
        self._clock = clock
        self._is_open = False

    async def open(self) -> None:
        """See ``api.Store``."""
        self._is_open = True

    async def acquire(self, owner: str, seconds: float) -> Lease:
        """See ``api.Store``."""
        contents, now = self._opened(), self._clock.now_ns()
        if contents.owner not in {"", owner} and contents.expires_at > now:
            raise LeaseHeld(f"the store is leased to {contents.owner}")
        contents.owner = owner
        contents.epoch += 1
        contents.expires_at = now + round(seconds * 1e9)
        return Lease(owner, contents.epoch)

    async def renew(self, lease: Lease, seconds: float) -> None:
        """See ``api.Store``."""
        contents = self._owned(lease)
        contents.expires_at = self._clock.now_ns() + round(seconds * 1e9)

    async def release(self, lease: Lease) -> None:
        """See ``api.Store``."""
        contents = self._opened()
        if (contents.owner, contents.epoch) == (lease.owner, lease.epoch):
            contents.owner = ""
            contents.expires_at = 0

    async def load(self) -> AsyncIterator[list[Task | BrokenRow]]:
        """See ``api.Store``."""
        contents = self._opened()
        rows: list[Task | BrokenRow] = [*contents.tasks.values(), *contents.broken.values()]
        everything = iter(rows)
        while chunk := list(islice(everything, _LOAD_ROWS)):
            yield chunk
            await asyncio.sleep(0)

    async def load_domains(self) -> dict[str, int]:
        """See ``api.Store``."""
        return dict(self._opened().domains)

    async def load_configurations(self) -> dict[str, str]:
        """See ``api.Store``."""
        return dict(self._opened().configurations)

    async def commit(self, batch: Batch, lease: Lease) -> None:
        """See ``api.Store``."""
        contents = self._owned(lease)
        check(batch)
        changed = [_merge(contents, task) for guid, task in batch.tasks.items() if guid not in batch.whole]
        # From here on nothing can fail and nothing suspends: all of it or, by the checks above, nothing.
        for guid in batch.removed:
            contents.tasks.pop(guid, None)
            contents.broken.pop(guid, None)
        for guid in batch.whole:
            contents.broken.pop(guid, None)
            contents.tasks[guid] = batch.tasks[guid]
        contents.tasks.update((task.guid, task) for task in changed)
        contents.domains.update(batch.domains)
        for domain in batch.removed_domains:
            contents.domains.pop(domain, None)
        contents.outputs.update((output.guid, output) for output in batch.outputs)
        contents.configurations.update(batch.configurations)

    async def output(self, guid: str) -> bytes | None:
        """See ``api.Store``."""
        kept = self._opened().outputs.get(guid)
        return None if kept is None else kept.lines

    async def prune_outputs(self, now: int, bytes_max: int) -> None:
        """See ``api.Store``."""
        contents = self._opened()
        kept_bytes = 0
        kept: list[Output] = []
        # The newest first, until no more fits; what is older than the first that does not fit goes as well.
        for output in sorted(contents.outputs.values(), key=lambda output: (output.expires_at, output.guid))[::-1]:
            kept_bytes += len(output.lines)
            if output.expires_at < now or kept_bytes > bytes_max:
                break
            kept.append(output)
        contents.outputs = {output.guid: output for output in kept}

    async def close(self) -> None:
        """See ``api.Store``; the contents stay with whoever holds them."""
        self._is_open = False

    def _opened(self) -> Contents:
        if not self._is_open:
            raise StoreError("the store is not open")
        return self.contents

    def _owned(self, lease: Lease) -> Contents:
        contents = self._opened()
        if (contents.owner, contents.epoch) != (lease.owner, lease.epoch):
            raise LeaseLost(f"epoch {lease.epoch} of {lease.owner} is over; the store is at epoch {contents.epoch}")
        return contents


def _merge(contents: Contents, task: Task) -> Task:
    """``task`` with what a change does not write as it is stored."""
    stored = contents.tasks.get(task.guid)
    if stored is None:
        raise StoreError("a row to be changed is not there")
    return replace(task, domain=stored.domain, created_at=stored.created_at, definition=stored.definition)
