"""Answers byte for byte on the socket (board-api.md 1.3, 11.1), the Date aside."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
from support.served import Served, desire_request, serve_board

from bulletin.wire.events import EventParser
from bulletin.wire.proto import bbs_pb2 as bbs

STREAMS = ["POST /v1/events/tasks.r1", "POST /v1/events/tasks", "GET /v1/task_events"]
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache, no-store, must-revalidate\r\n"
    b"Connection: keep-alive\r\n"
    b"Transfer-Encoding: chunked\r\n"
    b"Date: *\r\n\r\n"
)


class Wire:
    """A connection to a board, as bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, line: str, body: bytes = b"", version: str = "1.1") -> None:
        self.writer.write(f"{line} HTTP/{version}\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await self.writer.drain()

    async def head(self) -> bytes:
        """The next head, its Date made a star."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
        dated, count = re.subn(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", b"Date: *\r\n", head)
        assert count == 1
        return dated

    async def exactly(self, count: int) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readexactly(count)

    async def chunk(self) -> bytes:
        """The next chunk; empty at the last."""
        async with asyncio.timeout(10):
            line = await self.reader.readuntil(b"\r\n")
            assert re.fullmatch(rb"[1-9a-f][0-9a-f]*\r\n|0\r\n", line), line
            data = await self.reader.readexactly(int(line, 16))
            assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def rest(self) -> bytes:
        """What comes until the connection ends."""
        async with asyncio.timeout(10):
            return await self.reader.read()


@pytest.fixture
async def board() -> AsyncIterator[Served]:
    async with serve_board() as served:
        yield served


@pytest.fixture
async def wire(board: Served) -> AsyncIterator[Wire]:
    host, _, port = board.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    yield Wire(reader, writer)
    writer.close()


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/", "//v1/ping", "/v1/ping/", "/v1/tasks//output", "/v1/tasks/a/b/output"]
)
async def test_404(wire, path):
    for _ in range(2):  # on one connection: it can be used again
        await wire.ask(f"POST {path}")
        assert await wire.head() == (
            b"HTTP/1.1 404 Not Found\r\n"
            b"Content-Type: text/plain; charset=utf-8\r\n"
            b"X-Content-Type-Options: nosniff\r\n"
            b"Content-Length: 19\r\n"
            b"Date: *\r\n\r\n"
        )
        assert await wire.exactly(19) == b"404 page not found\n"


@pytest.mark.parametrize(
    ("line", "allow"),
    [
        ("GET /v1/ping", b"POST"),
        ("HEAD /v1/ping", b"POST"),
        ("PUT /v1/tasks/desire.r2", b"POST"),
        ("GET /v1/events/tasks.r1", b"POST"),
        ("POST /v1/events.r1", b"GET"),
        ("POST /v1/task_events", b"GET"),
        ("HEAD /openapi.json", b"GET"),
        ("DELETE /v1/tasks/g/output", b"GET"),
    ],
)
async def test_405(wire, line, allow):
    for _ in range(2):
        await wire.ask(line)
        assert await wire.head() == (
            b"HTTP/1.1 405 Method Not Allowed\r\n"
            b"Content-Type: text/plain; charset=utf-8\r\n"
            b"X-Content-Type-Options: nosniff\r\n"
            b"Allow: %b\r\n"
            b"Content-Length: 19\r\n"
            b"Date: *\r\n\r\n" % allow
        )
        if not line.startswith("HEAD"):
            assert await wire.exactly(19) == b"Method Not Allowed\n"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/tasks/desire.r2", desire_request("g").SerializeToString()),
        ("/v1/tasks/list.r3", b""),
        ("/v1/domains/list", b""),
        ("/v1/cells/list.r1", b""),
        ("/v1/domains/upsert", bytes.fromhex("0a03646f6d1001")),
    ],
)
async def test_success_without_anything_to_say_is_no_bytes(wire, path, body):
    await wire.ask(f"POST {path}", body)
    assert await wire.head() == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\nDate: *\r\n\r\n"
    )
    await wire.ask("POST /v1/ping")
    assert b"Content-Length: 2\r\n" in await wire.head()
    assert await wire.exactly(2) == b"\x08\x01"


async def test_a_refusal_is_200_with_the_error(wire):
    await wire.ask("POST /v1/tasks/cancel", bytes.fromhex("0a0167"))
    body = bbs.TaskLifecycleResponse(
        error=bbs.Error(type="ResourceNotFound", message="the requested resource could not be found")
    ).SerializeToString()
    assert await wire.head() == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\nDate: *\r\n\r\n" % len(body)
    )
    assert await wire.exactly(len(body)) == body


async def test_a_board_that_does_not_rule_says_503_and_nothing_else(board, wire):
    board.board._http.reign = None
    for line in ("POST /v1/ping", "POST /v1/events/tasks.r1", "GET /v1/task_events"):
        await wire.ask(line)
        assert await wire.head() == b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nDate: *\r\n\r\n"


@pytest.mark.parametrize("line", STREAMS)
async def test_a_stream_begins_at_once_and_has_one_whole_chunk_for_what_comes_together(board, wire, line):
    await wire.ask(line)
    assert await wire.head() == STREAM_HEAD
    if line.endswith("task_events"):
        assert (await wire.chunk()).startswith(b":\nid: ")
    await board.desire("g")
    await board.act("cancel", "g")
    parser, names = EventParser(), []
    while len(names) < 2:
        data = await wire.chunk()
        assert data.endswith(b"\n\n")
        names += [raw.name for raw in parser.feed(data)]
    assert names == ["task_created", "task_changed"]


@pytest.mark.parametrize("line", STREAMS)
async def test_a_stream_ends_with_the_last_chunk_and_the_connection(board, wire, line):
    await wire.ask(line)
    await wire.head()
    if line.endswith("task_events"):
        await wire.chunk()
    board.board.stop()
    assert await wire.rest() == b"0\r\n\r\n"


async def test_the_bytes_of_an_event(board, wire):
    await wire.ask("POST /v1/events/tasks.r1")
    await wire.head()
    await board.desire("g")
    lines = (await wire.chunk()).split(b"\n")
    assert lines[:2] == [b"id: 0", b"event: task_created"]
    assert re.fullmatch(rb"data: [A-Za-z0-9+/]+={0,2}", lines[2])
    assert lines[3:] == [b"", b""]


@pytest.mark.parametrize("line", STREAMS)
async def test_an_older_client_that_knows_no_chunks_gets_the_bare_events(board, wire, line):
    await wire.ask(line, version="1.0")
    head = await wire.head()
    assert b"Connection: close\r\n" in head
    assert b"chunked" not in head
    assert b"keep-alive" not in head
    await board.desire("g")
    board.board.stop()
    assert b"\nevent: task_created\n" in b"\n" + await wire.rest()


async def test_a_long_listing_is_chunked_and_the_connection_can_be_used_again(board, wire):
    await asyncio.gather(*[board.desire(f"g{number}") for number in range(450)])
    for _ in range(2):
        await wire.ask("POST /v1/tasks/list.r3")
        assert await wire.head() == (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nTransfer-Encoding: chunked\r\nDate: *\r\n\r\n"
        )
        pieces = []
        while piece := await wire.chunk():
            pieces.append(piece)
        assert len(pieces) == 3
        assert len(bbs.TasksResponse.FromString(b"".join(pieces)).tasks) == 450


async def test_a_long_listing_for_an_older_client_ends_with_the_connection(board, wire):
    await asyncio.gather(*[board.desire(f"g{number}") for number in range(450)])
    await wire.ask("POST /v1/tasks/list.r3", version="1.0")
    assert b"Connection: close\r\n" in await wire.head()
    assert len(bbs.TasksResponse.FromString(await wire.rest()).tasks) == 450


async def test_a_listing_that_fails_midway_does_not_look_whole(board, wire, monkeypatch):
    from bulletin.core.errors import ErrorType, TaskError
    from bulletin.wire import tasks as wire_tasks

    await asyncio.gather(*[board.desire(f"g{number}") for number in range(450)])
    encoded = 0

    def encode(task, form):
        nonlocal encoded
        encoded += 1
        if encoded > 420:
            raise TaskError(ErrorType.DESERIALIZE)
        return wire_tasks.encode_task(task)

    monkeypatch.setattr(wire_tasks, "encode_task_as", encode)
    await wire.ask("POST /v1/tasks/list.r3")
    await wire.head()
    assert not (await wire.rest()).endswith(b"0\r\n\r\n")


async def test_a_listing_that_fails_at_once_is_a_refusal(board, monkeypatch):
    from bulletin.core.errors import ErrorType, TaskError
    from bulletin.wire import tasks as wire_tasks

    def encode(_task, _form):
        raise TaskError(ErrorType.DESERIALIZE)

    await board.desire("g")
    monkeypatch.setattr(wire_tasks, "encode_task_as", encode)
    answer = await board.call("tasks/list.r3", None, bbs.TasksResponse)
    assert answer.error.type == bbs.Error.Deserialize
