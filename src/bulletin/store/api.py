"""The Protocol every store keeps, and what it may raise.

A store holds tasks, domains, the output of ended tasks, and the lease that says which board may write. It decides
nothing: the writer hands it whole batches, each applied in one transaction or not at all. One conformance suite runs
over every store (tests/store).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from bulletin.core.model import Task

__all__ = ["Batch", "BrokenRow", "Lease", "LeaseHeld", "LeaseLost", "Output", "Store", "StoreError"]


class StoreError(Exception):
    """The store could not do it; nothing of the batch is to be relied on. Trying again may help."""


class LeaseLost(StoreError):
    """Another board owns the store now; nothing was written and this board must stop writing."""


class LeaseHeld(StoreError):
    """Another board owns the store; ask again when its lease has run out."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write: every commit names the epoch and fails once it is no longer the current one."""

    owner: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Output:
    """The last output of an ended task, kept for readers until ``expires_at`` (ns since the epoch)."""

    guid: str
    #: Length-delimited ``link.LogLine`` messages, or whatever the writer gave: opaque here.
    lines: bytes
    expires_at: int


@dataclass(slots=True)
class Batch:
    """Changes for one transaction. A guid stands in ``tasks`` or in ``removed``, never in both."""

    #: Guid to the task as it shall be.
    tasks: dict[str, Task] = field(default_factory=dict)
    #: Those of ``tasks`` whose rows are inserted or overwritten whole. The others have a row, and of that only what can
    #: change in a task's life is written: ``domain``, ``created_at`` and the sealed definition stay as they are.
    whole: set[str] = field(default_factory=set)
    #: Guids whose rows go; a guid without a row is no error.
    removed: set[str] = field(default_factory=set)
    #: Domain to when its freshness ends, ns since the epoch.
    domains: dict[str, int] = field(default_factory=dict)
    #: Domains that are forgotten; one that is not there is no error, and none stands in ``domains`` too.
    removed_domains: set[str] = field(default_factory=set)
    outputs: list[Output] = field(default_factory=list)
    #: Facts about the store itself, key to value; inserted or overwritten.
    configurations: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return (
            len(self.tasks)
            + len(self.removed)
            + len(self.domains)
            + len(self.removed_domains)
            + len(self.outputs)
            + len(self.configurations)
        )


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row that could not be read back (board-api.md 4.3, Deserialize); the other rows are not affected."""

    guid: str
    reason: str


class Store(Protocol):
    """Durable tasks. One owner at a time; not safe for use from several threads."""

    async def open(self) -> None:
        """Connect and bring the schema up to date.

        Raises:
            StoreError: it cannot be reached, or its schema is newer than this program knows.
            LeaseHeld: another process on this machine has it for as long as it lives (SQLite).
        """
        ...

    async def acquire(self, owner: str, seconds: float) -> Lease:
        """Take the lease for ``seconds``, or take it over when the last owner's has run out.

        Raises:
            LeaseHeld: somebody else's has not.
        """
        ...

    async def renew(self, lease: Lease, seconds: float) -> None:
        """Keep the lease for another ``seconds``.

        Raises:
            LeaseLost: it is somebody else's by now.
        """
        ...

    async def release(self, lease: Lease) -> None:
        """Give the lease up, so that the next ``acquire`` succeeds at once. Never raises for a lost lease."""
        ...

    def load(self) -> AsyncIterator[list[Task | BrokenRow]]:
        """Every task, in chunks of at most a few hundred, so that the loop is not held up."""
        ...

    async def load_domains(self) -> dict[str, int]:
        """Every domain with when its freshness ends, ns since the epoch."""
        ...

    async def load_configurations(self) -> dict[str, str]:
        """Every fact about the store itself, key to value."""
        ...

    async def commit(self, batch: Batch, lease: Lease) -> None:
        """Apply ``batch`` durably in one transaction: when this returns it survives kill -9 and power loss.

        Raises:
            LeaseLost: the epoch is not the current one; nothing was written.
            StoreError: nothing is certain; the same batch may be committed again, that is harmless. Also raised when a
                row to be changed is not there.
        """
        ...

    async def output(self, guid: str) -> bytes | None:
        """The kept output of a task, or None."""
        ...

    async def prune_outputs(self, now: int, bytes_max: int) -> None:
        """Drop outputs that expired before ``now`` (ns), then the oldest until at most ``bytes_max`` bytes are kept."""
        ...

    async def close(self) -> None:
        """Let go of everything. Idempotent."""
        ...
