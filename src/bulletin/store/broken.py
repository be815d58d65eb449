"""A store that fails on order, around any other: what the board's tests prove their error paths with.

    store = BrokenStore(MemoryStore(clock=clock), fail_at("commit", 2, Failure.AFTER))

A failure is decided before each call by ``store.fail``, which may be replaced at any time. Commits can also be held
up, so that a test sees what gathers behind a slow disk.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from enum import Enum

from bulletin.core.model import Task
from bulletin.store.api import Batch, BrokenRow, Lease, LeaseLost, Store, StoreError

__all__ = ["BrokenStore", "Fail", "Failure", "fail_always", "fail_at", "never_fail"]


class Failure(Enum):
    """How a call fails."""

    #: ``StoreError``, and nothing was done.
    BEFORE = "before"
    #: ``StoreError``, though everything was done: the answer was lost.
    AFTER = "after"
    #: ``LeaseLost``, and nothing was done.
    LEASE_LOST = "lease lost"


#: (name of the method, how many times it has been called, this call included) to how this call fails.
Fail = Callable[[str, int], Failure | None]


def never_fail(method: str, call: int) -> Failure | None:  # noqa: ARG001 the shape of Fail
    """A ``Fail`` without failures."""
    return None


def fail_at(method: str, call: int, failure: Failure = Failure.BEFORE) -> Fail:
    """Fail the ``call``-th call (from 1) of ``method``, and no other."""
    return lambda name, number: failure if (name, number) == (method, call) else None


def fail_always(method: str, failure: Failure = Failure.BEFORE, *, since: int = 1) -> Fail:
    """Fail every call of ``method`` from the ``since``-th on."""
    return lambda name, number: failure if name == method and number >= since else None


class BrokenStore:
    """See ``api.Store``; every method but ``close`` fails when ``fail`` says so."""

    def __init__(self, inner: Store, fail: Fail = never_fail) -> None:
        self.inner = inner
        self.fail = fail
        #: How often each method was called; counts on through ``open`` and ``close``.
        self.calls: Counter[str] = Counter()
        self._commits_flow = asyncio.Event()
        self._commits_flow.set()

    def hold_commits(self) -> None:
        """Let commits wait from now on."""
        self._commits_flow.clear()

    def release_commits(self) -> None:
        """Let those that wait go on, and no more wait."""
        self._commits_flow.set()

    async def open(self) -> None:
        """See ``api.Store``."""
        after = self._before("open")
        await self.inner.open()
        after()

    async def acquire(self, owner: str, seconds: float) -> Lease:
        """See ``api.Store``."""
        after = self._before("acquire")
        lease = await self.inner.acquire(owner, seconds)
        after()
        return lease

    async def renew(self, lease: Lease, seconds: float) -> None:
        """See ``api.Store``."""
        after = self._before("renew")
        await self.inner.renew(lease, seconds)
        after()

    async def release(self, lease: Lease) -> None:
        """See ``api.Store``."""
        after = self._before("release")
        await self.inner.release(lease)
        after()

    async def load(self) -> AsyncIterator[list[Task | BrokenRow]]:
        """See ``api.Store``; ``Failure.AFTER`` fails behind the last chunk."""
        after = self._before("load")
        async for chunk in self.inner.load():
            yield chunk
        after()

    async def load_domains(self) -> dict[str, int]:
        """See ``api.Store``."""
        after = self._before("load_domains")
        domains = await self.inner.load_domains()
        after()
        return domains

    async def load_configurations(self) -> dict[str, str]:
        """See ``api.Store``."""
        after = self._before("load_configurations")
        configurations = await self.inner.load_configurations()
        after()
        return configurations

    async def commit(self, batch: Batch, lease: Lease) -> None:
        """See ``api.Store``."""
        after = self._before("commit")
        await self._commits_flow.wait()
        await self.inner.commit(batch, lease)
        after()

    async def output(self, guid: str) -> bytes | None:
        """See ``api.Store``."""
        after = self._before("output")
        lines = await self.inner.output(guid)
        after()
        return lines

    async def prune_outputs(self, now: int, bytes_max: int) -> None:
        """See ``api.Store``."""
        after = self._before("prune_outputs")
        await self.inner.prune_outputs(now, bytes_max)
        after()

    async def close(self) -> None:
        """See ``api.Store``."""
        self.calls["close"] += 1
        await self.inner.close()

    def _before(self, method: str) -> Callable[[], None]:
        """Count the call and fail it if it shall fail now; the result is to be called when the work is done."""
        self.calls[method] += 1
        call = self.calls[method]
        failure = self.fail(method, call)
        if failure is Failure.LEASE_LOST:
            raise LeaseLost(f"lost on order at {method} {call}")
        if failure is Failure.BEFORE:
            raise StoreError(f"broken on order before {method} {call}")

        def after() -> None:
            if failure is Failure.AFTER:
                raise StoreError(f"broken on order after {method} {call}")

        return after
