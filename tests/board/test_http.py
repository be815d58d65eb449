"""The API over real sockets: answers byte for byte, bad input of every kind, slow and vanished clients."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
import pytest

from bulletin.board.app import Board
from bulletin.board.settings import Address, BoardSettings
from bulletin.core import limits
from bulletin.seams import RandomIds, SystemClock
from bulletin.store.broken import BrokenStore, Failure, fail_always
from bulletin.store.memory import MemoryStore
from bulletin.wire.events import EventParser, decode_event
from bulletin.wire.proto import bbs_pb2 as bbs
from bulletin.wire.routes import ROUTES

PROTOBUF = "application/x-protobuf"


@dataclass
class Running:
    url: str
    board: Board
    store: BrokenStore
    session: aiohttp.ClientSession

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    async def call(self, path: str, message=None, kind=bbs.TaskLifecycleResponse):
        body = b"" if message is None else message.SerializeToString()
        async with self.session.post(self.url + path, data=body, headers={"Content-Type": PROTOBUF}) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == PROTOBUF
            return kind.FromString(await response.read())

    async def desire(self, guid="g", domain="d", **fields):
        return await self.call("/v1/tasks/desire.r2", desire(guid, domain, **fields))

    async def get(self, guid="g"):
        return await self.call("/v1/tasks/get_by_task_guid.r3", bbs.TaskByGuidRequest(task_guid=guid), bbs.TaskResponse)


def desire(guid="g", domain="d", **fields) -> bbs.DesireTaskRequest:
    action = bbs.Action(run_action=bbs.RunAction(path="sh", user="root"))
    definition = bbs.TaskDefinition(**{"root_fs": "docker:///busybox", "action": action, **fields})
    return bbs.DesireTaskRequest(task_guid=guid, domain=domain, task_definition=definition)


@pytest.fixture
async def start() -> AsyncIterator[Callable]:
    ended: list[Callable] = []

    async def start(**settings) -> Running:
        clock = SystemClock()
        store = BrokenStore(MemoryStore(clock=clock))
        options = {
            "listen": Address("127.0.0.1", 0),
            "commit_retry_seconds": 0.1,
            "stop_grace_seconds": 0.5,
            **settings,
        }
        board = Board(BoardSettings(**options), store, clock, RandomIds())
        ready = asyncio.get_running_loop().create_future()
        running = asyncio.create_task(board.run(ready))
        await asyncio.wait({ready, running}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        session = aiohttp.ClientSession()

        async def end() -> None:
            await session.close()
            board.stop()
            await asyncio.wait_for(running, 10)

        ended.append(end)
        return Running(await ready, board, store, session)

    yield start
    for end in ended:
        await end()


@pytest.fixture
async def board(start) -> Running:
    return await start()


async def raw(running: Running, data: bytes, *, until_close: bool = False) -> bytes:
    """Send bytes and return what comes back: up to the end of the connection, or one read."""
    reader, writer = await asyncio.open_connection(*running.address)
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(10):
            return await (reader.read() if until_close else reader.read(65536))
    finally:
        writer.close()


async def test_the_life_of_a_task_over_the_wire(board):
    assert not (await board.desire(annotation="a")).HasField("error")
    task = (await board.get()).task
    assert (task.state, task.domain, task.task_definition.annotation) == (bbs.Task.Pending, "d", "a")
    start = bbs.StartTaskRequest(task_guid="g", cell_id="c")
    assert (await board.call("/v1/tasks/start", start, bbs.StartTaskResponse)).should_start
    assert not (await board.call("/v1/tasks/start", start, bbs.StartTaskResponse)).should_start
    done = bbs.CompleteTaskRequest(task_guid="g", cell_id="c", result="r")
    assert not (await board.call("/v1/tasks/complete", done)).HasField("error")
    assert (
        await board.call("/v1/tasks/complete", done)
    ).error.message == "Cannot transition from Completed to Completed"
    guid = bbs.TaskGuidRequest(task_guid="g")
    assert not (await board.call("/v1/tasks/resolving", guid)).HasField("error")
    assert (await board.get()).task.state == bbs.Task.Resolving
    assert not (await board.call("/v1/tasks/delete", guid)).HasField("error")
    assert (await board.get()).error.type == bbs.Error.ResourceNotFound


async def test_success_is_an_empty_body_with_its_length_and_type(board):
    body = desire().SerializeToString()
    head = b"POST /v1/tasks/desire.r2 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = await raw(board, head + body)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Type: application/x-protobuf\r\n" in answer
    assert b"Content-Length: 0\r\n" in answer
    assert b"\r\nDate: " in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_unknown_paths_and_wrong_methods(board):
    async with board.session.post(board.url + "/v1/nothing") as response:
        assert (response.status, await response.text()) == (404, "404 page not found\n")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    for method in ("GET", "HEAD", "PUT"):
        async with board.session.request(method, board.url + "/v1/ping") as response:
            assert response.status == 405
            assert response.headers["Allow"] == "POST"
            assert await response.text() == ("" if method == "HEAD" else "Method Not Allowed\n")
    async with board.session.post(board.url + "//v1/ping") as response:
        assert response.status == 404


async def test_calls_without_a_message_do_not_read_their_body(board):
    async with board.session.post(board.url + "/v1/ping", data=b"\xff garbage") as response:
        assert await response.read() == b"\x08\x01"


@pytest.mark.parametrize(
    "body",
    [b"\xff\xff\xff", b"\x0a\x05ab", b"not protobuf at all", b"\x12\x02\xff\xfe", b"\x00" * 100, b"\x12\x01"],
)
async def test_a_body_that_is_no_message_is_an_invalid_request(board, body):
    async with board.session.post(board.url + "/v1/tasks/desire.r2", data=body) as response:
        assert response.status == 200
        error = bbs.TaskLifecycleResponse.FromString(await response.read()).error
    assert (error.type, error.message) == (bbs.Error.InvalidRequest, "the request received is invalid")


def nested(depth: int) -> bytes:
    """A desire whose action is ``depth`` try actions deep, written by hand: no library builds it."""

    def field(number: int, payload: bytes) -> bytes:
        length = len(payload)
        digits = bytearray()
        while length >= 0x80:
            digits.append(length & 0x7F | 0x80)
            length >>= 7
        return bytes([number << 3 | 2]) + bytes(digits) + bytes([length]) + payload

    action = field(3, field(1, b"sh") + field(6, b"root"))
    for _ in range(depth):
        action = field(6, field(1, action))
    return field(1, field(1, b"docker:///busybox") + field(3, action)) + field(2, b"deep") + field(3, b"d")


@pytest.mark.parametrize("depth", [limits.ACTION_DEPTH_MAX + 1, 100, 20_000])
async def test_a_deeply_nested_action_is_refused_and_the_board_goes_on(board, depth):
    async with board.session.post(board.url + "/v1/tasks/desire.r2", data=nested(depth)) as response:
        error = bbs.TaskLifecycleResponse.FromString(await response.read()).error
    assert error.type == bbs.Error.InvalidRequest
    assert not (await board.desire()).HasField("error")


async def test_100_000_levels_of_json_are_refused(board):
    body = b'{"task_definition":{"action":' + b'{"try_action":{"action":' * 100_000
    headers = {"Content-Type": "application/json"}
    async with board.session.post(
        board.url + "/v1/tasks/desire.r2", data=io.BytesIO(body), headers=headers
    ) as response:
        assert (await response.json())["error"]["type"] == "InvalidRequest"
    assert not (await board.desire()).HasField("error")


async def test_100_mb_are_cut_off_and_the_board_goes_on(board):
    head = b"POST /v1/tasks/desire.r2 HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"
    answer = await raw(board, head + b"x" * 100_000, until_close=True)
    assert b"Connection: close" in answer
    error = bbs.TaskLifecycleResponse.FromString(answer.partition(b"\r\n\r\n")[2]).error
    assert error.message == f"the request's body is over {limits.REQUEST_BYTES_MAX} bytes"
    assert not (await board.desire()).HasField("error")


async def test_a_chunked_body_over_the_bound_is_cut_off(board, monkeypatch):
    monkeypatch.setattr(limits, "REQUEST_BYTES_MAX", 1000)
    head = b"POST /v1/tasks/desire.r2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await raw(board, head + b"400\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n", until_close=True)
    assert b"over 1000 bytes" in answer


async def test_a_client_that_sends_its_body_too_slowly_is_answered_and_cut_off(board, monkeypatch):
    monkeypatch.setattr(limits, "REQUEST_READ_SECONDS_MAX", 0.1)
    head = b"POST /v1/tasks/desire.r2 HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nslow"
    answer = await raw(board, head, until_close=True)
    assert b"did not arrive within 0.1 seconds" in answer


async def test_garbage_instead_of_http_is_answered_and_cut_off(board):
    answer = await raw(board, b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03 hello?\r\n\r\n", until_close=True)
    assert b"400" in answer.split(b"\r\n")[0]
    assert not (await board.desire()).HasField("error")


async def test_endless_headers_are_refused(board):
    answer = await raw(board, b"POST /v1/ping HTTP/1.1\r\nX: " + b"a" * 100_000, until_close=True)
    assert b"400" in answer.split(b"\r\n")[0]


async def test_a_page_of_another_site_cannot_use_the_visitors_board(board):
    async with board.session.post(board.url + "/v1/ping", headers={"Origin": "https://evil.example"}) as response:
        assert response.status == 403
    async with board.session.post(board.url + "/v1/ping", headers={"Origin": board.url}) as response:
        assert response.status == 200


async def test_json_in_json_out(board):
    body = {
        "task_guid": "g",
        "domain": "d",
        "task_definition": {"root_fs": "docker:///busybox", "action": {"run_action": {"path": "sh", "user": "root"}}},
    }

    async def call(path: str, message: dict) -> dict:
        async with board.session.post(board.url + path, json=message) as response:
            assert response.headers["Content-Type"] == "application/json"
            return await response.json()

    assert await call("/v1/tasks/desire.r2", body) == {}
    assert (await call("/v1/tasks/desire.r2", body))["error"]["type"] == "ResourceExists"
    task = (await call("/v1/tasks/get_by_task_guid.r3", {"task_guid": "g"}))["task"]
    assert (task["state"], task["domain"]) == ("Pending", "d")
    assert [task["task_guid"] for task in (await call("/v1/tasks/list.r3", {}))["tasks"]] == ["g"]
    body["task_definition"]["action"] = {}
    assert (await call("/v1/tasks/desire.r2", body))["error"]["message"] == (
        "Invalid field: action, Invalid field: inner-action"
    )


async def test_every_route_of_the_table_answers_as_what_it_is(board):
    for route in ROUTES:
        if route.stream:
            continue
        async with board.session.post(board.url + route.path) as response:
            assert response.status == 200, route.path
            assert route.response is not None
            answer = route.response.FromString(await response.read())
        if route.handler in ("ping", "domains", "cells", "tasks"):
            assert route.handler == "ping" or not answer.HasField("error")
        else:
            assert answer.error.type == bbs.Error.InvalidRequest, route.path


async def test_lrp_routes_say_that_they_are_not_supported(board):
    answer = await board.call("/v1/desired_lrps/list.r3")
    assert "not supported" in answer.error.message


async def test_lists_filter_by_domain_and_cell_and_long_ones_are_whole(board):
    for n in range(700):
        await board.desire(f"g{n}", "even" if n % 2 == 0 else "odd")
    await board.call("/v1/tasks/start", bbs.StartTaskRequest(task_guid="g1", cell_id="c"), bbs.StartTaskResponse)

    async def list_tasks(**filters) -> set[str]:
        answer = await board.call("/v1/tasks/list.r3", bbs.TasksRequest(**filters), bbs.TasksResponse)
        return {task.task_guid for task in answer.tasks}

    assert len(await list_tasks()) == 700
    assert await list_tasks(domain="even") == {f"g{n}" for n in range(0, 700, 2)}
    assert await list_tasks(cell_id="c") == {"g1"}
    assert await list_tasks(domain="even", cell_id="c") == set()
    async with board.session.post(board.url + "/v1/tasks/list", json={}) as response:
        assert len((await response.json())["tasks"]) == 700


async def test_the_event_stream_begins_at_once_and_ends_in_order(board):
    reader, writer = await asyncio.open_connection(*board.address)
    writer.write(b"POST /v1/events/tasks.r1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Content-Type: text/event-stream; charset=utf-8" in head
        assert b"Cache-Control: no-cache, no-store, must-revalidate" in head
        assert b"Transfer-Encoding: chunked" in head
        await board.desire()
        await board.call("/v1/tasks/cancel", bbs.TaskGuidRequest(task_guid="g"))
        data = b""
        while data.count(b"event: ") < 2 or not data.endswith(b"\n\n\r\n"):
            data += await reader.read(65536)
        events = EventParser().feed(b"".join(data.split(b"\r\n")[1::2]))
        assert [(raw.id, raw.name) for raw in events] == [("0", "task_created"), ("1", "task_changed")]
        assert decode_event(events[1]).after.failure_reason == "task was cancelled"
        board.board.stop()
        rest = await reader.read()
        assert rest.endswith(b"0\r\n\r\n")
    writer.close()


async def test_domains(board):
    for domain, ttl in (("short", 1), ("forever", 0)):
        answer = await board.call(
            "/v1/domains/upsert", bbs.UpsertDomainRequest(domain=domain, ttl=ttl), bbs.UpsertDomainResponse
        )
        assert not answer.HasField("error")
    assert "forever" in (await board.call("/v1/domains/list", None, bbs.DomainsResponse)).domains
    long = bbs.UpsertDomainRequest(domain="x" * 256)
    assert (await board.call("/v1/domains/upsert", long, bbs.UpsertDomainResponse)).error.type == (
        bbs.Error.InvalidRequest
    )


async def test_output_of_an_unknown_task_is_a_404_that_says_so(board):
    async with board.session.get(board.url + "/v1/tasks/nobody/output") as response:
        assert response.status == 404
        assert "nobody" in (await response.json())["error"]


async def test_a_lost_store_is_an_error_to_who_waits_and_the_board_starts_over(board):
    await board.desire("before")
    board.store.fail = fail_always("commit", Failure.BEFORE)
    answer = await board.desire("lost")
    assert answer.error.type == bbs.Error.UnknownError
    board.store.fail = lambda _method, _call: None
    async with asyncio.timeout(10):
        while True:
            body = desire("after").SerializeToString()
            async with board.session.post(board.url + "/v1/tasks/desire.r2", data=body) as response:
                if response.status == 200 and await response.read() == b"":
                    break
            await asyncio.sleep(0.05)
    assert (await board.get("before")).task.task_guid == "before"
    assert (await board.get("lost")).error.type == bbs.Error.ResourceNotFound


async def test_a_board_on_another_address_than_loopback_wants_to_be_told_so():
    from bulletin.board.settings import SettingError

    with pytest.raises(SettingError, match="loopback"):
        BoardSettings(listen=Address("0.0.0.0", 0)).check()
    BoardSettings(listen=Address("0.0.0.0", 0), insecure_plain_http=True).check()
    for text in ("x", "127.0.0.1", "127.0.0.1:", ":80", "127.0.0.1:99999", "127.0.0.1:-1"):
        with pytest.raises(SettingError, match="listen"):
            Address.parse(text, "listen")
    assert str(Address.parse("[::1]:80", "listen")) == "[::1]:80"


async def test_health_answers_on_its_own_address(start, unused_port):
    running = await start(health=Address("127.0.0.1", unused_port))
    async with running.session.get(f"http://127.0.0.1:{unused_port}/anything") as response:
        assert (response.status, await response.read()) == (200, b"")


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
