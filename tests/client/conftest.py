"""A board in this process: the real lifecycle and wire behind the BBS's routes, and faults on order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from aiohttp import web

from bulletin import Client, RunAction, TaskDefinition
from bulletin.board.ring import Follower, Ring
from bulletin.client import following, transport, waits
from bulletin.client.aio import AsyncClient
from bulletin.core import operations
from bulletin.core.errors import ErrorType, TaskError
from bulletin.core.lifecycle import Policy, step
from bulletin.core.model import Task
from bulletin.wire.events import encode_event, frame
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.routes import ROUTES, Route
from bulletin.wire.tasks import encode_task, error_response, summarise


class FakeBoard:
    """Keeps tasks; every change goes through ``core.lifecycle.step`` and out as events."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.domains: dict[str, int] = {}
        self.cells: list[bbs_pb2.CellPresence] = []
        self.outputs: dict[str, list[dict[str, object]]] = {}
        #: The path of every call, in order.
        self.requests: list[str] = []
        self.last_event_ids: list[str] = []
        #: Path to what its next requests meet, one each: "drop" (before it is done), "lose answer" (after), "hang",
        #: "garbage", "router", or an HTTP status.
        self.faults: dict[str, deque[str | int]] = {}
        #: The ids of connections that were used.
        self.connections: set[int] = set()
        self.streams: set[asyncio.Queue[bytes | None]] = set()
        #: Who follows our own stream, and over which connection.
        self.followers: dict[Follower, asyncio.Transport] = {}
        self.changed = asyncio.Condition()
        self.url = ""
        self.now = 1_000
        self.policy = Policy()
        #: None: this board has no stream that can be resumed, like a BBS.
        self.ring: Ring | None = None
        self._runner: web.AppRunner | None = None

    async def open(self, port: int = 0) -> None:
        app = web.Application(client_max_size=1 << 30)
        for route in ROUTES:
            if route.stream:
                app.router.add_route(route.method, route.path, self._stream)
            else:
                app.router.add_route(route.method, route.path, self._handler(route))
        app.router.add_get("/v1/tasks/{guid}/output", self._output)
        app.router.add_get("/v1/tasks/{guid}/callbacks", self._callbacks)
        app.router.add_get("/v1/task_events", self._own_stream)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", port)
        await self._site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def leave(self) -> None:
        """End every stream in order and take no new connection."""
        await self._site.stop()
        self.end_streams()
        if self.ring is not None:
            self.ring.close()

    async def close(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    # -- what tests do -------------------------------------------------------------------------------------------

    def order(self, path: str, *faults: str | int) -> None:
        self.faults.setdefault(path, deque()).extend(faults)

    async def do(self, operation: operations.Operation) -> None:
        """Change a task and tell everybody."""
        self.now += 1
        taken = step(self.tasks.get(operation.guid), operation, self.now, self.policy)
        if taken.task is None:
            self.tasks.pop(operation.guid, None)
        else:
            self.tasks[operation.guid] = taken.task
        for event in taken.events:
            for queue in self.streams:
                queue.put_nowait(encode_event(event))
        if self.ring is not None:
            self.ring.append(taken.events)
        async with self.changed:
            self.changed.notify_all()

    def quietly(self, operation: operations.Operation) -> None:
        """Change a task and tell nobody, as if the connections were down."""
        self.now += 1
        taken = step(self.tasks.get(operation.guid), operation, self.now, self.policy)
        if taken.task is None:
            del self.tasks[operation.guid]
        else:
            self.tasks[operation.guid] = taken.task

    async def finish(self, guid: str, *, failed: bool = False, reason: str = "", result: str = "") -> None:
        await self.do(operations.Start(guid, "cell"))
        await self.do(operations.Complete(guid, "cell", failed, reason, result))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds; it is looked at after every change."""
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(condition)

    async def desired(self, guid: str) -> None:
        await self.until(lambda: guid in self.tasks)

    def send(self, tail: bytes) -> None:
        for queue in self.streams:
            queue.put_nowait(tail)

    def cut_streams(self) -> None:
        """Break every stream off without its final chunk."""
        self._end_streams(b"")

    def end_streams(self) -> None:
        """End every stream in order."""
        self._end_streams(None)

    def _end_streams(self, mark: bytes | None) -> None:
        for queue in self.streams:
            queue.put_nowait(mark)
        self.streams = set()

    def count(self, path: str) -> int:
        return self.requests.count(path)

    # -- routes --------------------------------------------------------------------------------------------------

    async def _note(self, request: web.Request) -> None:
        self.requests.append(request.path)
        self.connections.add(id(request.transport))
        async with self.changed:
            self.changed.notify_all()

    async def _meet_fault(self, request: web.Request) -> str | web.Response | None:
        faults = self.faults.get(request.path)
        if not faults:
            return None
        fault = faults.popleft()
        if isinstance(fault, int):
            return web.Response(status=fault, text="no")
        if fault == "drop":
            request.transport.abort()
            return web.Response()
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "garbage":
            return web.Response(body=b"\xff\xff\xff", content_type="application/x-protobuf")
        if fault == "router":
            return web.Response(status=404, headers={"X-Cf-Routererror": "unknown_route"})
        return str(fault)

    def _handler(self, route: Route) -> Callable[[web.Request], object]:
        async def handle(request: web.Request) -> web.StreamResponse:
            await self._note(request)
            body = await request.read()
            fault = await self._meet_fault(request)
            if isinstance(fault, web.Response):
                return fault
            message = None if route.request is None else route.request.FromString(body)
            try:
                answer = await getattr(self, f"_{route.handler}")(message)
            except TaskError as error:
                answer = error_response(route, error).SerializeToString()
            if fault == "lose answer":
                request.transport.abort()
            return web.Response(body=answer, content_type="application/x-protobuf")

        return handle

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        await self._note(request)
        self.last_event_ids.append(request.headers.get("Last-Event-Id", ""))
        fault = await self._meet_fault(request)
        if isinstance(fault, web.Response):
            return fault
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        answer.enable_chunked_encoding()
        answer.force_close()
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.streams.add(queue)
        await answer.prepare(request)
        async with self.changed:
            self.changed.notify_all()
        number = 0
        try:
            while (tail := await queue.get()) is not None:
                if not tail:
                    request.transport.abort()
                    return answer
                await answer.write(frame(number, [tail]))
                number += 1
        except ConnectionResetError:
            pass
        finally:
            self.streams.discard(queue)
            async with self.changed:
                self.changed.notify_all()
        return answer

    async def _own_stream(self, request: web.Request) -> web.StreamResponse:
        await self._note(request)
        self.last_event_ids.append(request.headers.get("Last-Event-Id", ""))
        fault = await self._meet_fault(request)
        if isinstance(fault, web.Response):
            return fault
        if self.ring is None:
            return web.Response(status=404, text="404 page not found\n")
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        answer.enable_chunked_encoding()
        answer.force_close()
        ring, query = self.ring, request.query
        follower = ring.follow(self.last_event_ids[-1], guid=query.get("guid", ""), domain=query.get("domain", ""))
        await answer.prepare(request)
        self.followers[follower] = request.transport
        try:
            while (frames := await follower.frames(10)) is not None:
                await answer.write(frames or follower.position)
                async with self.changed:
                    self.changed.notify_all()
        except ConnectionResetError:
            pass
        finally:
            ring.unfollow(follower)
            self.followers.pop(follower, None)
        return answer

    def cut_followers(self) -> None:
        """Break every stream of our own off without its final chunk."""
        for follower, connection in self.followers.items():
            self.ring.unfollow(follower)
            connection.abort()
        self.followers.clear()

    async def _output(self, request: web.Request) -> web.StreamResponse:
        fault = await self._meet_fault(request)
        if isinstance(fault, web.Response):
            return fault
        lines = self.outputs.get(request.match_info["guid"])
        if lines is None:
            return web.json_response({"error": "the task has not ended"}, status=404)
        body = "".join(json.dumps(line) + "\n" for line in lines)
        return web.Response(text=body, content_type="application/x-ndjson")

    async def _callbacks(self, request: web.Request) -> web.StreamResponse:
        fault = await self._meet_fault(request)
        if isinstance(fault, web.Response):
            return fault
        task = self.tasks.get(request.match_info["guid"])
        if task is None:
            return web.json_response({"error": f"there is no task {request.match_info['guid']}"}, status=404)
        attempts = [
            {"at_ns": each.at, "duration_ns": each.duration_ns, "status": each.status, "problem": each.problem}
            for each in task.attempts
        ]
        return web.json_response({"attempts": attempts})

    async def _ping(self, _message: None) -> bytes:
        return bbs_pb2.PingResponse(available=True).SerializeToString()

    async def _domains(self, _message: None) -> bytes:
        return bbs_pb2.DomainsResponse(domains=self.domains).SerializeToString()

    async def _upsert_domain(self, message: bbs_pb2.UpsertDomainRequest) -> bytes:
        self.domains[message.domain] = message.ttl
        return b""

    async def _cells(self, _message: None) -> bytes:
        return bbs_pb2.CellsResponse(cells=self.cells).SerializeToString()

    async def _tasks(self, message: bbs_pb2.TasksRequest) -> bytes:
        found = [
            bbs_pb2.Task.FromString(encode_task(task))
            for task in self.tasks.values()
            if message.domain in ("", task.domain) and message.cell_id in ("", task.cell_id)
        ]
        return bbs_pb2.TasksResponse(tasks=found).SerializeToString()

    async def _task_by_guid(self, message: bbs_pb2.TaskByGuidRequest) -> bytes:
        task = self.tasks.get(message.task_guid)
        if task is None:
            raise TaskError(ErrorType.RESOURCE_NOT_FOUND)
        return bbs_pb2.TaskResponse(task=bbs_pb2.Task.FromString(encode_task(task))).SerializeToString()

    async def _desire_task(self, message: bbs_pb2.DesireTaskRequest) -> bytes:
        if not message.task_definition.root_fs:
            text = "Invalid field: rootfs, invalid action type"
            raise TaskError(ErrorType.INVALID_REQUEST, text)
        await self.do(operations.Desire(message.task_guid, message.domain, summarise(message.task_definition)))
        return b""

    async def _start_task(self, message: bbs_pb2.StartTaskRequest) -> bytes:
        again = message.task_guid in self.tasks and self.tasks[message.task_guid].cell_id == message.cell_id
        await self.do(operations.Start(message.task_guid, message.cell_id))
        return bbs_pb2.StartTaskResponse(should_start=not again).SerializeToString()

    async def _cancel_task(self, message: bbs_pb2.TaskGuidRequest) -> bytes:
        await self.do(operations.Cancel(message.task_guid))
        return b""

    async def _fail_task(self, message: bbs_pb2.FailTaskRequest) -> bytes:
        await self.do(operations.Fail(message.task_guid, message.failure_reason))
        return b""

    async def _reject_task(self, message: bbs_pb2.RejectTaskRequest) -> bytes:
        await self.do(operations.Reject(message.task_guid, message.rejection_reason))
        return b""

    async def _complete_task(self, message: bbs_pb2.CompleteTaskRequest) -> bytes:
        await self.do(
            operations.Complete(
                message.task_guid, message.cell_id, message.failed, message.failure_reason, message.result
            )
        )
        return b""

    async def _resolving_task(self, message: bbs_pb2.TaskGuidRequest) -> bytes:
        await self.do(operations.Resolving(message.task_guid))
        return b""

    async def _delete_task(self, message: bbs_pb2.TaskGuidRequest) -> bytes:
        await self.do(operations.Delete(message.task_guid))
        return b""


async def eventually(condition: Callable[[], bool]) -> None:
    """Let the loop go on until something of the client itself, which tells nobody, has come true."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture(name="eventually")
def _eventually() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    return eventually


@pytest.fixture
async def board() -> AsyncIterator[FakeBoard]:
    board = FakeBoard()
    await board.open()
    yield board
    await board.close()


@pytest.fixture
async def make_board() -> AsyncIterator[Callable[[], Awaitable[FakeBoard]]]:
    """Makes more boards."""
    async with contextlib.AsyncExitStack() as stack:

        async def make() -> FakeBoard:
            board = FakeBoard()
            await board.open()
            stack.push_async_callback(board.close)
            return board

        yield make


@pytest.fixture
async def client(board: FakeBoard) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(board.url, timeout_seconds=5) as client:
        yield client


@pytest.fixture
def blocking(board: FakeBoard) -> Iterator[Client]:
    with Client(board.url, timeout_seconds=5) as client:
        yield client


@pytest.fixture
def definition() -> TaskDefinition:
    return TaskDefinition(root_fs="docker:///busybox", action=RunAction(path="/bin/true", user="root"))


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (following, transport, waits):
        monkeypatch.setattr(module, "RETRY_DELAY_SECONDS", 0.01)
    monkeypatch.setattr("bulletin.client.subscriptions.RETRY_INTERVAL_SECONDS", 0.01)


@pytest.fixture(autouse=True)
def _deadline() -> Iterator[None]:
    """A wait that never ends is a failure, not a hang."""

    def give_up(_number: int, _frame: object) -> None:
        raise TimeoutError("the test hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 60)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
