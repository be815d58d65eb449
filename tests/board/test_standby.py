"""Several boards over one store: one rules, the others stand by, and nothing of an owner that was replaced counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
import pytest
from support.ports import free_port

from bulletin.board import app
from bulletin.board.app import Board
from bulletin.board.reign import Reign
from bulletin.board.settings import Address, BoardSettings
from bulletin.board.writer import WriterEnded
from bulletin.seams import RandomIds, SystemClock
from bulletin.store.api import StoreError
from bulletin.store.broken import BrokenStore, Failure, fail_always, never_fail
from bulletin.store.memory import Contents, MemoryStore
from bulletin.wire.proto import bbs_pb2 as bbs

#: Of a whole wait for something that takes a fraction of a second.
SECONDS_MAX = 20.0
LEASE_SECONDS = 0.6


class JumpingClock(SystemClock):
    """A clock that can be put forward, as if the process had been stopped for a while."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_seconds


@dataclass
class Rival:
    """One of several boards."""

    board: Board
    store: BrokenStore
    clock: JumpingClock
    health: str
    ready: asyncio.Future[str]
    running: asyncio.Task[None]

    async def stop(self) -> None:
        self.board.stop()
        await asyncio.wait_for(self.running, SECONDS_MAX)

    async def url(self) -> str:
        return await asyncio.wait_for(asyncio.shield(self.ready), SECONDS_MAX)


@contextlib.asynccontextmanager
async def reigning(clock, store: BrokenStore, **options) -> AsyncIterator[tuple[Reign, asyncio.Task[None]]]:
    """A reign of its own over ``store``, loaded."""
    await store.open()
    settings = BoardSettings(lease_seconds=LEASE_SECONDS, commit_retry_seconds=0.1, **options)
    lease = await store.acquire("b", LEASE_SECONDS)
    reign = Reign(store, lease, clock, settings, "b", asked_at=clock.monotonic())
    stop, loaded = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(reign.run(stop, on_loaded=loaded.set, on_end=lambda: None))
    await asyncio.wait_for(loaded.wait(), SECONDS_MAX)
    yield reign, running
    stop.set()
    await asyncio.wait({running}, timeout=SECONDS_MAX)
    assert running.done()
    if not running.cancelled():
        running.exception()
    await store.close()


class Rivals:
    """Boards that compete for the same contents."""

    def __init__(self) -> None:
        self.contents = Contents()
        self.all: list[Rival] = []
        self.session = aiohttp.ClientSession()

    def start(self, *, listen: Address | None = None, store: BrokenStore | None = None, **options) -> Rival:
        clock = JumpingClock()
        store = store or BrokenStore(MemoryStore(clock=clock, contents=self.contents))
        health = Address("127.0.0.1", free_port())
        settings = BoardSettings(
            listen=listen or Address("127.0.0.1", free_port()),
            health=health,
            database="postgresql://nowhere/nothing",
            lease_seconds=LEASE_SECONDS,
            lease_retry_seconds=0.05,
            commit_retry_seconds=0.1,
            stop_grace_seconds=0.5,
            **options,
        )
        board = Board(settings, store, clock, RandomIds())
        ready = asyncio.get_running_loop().create_future()
        running = asyncio.create_task(board.run(ready))
        rival = Rival(board, store, clock, f"http://{health}", ready, running)
        self.all.append(rival)
        return rival

    async def post(self, url: str, path: str, message=None) -> tuple[int, bytes]:
        body = b"" if message is None else message.SerializeToString()
        async with self.session.post(url + path, data=body) as response:
            return response.status, await response.read()

    async def desire(self, url: str, guid: str) -> bytes:
        action = bbs.Action(run_action=bbs.RunAction(path="sh", user="root"))
        definition = bbs.TaskDefinition(root_fs="docker:///busybox", action=action)
        message = bbs.DesireTaskRequest(task_guid=guid, domain="d", task_definition=definition)
        status, answer = await self.post(url, "/v1/tasks/desire.r2", message)
        assert status == 200
        return answer

    async def guids(self, url: str) -> set[str]:
        status, answer = await self.post(url, "/v1/tasks/list.r3")
        assert status == 200
        return {task.task_guid for task in bbs.TasksResponse.FromString(answer).tasks}

    async def close(self) -> None:
        await self.session.close()
        for rival in self.all:
            rival.store.release_commits()
            rival.board.stop()
        await asyncio.wait({rival.running for rival in self.all}, timeout=SECONDS_MAX)
        assert all(rival.running.done() for rival in self.all)


