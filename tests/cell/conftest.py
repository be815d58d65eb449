"""What the agent's tests need: a board that speaks frames, a runtime that does as it is told, a cell between them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import defaultdict, deque

import pytest
from aiohttp import WSMsgType, web

from bulletin.cell.agent import Agent
from bulletin.cell.journal import Journal
from bulletin.cell.runtime.api import ProcessExit, Signal, Stream
from bulletin.cell.settings import CellSettings
from bulletin.core.model import Resources
from bulletin.seams import RandomIds, SystemClock
from bulletin.wire import link as wire_link
from bulletin.wire.proto import bbs_pb2, link_pb2

PATIENCE_SECONDS = 10


class FakeProcess:
    def __init__(self, script, output):
        self.script = script
        self.signals = []
        self.output = output
        self.ended = asyncio.get_running_loop().create_future()
        if script.hang is False:
            self.end(script.status)

    def end(self, status, out_of_memory=False):
        if not self.ended.done():
            for stream, data in self.script.output:
                self.output(stream, data)
            self.ended.set_result(ProcessExit(status, out_of_memory or self.script.out_of_memory))

    async def wait(self):
        if self.script.wait_error is not None:
            raise self.script.wait_error
        return await self.ended

    def signal(self, signal):
        self.signals.append(signal)
        if signal is Signal.TERM and self.script.hang == "until TERM":
            self.end(143)
        if signal is Signal.KILL and self.script.hang != "for ever":
            self.end(137)


class ProcessScript:
    """How processes of one path behave."""

    def __init__(
        self, *, status=0, output=(), hang=False, out_of_memory=False, refuse=None, gate=None, wait_error=None
    ):
        self.status = status
        self.output = [(Stream.OUT, item) if isinstance(item, bytes) else item for item in output]
        #: False, "until TERM", "until KILL" or "for ever".
        self.hang = hang
        self.out_of_memory = out_of_memory
        self.refuse = refuse
        self.gate = gate
        self.wait_error = wait_error


class FakeContainer:
    def __init__(self, runtime, order):
        self.runtime = runtime
        self.order = order
        self.processes = []

    async def spawn(self, run, output):
        script = self.runtime.processes[run.path]
        self.runtime.tell("spawn", self.order.guid)
        if script.gate is not None:
            await script.gate.wait()
        if script.refuse is not None:
            raise script.refuse
        process = FakeProcess(script, output)
        self.processes.append(process)
        self.runtime.running[run.path].append(process)
        self.runtime.tell("spawned", run.path)
        return process

    async def read_result(self, path, bytes_max):
        self.runtime.tell("read_result", path)
        if self.runtime.result_gate is not None:
            await self.runtime.result_gate.wait()
        if isinstance(self.runtime.result, Exception):
            raise self.runtime.result
        return self.runtime.result

    async def destroy(self):
        self.runtime.tell("destroy", self.order.guid)
        if self.runtime.destroy_gate is not None:
            await self.runtime.destroy_gate.wait()
        if self.runtime.destroy_errors:
            raise self.runtime.destroy_errors.popleft()
        for process in self.processes:
            process.end(137)
        self.runtime.containers.pop(self.order.guid, None)


class FakeRuntime:
    """Fails at each phase on order; tells what it was asked for."""

    def __init__(self):
        self.told = []
        self.waiters = []
        self.containers = {}
        self.processes = defaultdict(ProcessScript)
        self.running = defaultdict(list)
        self.create_gate = None
        self.create_error = None
        self.create_cancelled = 0
        self.result = b"the result"
        self.result_gate = None
        self.destroy_gate = None
        self.destroy_errors = deque()
        self.opened = self.closed = False

    def tell(self, what, about):
        self.told.append((what, about))
        for waiter in self.waiters:
            waiter.set()

    async def until(self, what, about, times=1):
        waiter = asyncio.Event()
        self.waiters.append(waiter)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while self.told.count((what, about)) < times:
                    waiter.clear()
                    await waiter.wait()
        finally:
            self.waiters.remove(waiter)

    def did(self, what):
        return [about for done, about in self.told if done == what]

    async def open(self):
        self.opened = True

    async def create(self, order):
        self.tell("create", order.guid)
        try:
            if self.create_gate is not None:
                await self.create_gate.wait()
        except asyncio.CancelledError:
            self.create_cancelled += 1
            raise
        if self.create_error is not None:
            raise self.create_error
        container = FakeContainer(self, order)
        self.containers[order.guid] = container
        self.tell("created", order.guid)
        return container

    async def close(self):
        self.closed = True
        self.containers.clear()


class FakeBoard:
    """Takes links one after another and says what the test says."""

    def __init__(self):
        self.url = ""
        self.welcome = wire_link.welcome("test-board")
        self.hellos = asyncio.Queue()
        self.frames = asyncio.Queue()
        self.socket = None

    async def serve(self, request):
        socket = web.WebSocketResponse(compress=False, max_msg_size=0)
        await socket.prepare(request)
        first = await socket.receive()
        if first.type is not WSMsgType.BINARY:
            return socket
        hello = wire_link.decode_frame(first.data).hello
        self.socket = socket
        if self.welcome is not None:
            await socket.send_bytes(self.welcome)
        self.hellos.put_nowait(hello)
        async for message in socket:
            assert message.type is WSMsgType.BINARY
            self.frames.put_nowait(wire_link.decode_frame(message.data))
        return socket

    async def hello(self):
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.hellos.get()

    async def say(self, frame):
        await self.socket.send_bytes(frame)

    async def expect(self, kind):
        """The next frame, which has to be of ``kind``."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            frame = await self.frames.get()
        assert frame.WhichOneof("body") == kind, frame
        return getattr(frame, kind)

    async def assign(self, guid="task-1", *, created_at=1, **definition):
        task = bbs_pb2.Task(
            task_guid=guid, domain="test", created_at=created_at, task_definition=make_definition(**definition)
        )
        await self.say(link_pb2.Frame(assign=link_pb2.Assign(task=task)).SerializeToString())

    async def start(self, guid="task-1", **definition):
        """Assign a task and grant its start."""
        await self.assign(guid, **definition)
        assert (await self.expect("start")).task_guid == guid
        await self.say(wire_link.started(guid, True))

    async def finish(self, guid="task-1"):
        """Acknowledge what was reported and see the task go."""
        await self.say(wire_link.acknowledged(guid))
        assert (await self.expect("gone")).task_guid == guid

    async def drop(self):
        """Break the link."""
        await self.socket.close()


