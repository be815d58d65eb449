"""Our own event stream over HTTP: as it comes, resumed, filtered, slow, quiet, and at its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from support.served import Served, serve_board

from bulletin.board import streams
from bulletin.core import limits
from bulletin.core.model import Task, TaskState
from bulletin.core.operations import TaskChanged, TaskCreated, TaskRemoved
from bulletin.wire.events import EventParser
from bulletin.wire.ownevents import Missed, decode_own_event
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.tasks import summarise


class Stream:
    """A subscriber."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._content = response.content
        self._parser = EventParser()
        self._waiting: list = []
        self.bytes = b""

    async def event(self):
        """The next event."""
        while not self._waiting:
            await self.more()
        return self._waiting.pop(0)

    async def more(self) -> None:
        async with asyncio.timeout(10):
            data = await self._content.readany()
        assert data, "the stream has ended"
        self.bytes += data
        self._waiting += [decode_own_event(raw) for raw in self._parser.feed(data)]

    async def rest(self) -> list:
        """What comes until the orderly end."""
        async with asyncio.timeout(10):
            while data := await self._content.readany():
                self._waiting += [decode_own_event(raw) for raw in self._parser.feed(data)]
        rest, self._waiting = self._waiting, []
        return rest

    @property
    def last_id(self) -> str:
        return self._parser.last_id


@asynccontextmanager
async def stream(board: Served, query: str = "", last_id: str | None = None) -> AsyncIterator[Stream]:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    async with board.session.get(f"{board.url}/v1/task_events{query}", headers=headers) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        opened = Stream(response)
        await opened.more()
        yield opened


@pytest.fixture
async def board() -> AsyncIterator[Served]:
    async with serve_board() as served:
        yield served


async def test_the_life_of_a_task(board):
    async with stream(board) as events:
        await board.desire("g", annotation="a")
        await board.start("g")
        await board.complete("g", result="<\u2603>")
        await board.act("resolving", "g")
        await board.act("delete", "g")
        life = [await events.event() for _ in range(5)]
    assert [type(event) for event in life] == [TaskCreated, TaskChanged, TaskChanged, TaskChanged, TaskRemoved]
    assert [event.after.state.label for event in life[1:4]] == ["Running", "Completed", "Resolving"]
    assert life[2].after.result == "<\u2603>"
    assert life[4].task.definition == life[0].task.definition


async def test_coming_again_gives_exactly_what_came_since(board):
    async with stream(board) as events:
        await board.desire("a")
        await events.event()
        last_id = events.last_id
    for guid in "bcd":
        await board.desire(guid)
    async with stream(board, last_id=last_id) as events:
        await board.desire("e")
        assert [(await events.event()).task.guid for _ in range(4)] == ["b", "c", "d", "e"]


async def test_an_id_is_known_before_the_first_event(board):
    async with stream(board) as events:
        last_id = events.last_id
    assert last_id.endswith("-0")
    await board.desire("a")
    async with stream(board, last_id=last_id) as events:
        assert (await events.event()).task.guid == "a"


@pytest.mark.parametrize("last_id", ["99-1", "0-0", "garbage", "1-99"])
async def test_what_cannot_be_resumed_is_said(board, last_id):
    await board.desire("a")
    async with stream(board, last_id=last_id) as events:
        assert isinstance(await events.event(), Missed)
        await board.desire("b")
        assert (await events.event()).task.guid == "b"


async def test_an_empty_last_event_id_is_none(board):
    await board.desire("a")
    async with stream(board, last_id="") as events:
        await board.desire("b")
        assert (await events.event()).task.guid == "b"


async def test_too_old():
    async with serve_board(event_ring_max=3) as board:
        async with stream(board) as events:
            last_id = events.last_id
        for guid in "abcd":
            await board.desire(guid)
        async with stream(board, last_id=last_id) as events:
            assert "older" in (await events.event()).reason


async def test_another_reign(board, tmp_path):
    from bulletin.seams import SystemClock
    from bulletin.store import PlainSealer, make_store

    ids = []
    for _ in range(2):
        store = make_store(str(tmp_path / "board.sqlite3"), sealer=PlainSealer(), clock=SystemClock())
        async with serve_board(store) as served, stream(served, last_id=ids[-1] if ids else None) as events:
            if ids:
                assert "new reign" in (await events.event()).reason
            ids.append(events.last_id)
    assert ids[0] != ids[1]


async def test_filters(board):
    async with stream(board, "?domain=d2") as by_domain, stream(board, "?guid=b&domain=d2") as by_both:
        for guid, domain in (("a", "d1"), ("b", "d2"), ("c", "d2")):
            await board.desire(guid, domain)
        assert [(await by_domain.event()).task.guid for _ in range(2)] == ["b", "c"]
        assert (await by_both.event()).task.guid == "b"


