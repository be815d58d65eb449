"""What the board's tests share: a clock that is told, definitions, a writer over a memory store that can be broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from bulletin.board.writer import Writer
from bulletin.core.lifecycle import Policy
from bulletin.core.model import Definition
from bulletin.core.operations import Effect, Event
from bulletin.store.broken import BrokenStore
from bulletin.store.memory import MemoryStore
from bulletin.wire import tasks as wire_tasks
from bulletin.wire.proto import bbs_pb2


class ToldClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def now_ns(self) -> int:
        return int(self.seconds * 1e9)

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Desk:
    """A running writer and what came out of it."""

    writer: Writer
    store: BrokenStore
    memory: MemoryStore
    clock: ToldClock
    running: asyncio.Task[None]
    events: list[Event] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)


@pytest.fixture
def clock() -> ToldClock:
    return ToldClock()


@pytest.fixture
def definition() -> Callable[..., Definition]:
    """Makes definitions; keywords are fields of the wire's TaskDefinition."""

    def make(**fields: object) -> Definition:
        action = bbs_pb2.Action(run_action=bbs_pb2.RunAction(path="sh", user="root"))
        return wire_tasks.summarise(
            bbs_pb2.TaskDefinition(**{"root_fs": "docker:///busybox", "action": action, **fields})  # type: ignore[arg-type]
        )

    return make


@pytest.fixture
async def desk(clock: ToldClock) -> AsyncIterator[Desk]:
    async with run_desk(clock) as made:
        yield made


@pytest.fixture
def open_desk(clock: ToldClock) -> Callable[..., object]:
    """Opens desks by hand, over given contents or with other settings."""
    return lambda **options: run_desk(clock, **options)


@asynccontextmanager
async def run_desk(
    clock: ToldClock, *, memory: MemoryStore | None = None, retries: int = 3, retry_seconds: float = 0.0
) -> AsyncIterator[Desk]:
    memory = MemoryStore(clock=clock) if memory is None else memory
    store = BrokenStore(memory)
    await store.open()
    lease = await store.acquire("desk", 60.0)
    events: list[Event] = []
    effects: list[Effect] = []
    writer = Writer(
        store,
        lease,
        clock,
        Policy(max_task_retries=retries),
        publish=events.extend,
        perform=effects.extend,
        retry_seconds=retry_seconds,
    )
    await writer.load()
    running = asyncio.create_task(writer.run())
    yield Desk(writer, store, memory, clock, running, events, effects)
    store.release_commits()
    writer.stop()
    await asyncio.wait({running}, timeout=5)
    assert running.done(), "the writer did not stop"
    if not running.cancelled():
        running.exception()
    await store.close()