def make_definition(action=None, **fields):
    definition = bbs_pb2.TaskDefinition(root_fs="docker:///busybox", log_guid="log", memory_mb=10, disk_mb=20, **fields)
    definition.action.CopyFrom(action or run_action())
    return definition


def run_action(path="/bin/task", **fields):
    return bbs_pb2.Action(run_action=bbs_pb2.RunAction(path=path, user="vcap", **fields))


class Cell:
    """A running agent and what stands around it."""

    def __init__(self, board, runtime, data):
        self.board = board
        self.runtime = runtime
        self.data = data
        self.settings = CellSettings(
            board_url=board.url, data=data, cell_id="cell-1", zone="z1", graceful_shutdown_seconds=0.01
        )
        self.capacity = Resources(100, 1000, 5)
        self.welcomed = 0
        self.agent = None
        self.journal = None
        self._running = None

    async def up(self):
        self.journal = Journal(self.data / "journal")
        self.journal.open()
        self.agent = Agent(
            self.settings,
            self.capacity,
            self.runtime,
            self.journal,
            SystemClock(),
            RandomIds(),
            random.Random(1),
            self._welcome,
        )
        self._running = asyncio.create_task(self.agent.run())
        return await self.board.hello()

    def _welcome(self):
        self.welcomed += 1

    async def die(self):
        """As if killed: nothing is stopped, nothing is said."""
        for work in self.agent.tasks.values():
            work.abandon()
            await work.ended()
        await self.down()

    async def down(self):
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
            self._running = None
            await self.journal.close()


@pytest.fixture
async def board():
    fake = FakeBoard()
    app = web.Application()
    app.router.add_get("/v1/link", fake.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    if fake.socket is not None:
        await fake.socket.close()
    await runner.cleanup()


@pytest.fixture
def runtime():
    return FakeRuntime()


@pytest.fixture
async def cell(board, runtime, tmp_path):
    """A cell that is not up yet; its link has no heartbeat to wait for."""
    cell = Cell(board, runtime, tmp_path)
    yield cell
    if cell.agent is not None:
        runtime.destroy_errors.clear()
        await cell.agent.drain()
        assert not runtime.containers, "a container was left behind"
    await cell.down()


@pytest.fixture
def script():
    return ProcessScript


@pytest.fixture
def action():
    """Builds wire actions: ``action(path)``."""
    return run_action
