"""A store that counts and times what is asked of it, around the one that does it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from time import perf_counter
from typing import TypeVar

from bulletin.board.metrics import BoardMetrics
from bulletin.core.model import Task
from bulletin.store.api import Batch, BrokenRow, Lease, LeaseHeld, Store
from bulletin.telemetry.metrics import Histogram

__all__ = ["MeteredStore"]

T = TypeVar("T")


class MeteredStore:
    """``store``, with ``metrics`` told of every operation."""

    def __init__(self, store: Store, metrics: BoardMetrics) -> None:
        self._store = store
        self._metrics = metrics

    async def open(self) -> None:
        """See ``Store``."""
        await self._timed("open", self._store.open())

    async def acquire(self, owner: str, seconds: float) -> Lease:
        """See ``Store``."""
        return await self._timed("acquire", self._store.acquire(owner, seconds))

    async def renew(self, lease: Lease, seconds: float) -> None:
        """See ``Store``."""
        await self._timed("renew", self._store.renew(lease, seconds))

    async def release(self, lease: Lease) -> None:
        """See ``Store``."""
        await self._timed("release", self._store.release(lease))

    async def load(self) -> AsyncIterator[list[Task | BrokenRow]]:
        """See ``Store``; each chunk counts as one."""
        chunks = self._store.load()
        while True:
            try:
                chunk = await self._timed("load", anext(chunks))
            except StopAsyncIteration:
                return
            yield chunk

    async def load_domains(self) -> dict[str, int]:
        """See ``Store``."""
        return await self._timed("load_domains", self._store.load_domains())

    async def load_configurations(self) -> dict[str, str]:
        """See ``Store``."""
        return await self._timed("load_configurations", self._store.load_configurations())

    async def commit(self, batch: Batch, lease: Lease) -> None:
        """See ``Store``."""
        self._metrics.commit_rows.observe(len(batch))
        await self._timed("commit", self._store.commit(batch, lease))

    async def output(self, guid: str) -> bytes | None:
        """See ``Store``."""
        return await self._timed("output", self._store.output(guid))

    async def prune_outputs(self, now: int, bytes_max: int) -> None:
        """See ``Store``."""
        await self._timed("prune_outputs", self._store.prune_outputs(now, bytes_max))

    async def close(self) -> None:
        """See ``Store``."""
        await self._store.close()

    async def _timed(self, operation: str, work: Awaitable[T]) -> T:
        metrics = self._metrics
        metrics.queries[operation] += 1
        metrics.queries_in_flight += 1
        started = perf_counter()
        try:
            return await work
        except (LeaseHeld, StopAsyncIteration):
            raise  # the store did what it was asked
        except BaseException:
            metrics.queries_failed[operation] += 1
            raise
        finally:
            metrics.queries_in_flight -= 1
            histogram = metrics.query_seconds.get(operation)
            if histogram is None:
                histogram = metrics.query_seconds[operation] = Histogram()
            histogram.observe(perf_counter() - started)
