"""Callbacks against real HTTP servers: what each answer leads to, one resolver, and what stays readable."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web

from bulletin.board.callbacks import Callbacks
from bulletin.board.settings import BoardSettings
from bulletin.core.lifecycle import Cancel, Delete, Desire, Resolving
from bulletin.core.model import TaskState
from bulletin.seams import SystemClock


class Receiver:
    """An HTTP server that answers from a list of statuses, the last one for ever."""

    def __init__(self) -> None:
        self.statuses: list[int] = [200]
        self.location = ""
        self.bodies: list[bytes] = []
        self.methods: list[str] = []
        self.url = ""
        self.hang: asyncio.Event | None = None

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.methods.append(request.method)
        self.bodies.append(await request.read())
        if self.hang is not None:
            await self.hang.wait()
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        headers = {"Location": self.location} if 300 <= status < 400 and self.location else {}
        return web.Response(status=status, headers=headers, body=b"x" * 100_000)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    server = web.Server(made.answer, access_log=None)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/cb"
    yield made
    if made.hang is not None:
        made.hang.set()
    listening.close()
    await server.shutdown(1)


@pytest.fixture
async def make(desk) -> AsyncIterator[Callable[..., Callbacks]]:
    made: list[tuple[Callbacks, asyncio.Task[None]]] = []

    def make(**settings: object) -> Callbacks:
        callbacks = Callbacks(desk.writer, SystemClock(), BoardSettings(**settings))  # type: ignore[arg-type]
        made.append((callbacks, asyncio.create_task(callbacks.run())))
        return callbacks

    # Times are compared with first_completed_at, so the writer and the callbacks have to tell the same time.
    desk.clock.now_ns = SystemClock().now_ns
    yield make
    for callbacks, running in made:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await callbacks.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def completed(desk, definition, url, guid="g"):
    await desk.writer.apply(Desire(guid, "d", definition(completion_callback_url=url, annotation="note")))
    await desk.writer.apply(Cancel(guid))
    return desk.writer.tasks[guid]


async def test_a_delivered_task_is_told_once_and_stays_readable_for_the_retention(desk, definition, receiver, make):
    callbacks = make(resolved_retention_seconds=0.3)
    task = await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    callbacks.submit("g")
    await until(lambda: "g" in desk.writer.tasks and desk.writer.tasks["g"].delivered_at)
    assert desk.writer.tasks["g"].state is TaskState.RESOLVING
    assert json.loads(receiver.bodies[0]) == {
        "task_guid": "g",
        "failed": True,
        "failure_reason": "task was cancelled",
        "result": "",
        "annotation": "note",
        "created_at": task.created_at,
    }
    await until(lambda: "g" not in desk.writer.tasks)
    assert receiver.methods == ["POST"]


@pytest.mark.parametrize("status", [204, 301, 400, 404, 500, 502])
async def test_any_status_but_503_and_504_delivers(desk, definition, receiver, make, status):
    receiver.statuses = [status]
    callbacks = make()
    await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    await until(lambda: desk.writer.tasks["g"].delivered_at)
    assert len(receiver.bodies) == 1


async def test_503_and_504_are_tried_again(desk, definition, receiver, make):
    receiver.statuses = [503, 504, 200]
    callbacks = make()
    await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    await until(lambda: desk.writer.tasks["g"].delivered_at)
    assert len(receiver.bodies) == 3


async def test_after_three_attempts_the_task_is_left_resolving(desk, definition, receiver, make):
    receiver.statuses = [503]
    callbacks = make()
    await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    await until(lambda: len(receiver.bodies) == 3 and not callbacks._known)
    assert desk.writer.tasks["g"].state is TaskState.RESOLVING
    assert not desk.writer.tasks["g"].delivered_at


async def test_a_receiver_that_hangs_is_a_timeout_and_tried_again(desk, definition, receiver, make):
    receiver.hang = asyncio.Event()
    callbacks = make(callback_timeout_seconds=0.05)
    await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    await until(lambda: len(receiver.bodies) == 3 and not callbacks._known)
    assert not desk.writer.tasks["g"].delivered_at


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/refused", "not a url", "ftp://127.0.0.1/x", "http://nowhere.invalid/"]
)
async def test_what_cannot_be_reached_is_left_at_once(desk, definition, make, url):
    callbacks = make()
    await completed(desk, definition, url)
    callbacks.submit("g")
    await until(lambda: desk.writer.tasks["g"].state is TaskState.RESOLVING and not callbacks._known)
    assert not desk.writer.tasks["g"].delivered_at


@pytest.mark.parametrize(("status", "methods"), [(302, ["POST", "GET"]), (307, ["POST", "POST"])])
async def test_redirects_are_followed_as_go_does(desk, definition, receiver, make, status, methods):
    receiver.statuses = [status, 200]
    receiver.location = "/elsewhere"
    callbacks = make()
    await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    await until(lambda: desk.writer.tasks["g"].delivered_at)
    assert receiver.methods == methods
    assert bool(receiver.bodies[1]) == (methods[1] == "POST")


async def test_endless_redirects_end(desk, definition, receiver, make):
    receiver.statuses = [307]
    receiver.location = "/again"
    callbacks = make()
    await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    await until(lambda: receiver.bodies and not callbacks._known)
    assert len(receiver.bodies) == 10
    assert not desk.writer.tasks["g"].delivered_at


async def test_who_lost_the_race_to_resolve_tells_nobody(desk, definition, receiver, make):
    callbacks = make()
    await completed(desk, definition, receiver.url)
    await desk.writer.apply(Resolving("g"))
    callbacks.submit("g")
    await until(lambda: not callbacks._known)
    assert receiver.bodies == []


async def test_a_task_deleted_while_it_is_told_is_no_trouble(desk, definition, receiver, make):
    receiver.hang = asyncio.Event()
    callbacks = make()
    await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    await until(lambda: receiver.bodies)
    await desk.writer.apply(Delete("g"))
    receiver.hang.set()
    await until(lambda: not callbacks._known)
    assert "g" not in desk.writer.tasks


async def test_a_guid_desired_again_during_the_retention_is_not_deleted_with_its_forerunner(
    desk, definition, receiver, make
):
    callbacks = make(resolved_retention_seconds=0.2)
    await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    await until(lambda: desk.writer.tasks["g"].delivered_at)
    await desk.writer.apply(Desire("g", "again", definition()))
    await completed(desk, definition, receiver.url, "h")
    callbacks.submit("h")
    await until(lambda: "h" not in desk.writer.tasks)  # told later, so its retention ends later
    assert desk.writer.tasks["g"].domain == "again"


async def test_a_new_board_deletes_what_an_old_one_delivered(desk, definition, receiver, make):
    old = make(resolved_retention_seconds=3600)
    await completed(desk, definition, receiver.url)
    old.submit("g")
    await until(lambda: desk.writer.tasks["g"].delivered_at)
    make(resolved_retention_seconds=0)
    await until(lambda: "g" not in desk.writer.tasks)
    assert len(receiver.bodies) == 1


async def test_workers_are_bounded_and_all_is_told(desk, definition, receiver, make):
    callbacks = make(callback_workers=2)
    for n in range(20):
        await completed(desk, definition, receiver.url, f"g{n}")
        callbacks.submit(f"g{n}")
        assert len(callbacks._workers) <= 2
    await until(lambda: all(task.delivered_at for task in desk.writer.tasks.values()))
    assert len(receiver.bodies) == 20