@pytest.mark.parametrize("query", ["?gid=a", "?guid=a&guid=b", "?domain=a&x="])
async def test_filters_that_are_none(board, query):
    async with board.session.get(f"{board.url}/v1/task_events{query}") as response:
        assert (response.status, response.headers["Content-Type"]) == (400, "application/json")
        assert "guid and domain" in (await response.json())["error"]


async def test_a_quiet_stream_shows_that_it_lives_and_where_it_is(board, monkeypatch):
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.01)
    async with stream(board, "?guid=nobody") as events:
        await board.desire("a")
        while not events.last_id.endswith("-1"):
            await events.more()
        assert events.bytes.replace(b":\nid: ", b"").replace(b"\n\n", b"").strip(b"0123456789-") == b""


async def test_a_quiet_stream_of_the_bbs_sends_comments(board, monkeypatch):
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.01)
    async with board.session.post(f"{board.url}/v1/events/tasks.r1") as response, asyncio.timeout(10):
        assert await response.content.readexactly(6) == b":\n\n:\n\n"


async def unread(board: Served, head: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that asked for a stream, whose socket holds little."""
    host, _, port = board.url.removeprefix("http://").rpartition(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=connection, limit=1024)
    writer.write(head + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    async with asyncio.timeout(20):
        while size := int(await reader.readuntil(b"\r\n"), 16):
            yield (await reader.readexactly(size + 2))[:-2]


def large_event(annotation_bytes: int = 100_000) -> TaskCreated:
    definition = summarise(bbs_pb2.TaskDefinition(annotation="x" * annotation_bytes))
    return TaskCreated(Task("g", "d", definition, TaskState.PENDING, 1, 1))


async def test_a_subscriber_that_does_not_read_is_told_and_goes_on():
    async with serve_board(event_ring_max=10) as board:
        reader, writer = await unread(board, b"GET /v1/task_events")
        ring, event = board.reign.hub.ring, large_event()
        # More than the sockets between them hold; each with a turn of its own, so that the stream can write.
        for _ in range(200):
            ring.append([event])
            await asyncio.sleep(0)
        parser, raws = EventParser(), []
        async for chunk in chunks(reader):
            raws += parser.feed(chunk)
            if raws and raws[-1].name == "missed":
                break
        assert 0 < len(raws) < 200
        assert raws[-1].id.endswith("-200")
        ring.append([event])
        async for chunk in chunks(reader):
            raws += parser.feed(chunk)
            if raws[-1].name == "task_created":
                break
        assert raws[-1].id.endswith("-201")
        writer.close()


async def test_a_subscriber_of_the_bbs_that_does_not_read_gets_what_is_buffered_and_an_orderly_end(board):
    reader, writer = await unread(board, b"POST /v1/events/tasks.r1")
    hub, event = board.reign.hub, large_event(20_000)
    while hub:
        hub.publish([event] * 5)
        await asyncio.sleep(0)
    parser, raws = EventParser(), []
    async for chunk in chunks(reader):  # ends with the last chunk
        raws += parser.feed(chunk)
    assert [raw.id for raw in raws] == [str(number) for number in range(len(raws))]
    assert len(raws) >= limits.SUBSCRIBER_EVENTS_MAX
    writer.close()


async def test_the_end_is_orderly(board):
    async with stream(board) as events:
        await board.desire("a")
        board.board.stop()
        assert [event.task.guid for event in await events.rest()] == ["a"]


async def test_a_client_that_is_gone_is_forgotten(board, monkeypatch):
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.01)
    hub = board.reign.hub
    async with stream(board):
        assert len(hub) == 1
    async with board.session.post(f"{board.url}/v1/events/tasks.r1"):
        pass
    async with asyncio.timeout(10):
        while len(hub):
            await asyncio.sleep(0.01)


async def test_callbacks_of_a_task(board):
    await board.desire("g")
    async with board.session.get(f"{board.url}/v1/tasks/g/callbacks") as response:
        assert (response.status, await response.json()) == (200, {"attempts": []})
    async with board.session.get(f"{board.url}/v1/tasks/nobody/callbacks") as response:
        assert (response.status, await response.json()) == (404, {"error": "there is no task nobody"})


async def test_attempts_are_shown_oldest_first(board):
    from bulletin.core.model import CallbackAttempt
    from bulletin.core.operations import RecordAttempts

    await board.desire("g")
    await board.start("g")
    await board.complete("g")
    await board.act("resolving", "g")
    attempts = (CallbackAttempt(5, 7, 0, "refused"), CallbackAttempt(9, 1, 200))
    await board.reign.writer.apply(RecordAttempts("g", attempts))
    async with board.session.get(f"{board.url}/v1/tasks/g/callbacks") as response:
        assert (await response.json())["attempts"] == [
            {"at_ns": 5, "duration_ns": 7, "status": 0, "problem": "refused"},
            {"at_ns": 9, "duration_ns": 1, "status": 200, "problem": ""},
        ]