@pytest.fixture
async def rivals() -> AsyncIterator[Rivals]:
    made = Rivals()
    yield made
    await made.close()


async def until(is_so: Callable[[], bool]) -> None:
    """Wait, within a bound, for something that comes by itself."""
    async with asyncio.timeout(SECONDS_MAX):
        while not is_so():
            await asyncio.sleep(0.005)


async def refuses(rivals: Rivals, url: str) -> bool:
    try:
        await rivals.post(url, "/v1/ping")
    except aiohttp.ClientConnectorError:
        return True
    except aiohttp.ClientError:
        return False
    return False


async def healthy(rivals: Rivals, rival: Rival) -> bool:
    async with rivals.session.get(rival.health) as response:
        return response.status == 200


async def test_a_standby_is_healthy_and_closed_and_takes_over_when_the_other_stops(rivals):
    first = rivals.start()
    url = await first.url()
    await rivals.desire(url, "g")
    port = free_port()
    second = rivals.start(listen=Address("127.0.0.1", port))
    await until(lambda: second.store.calls["acquire"] > 1)
    assert await healthy(rivals, second)
    assert await refuses(rivals, f"http://127.0.0.1:{port}")
    assert not second.ready.done()
    await first.stop()
    assert await second.url() == f"http://127.0.0.1:{port}"
    assert await rivals.guids(await second.url()) == {"g"}
    assert await refuses(rivals, url)
    assert rivals.contents.epoch == 2


async def test_a_clean_stop_gives_the_lease_back_before_its_clients_are_gone(rivals):
    first = rivals.start()
    async with rivals.session.post(await first.url() + "/v1/events/tasks.r1") as stream:
        assert stream.status == 200
        await first.stop()
    assert rivals.contents.owner == ""


async def test_a_board_that_cannot_renew_steps_down_and_comes_back_as_standby(rivals):
    first = rivals.start()
    url = await first.url()
    stream = await rivals.session.post(url + "/v1/events/tasks.r1")
    assert stream.status == 200
    second = rivals.start()
    await until(lambda: second.store.calls["acquire"] > 1)
    first.store.fail = fail_always("renew")
    new_url = await second.url()
    assert await asyncio.wait_for(stream.content.read(), SECONDS_MAX) == b"", "its stream has ended"
    await until(lambda: first.store.calls["acquire"] > 2)
    assert await refuses(rivals, url)
    assert await healthy(rivals, first)
    await rivals.desire(new_url, "g")
    first.store.fail = never_fail
    await second.stop()
    await until(lambda: rivals.contents.epoch == 3)
    async with asyncio.timeout(SECONDS_MAX):
        while await refuses(rivals, url) or (await rivals.post(url, "/v1/ping"))[0] != 200:
            await asyncio.sleep(0.01)
    assert await rivals.guids(url) == {"g"}, "at the address that was told at first"


async def test_a_commit_of_a_board_that_was_replaced_does_not_land(rivals):
    first = rivals.start()
    url = await first.url()
    second = rivals.start()
    await until(lambda: second.store.calls["acquire"] > 1)
    first.store.fail = fail_always("renew")
    first.store.hold_commits()
    desiring = asyncio.create_task(rivals.desire(url, "lost"))
    new_url = await second.url()
    first.store.release_commits()
    try:
        answer = bbs.TaskLifecycleResponse.FromString(await desiring)
        assert answer.HasField("error")
    except aiohttp.ClientError:
        pass  # or nobody was there any more to say so
    assert await rivals.guids(new_url) == set()


async def test_a_board_that_was_stopped_for_a_while_answers_nothing_before_it_is_sure(rivals):
    first = rivals.start()
    url = await first.url()
    await rivals.desire(url, "g")
    first.store.fail = fail_always("renew", Failure.BEFORE)
    first.clock.ahead_seconds += LEASE_SECONDS
    # Whether the board itself has found out yet or not: the lease's end is looked at with every request.
    with contextlib.suppress(aiohttp.ClientError):
        status, body = await rivals.post(url, "/v1/tasks/list.r3")
        assert (status, body) == (503, b"")


