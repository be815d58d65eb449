"""A clock to turn, tasks to store, and every store there is, each over contents that outlive it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from bulletin.core.model import Definition, Task, TaskState
from bulletin.store.api import BrokenRow, Lease, Store
from bulletin.store.broken import BrokenStore
from bulletin.store.memory import Contents, MemoryStore
from bulletin.store.postgres import PostgresStore
from bulletin.store.sealing import PlainSealer
from bulletin.store.sqlite import SqliteStore
from bulletin.wire.proto.bbs_pb2 import TaskDefinition
from bulletin.wire.tasks import summarise

START_NS = 1_790_000_000_000_000_000


class HandClock:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.elapsed_ns = 0

    def now_ns(self) -> int:
        return START_NS + self.elapsed_ns

    def monotonic(self) -> float:
        return self.elapsed_ns / 1e9

    def advance(self, seconds: float) -> None:
        self.elapsed_ns += round(seconds * 1e9)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def _make_definition(**fields: Any) -> Definition:
    message = TaskDefinition(**{"root_fs": "docker:///busybox", "memory_mb": 64, **fields})
    message.action.run_action.path = "/bin/true"
    message.action.run_action.user = "vcap"
    return summarise(message)


def _make_task(guid: str, **fields: Any) -> Task:
    defaults = {
        "domain": "d",
        "definition": _make_definition(),
        "state": TaskState.PENDING,
        "created_at": START_NS,
        "updated_at": START_NS,
    }
    return Task(guid=guid, **{**defaults, **fields})


@pytest.fixture(scope="session")
def make_definition() -> Callable[..., Definition]:
    """A small definition; keyword arguments are fields of the wire's message."""
    return _make_definition


@pytest.fixture(scope="session")
def make_task() -> Callable[..., Task]:
    """A pending task of a guid; keyword arguments are fields of ``Task``."""
    return _make_task


@pytest.fixture(scope="session")
def load_all() -> Callable[..., Any]:
    """Every row a store has, by guid; no guid may come twice."""

    async def load(store: Store) -> dict[str, Task | BrokenRow]:
        rows: dict[str, Task | BrokenRow] = {}
        async for chunk in store.load():
            for row in chunk:
                assert row.guid not in rows
                rows[row.guid] = row
        return rows

    return load


class HandClockPostgresStore(PostgresStore):
    """A store whose database's clock is ``clock``: as that goes on, the end of the lease comes nearer."""

    def __init__(self, url: str, clock: HandClock) -> None:
        super().__init__(url, sealer=PlainSealer())
        self._hand_clock = clock
        self._seen_ns = clock.now_ns()

    async def acquire(self, owner: str, seconds: float) -> Lease:
        await self._let_time_pass()
        return await super().acquire(owner, seconds)

    async def renew(self, lease: Lease, seconds: float) -> None:
        await self._let_time_pass()
        await super().renew(lease, seconds)

    async def _let_time_pass(self) -> None:
        now = self._hand_clock.now_ns()
        passed, self._seen_ns = now - self._seen_ns, now
        if passed:
            await self._read("UPDATE lease SET expires_at = expires_at - $1 WHERE owner <> ''", passed)


@pytest.fixture(params=["memory", "sqlite", "postgres", "broken"])
async def reopen(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> AsyncIterator[Any]:
    """An async function that closes the store there was and opens one over the same contents."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    contents = Contents()
    opened: list[Store] = []

    async def reopen() -> Store:
        for store in opened:
            await store.close()
        store: Store
        match request.param:
            case "memory":
                store = MemoryStore(clock=clock, contents=contents)
            case "sqlite":
                store = SqliteStore(tmp_path / "data" / "board.sqlite3", sealer=PlainSealer(), clock=clock)
            case "postgres":
                store = HandClockPostgresStore(url, clock)
            case "broken":
                store = BrokenStore(MemoryStore(clock=clock, contents=contents))
        opened.append(store)
        await store.open()
        return store

    yield reopen
    for store in opened:
        await store.close()


@pytest.fixture
async def store(reopen: Any) -> Store:
    """Each store in turn, open and empty."""
    return await reopen()