async def test_a_board_that_was_stopped_and_not_replaced_goes_on(rivals):
    first = rivals.start()
    url = await first.url()
    await rivals.desire(url, "g")
    first.clock.ahead_seconds += 10 * LEASE_SECONDS
    renewals = first.store.calls["renew"]
    await until(lambda: first.store.calls["renew"] > renewals)
    await asyncio.sleep(0)
    assert await rivals.guids(url) == {"g"}
    assert rivals.contents.epoch == 1


async def test_the_time_of_a_lease_is_counted_from_before_it_was_asked_for(clock):
    class SlowStore(BrokenStore):
        async def renew(self, lease, seconds):
            await super().renew(lease, seconds)
            clock.seconds += LEASE_SECONDS / 2  # how long the answer takes

    store = SlowStore(MemoryStore(clock=clock))
    async with reigning(clock, store) as (reign, _running):
        assert reign.is_vouched()
        await until(lambda: store.calls["renew"] == 1)
        await asyncio.sleep(0)
        store.fail = fail_always("renew")
        clock.seconds += LEASE_SECONDS * 0.4
        assert reign.is_vouched()
        clock.seconds += LEASE_SECONDS * 0.2
        assert not reign.is_vouched()


async def test_a_lease_that_is_somebody_elses_ends_the_reign_at_once(clock):
    store = BrokenStore(MemoryStore(clock=clock), fail_always("renew", Failure.LEASE_LOST))
    async with reigning(clock, store) as (reign, running):
        with pytest.raises(WriterEnded, match="the lease was lost"):
            await asyncio.wait_for(running, SECONDS_MAX)
        assert not reign.is_vouched()
        assert store.calls["renew"] == 1


async def test_a_renewal_that_is_never_answered_ends_the_reign(clock):
    class MuteStore(BrokenStore):
        async def renew(self, lease, seconds):
            clock.seconds += LEASE_SECONDS
            await asyncio.get_running_loop().create_future()

    async with reigning(clock, MuteStore(MemoryStore(clock=clock))) as (_reign, running):
        with pytest.raises(WriterEnded, match="could not be renewed in time: no answer"):
            await asyncio.wait_for(running, SECONDS_MAX)


async def test_a_store_that_comes_up_late_is_waited_for(rivals):
    clock = JumpingClock()
    store = BrokenStore(MemoryStore(clock=clock, contents=rivals.contents))
    store.fail = lambda method, call: Failure.BEFORE if (method, call) in {("open", 1), ("acquire", 1)} else None
    first = rivals.start(store=store)
    await first.url()
    assert store.calls["open"] == 2
    assert store.calls["acquire"] == 2


async def test_a_store_that_never_comes_up_ends_the_board(rivals, monkeypatch):
    monkeypatch.setattr(app, "_OPEN_SECONDS_MAX", 0.0)
    clock = JumpingClock()
    store = BrokenStore(MemoryStore(clock=clock, contents=rivals.contents), fail_always("open"))
    first = rivals.start(store=store)
    with pytest.raises(StoreError, match="broken on order"):
        await first.running


async def test_a_passing_outage_ends_a_reign_and_not_the_board(rivals):
    first = rivals.start()
    url = await first.url()
    first.store.fail = lambda method, _call: None if method in {"release", "close"} else Failure.BEFORE
    await until(lambda: first.store.calls["acquire"] > 2)
    assert await refuses(rivals, url)
    assert await healthy(rivals, first)
    first.store.fail = never_fail
    await until(lambda: rivals.contents.epoch == 2)
    async with asyncio.timeout(SECONDS_MAX):
        while await refuses(rivals, url) or (await rivals.post(url, "/v1/ping"))[0] != 200:
            await asyncio.sleep(0.01)


async def test_an_address_in_use_ends_a_board_that_never_served_and_frees_the_lease(rivals):
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        first = rivals.start(listen=Address("127.0.0.1", port))
        with pytest.raises(OSError, match="address already in use|in use"):
            await first.running
    assert rivals.contents.owner == ""


async def test_a_standby_that_is_stopped_ends_at_once_and_leaves_the_lease_alone(rivals):
    first = rivals.start()
    await first.url()
    second = rivals.start()
    await until(lambda: second.store.calls["acquire"] > 1)
    await second.stop()
    assert rivals.contents.epoch == 1
    assert rivals.contents.owner
