"""Callbacks against real HTTP servers: what each answer leads to, one resolver, and what stays readable."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from bulletin.board.callbacks import Callbacks
from bulletin.board.settings import BoardSettings
from bulletin.core import limits
from bulletin.core.model import Task, TaskState
from bulletin.core.operations import Cancel, Delete, Demote, Desire, Resolving, TaskChanged
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


async def test_503_and_504_are_tried_again_and_every_attempt_is_recorded(desk, definition, receiver, make):
    receiver.statuses = [503, 504, 200]
    callbacks = make()
    before = time.time_ns()
    task = await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    await until(lambda: desk.writer.tasks["g"].delivered_at)
    assert len(receiver.bodies) == 3
    told = desk.writer.tasks["g"]
    assert [(each.status, each.problem) for each in told.attempts] == [
        (503, "status 503"),
        (504, "status 504"),
        (200, ""),
    ]
    times = [before, *(each.at for each in told.attempts), time.time_ns()]
    assert times == sorted(times)
    assert all(each.duration_ns > 0 for each in told.attempts)
    # Recording is seen by nobody on the wire: two events, and the time of the second.
    changed = [event for event in desk.events if isinstance(event, TaskChanged)]
    assert [event.after.state for event in changed] == [TaskState.COMPLETED, TaskState.RESOLVING]
    assert told.updated_at == changed[-1].after.updated_at >= task.updated_at


async def test_an_attempt_is_recorded_before_the_next_one(desk, definition, receiver, make):
    receiver.statuses = [503, 200]
    callbacks = make()
    await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    await until(lambda: desk.writer.tasks["g"].attempts)
    assert len(receiver.bodies) == 1
    assert not desk.writer.tasks["g"].delivered_at
    await until(lambda: desk.writer.tasks["g"].delivered_at)


async def test_the_attempts_of_several_kicks_are_kept(desk, definition, make):
    callbacks = make()
    await completed(desk, definition, "http://127.0.0.1:1/refused")
    for kicks in range(1, 23):
        callbacks.submit("g")
        await until(lambda: not callbacks._known)
        attempts = desk.writer.tasks["g"].attempts
        assert len(attempts) == min(kicks, 20)
        assert {(each.status, each.problem) for each in attempts} == {(0, "connection refused")}
        await desk.writer.apply(Demote("g"))


async def test_a_task_deleted_between_two_attempts_is_not_told_again(desk, definition, receiver, make):
    receiver.statuses = [503, 200]
    callbacks = make()
    await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    await until(lambda: desk.writer.tasks["g"].attempts)
    await desk.writer.apply(Delete("g"))
    await desk.writer.apply(Desire("g", "another", definition()))
    await until(lambda: not callbacks._known)
    assert len(receiver.bodies) == 1
    assert desk.writer.tasks["g"].attempts == ()


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
    ("url", "problem"),
    [
        ("http://127.0.0.1:1/refused", "connection refused"),
        ("not a url", "unusable URL"),
        ("ftp://127.0.0.1/x", "unusable URL"),
        ("http://a..ä/", "unusable URL"),
        ("http://nowhere.invalid/", "name not resolved"),
        ("http://169.254.169.254/latest/meta-data", "destination not allowed"),
        ("http://[fe80::1]/", "destination not allowed"),
        ("http://0.0.0.0:1/", "destination not allowed"),
        ("http://[::ffff:169.254.169.254]/", "destination not allowed"),
        ("http://2852039166/", "destination not allowed"),
        ("http://0xa9fea9fe/", "destination not allowed"),
    ],
)
async def test_what_cannot_be_reached_is_left_at_once(desk, definition, make, url, problem):
    callbacks = make()
    await completed(desk, definition, url)
    callbacks.submit("g")
    await until(lambda: desk.writer.tasks["g"].state is TaskState.RESOLVING and not callbacks._known)
    assert not desk.writer.tasks["g"].delivered_at
    assert [(each.status, each.problem) for each in desk.writer.tasks["g"].attempts] == [(0, problem)]


@pytest.mark.parametrize(
    ("status", "methods"),
    [
        (301, ["POST", "GET"]),
        (302, ["POST", "GET"]),
        (303, ["POST", "GET"]),
        (307, ["POST", "POST"]),
        (308, ["POST", "POST"]),
    ],
)
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
    assert [each.problem for each in desk.writer.tasks["g"].attempts] == ["too many redirects"]


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


@pytest.mark.parametrize("status", [200, 503])
async def test_what_was_told_of_one_task_is_not_put_down_to_its_successor(desk, definition, receiver, make, status):
    receiver.hang = asyncio.Event()
    receiver.statuses = [status]
    callbacks = make()
    await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    await until(lambda: receiver.bodies)
    await desk.writer.apply(Delete("g"))
    await completed(desk, definition, receiver.url)
    await desk.writer.apply(Resolving("g"))  # by another client
    receiver.hang.set()
    await until(lambda: not callbacks._known)
    successor = desk.writer.tasks["g"]
    assert (successor.delivered_at, successor.attempts, len(receiver.bodies)) == (0, (), 1)


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


@pytest.mark.parametrize("status", [300, 304, 305, 306, 309])
async def test_a_location_of_any_other_answer_is_not_followed(desk, definition, receiver, make, status):
    receiver.statuses = [status, 200]
    receiver.location = "/elsewhere"
    callbacks = make()
    await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    await until(lambda: desk.writer.tasks["g"].delivered_at)
    assert receiver.methods == ["POST"]
    assert [each.status for each in desk.writer.tasks["g"].attempts] == [status]


@pytest.mark.parametrize("status", [301, 307])
async def test_a_redirect_without_a_location_is_told(desk, definition, receiver, make, status):
    receiver.statuses = [status]
    callbacks = make()
    await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    await until(lambda: desk.writer.tasks["g"].delivered_at)
    assert receiver.methods == ["POST"]


async def test_a_status_after_redirects_decides(desk, definition, receiver, make):
    receiver.statuses = [307, 503, 307, 200]
    receiver.location = "/elsewhere"
    callbacks = make()
    await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    await until(lambda: desk.writer.tasks["g"].delivered_at)
    assert [each.status for each in desk.writer.tasks["g"].attempts] == [503, 200]


@pytest.mark.parametrize("status", [302, 307])
async def test_a_redirect_to_a_denied_address_is_not_followed(desk, definition, receiver, make, status):
    receiver.statuses = [status]
    receiver.location = "http://169.254.169.254/latest/meta-data/iam"
    callbacks = make()
    with capture_logs() as lines:
        await completed(desk, definition, receiver.url)
        callbacks.submit("g")
        await until(lambda: not callbacks._known)
    assert receiver.methods == ["POST"]
    assert [each.problem for each in desk.writer.tasks["g"].attempts] == ["destination not allowed"]
    denied = [line for line in lines if line["event"] == "callback.destination.denied"]
    assert [(line["origin"], line["addresses"]) for line in denied] == [
        ("http://169.254.169.254:80", ["169.254.169.254"])
    ]


async def test_what_an_operator_denies_is_judged_by_address_and_not_by_name(desk, definition, receiver, make):
    port = receiver.url.partition("//")[2].partition("/")[0].rpartition(":")[2]
    callbacks = make(callback_deny=("127.0.0.0/8", "::1"), callback_allow=())
    await completed(desk, definition, f"http://localhost:{port}/")
    callbacks.submit("g")
    await until(lambda: not callbacks._known)
    assert receiver.bodies == []
    assert [each.problem for each in desk.writer.tasks["g"].attempts] == ["destination not allowed"]
    await desk.writer.apply(Demote("g"))
    allowing = make(callback_deny=("127.0.0.0/8", "::1"), callback_allow=("127.0.0.1",))
    allowing.submit("g")
    await until(lambda: desk.writer.tasks["g"].delivered_at)
    assert len(receiver.bodies) == 1


async def test_no_secret_of_a_url_is_logged_or_recorded(desk, definition, receiver, make):
    receiver.statuses = [503, 307, 307]
    host = receiver.url.partition("//")[2].partition("/")[0]
    receiver.location = "http://hidden:hidden@169.254.169.254/hidden?hidden#hidden"
    callbacks = make()
    urls = [f"http://hidden:hidden@{host}/hidden?hidden", "http://hidden:hidden@nowhere.invalid/hidden", "hidden"]
    with capture_logs() as lines:
        for number, url in enumerate(urls):
            await completed(desk, definition, url, f"g{number}")
            callbacks.submit(f"g{number}")
        await until(lambda: not callbacks._known)
    assert {"callback.again", "callback.failed", "callback.destination.denied"} <= {line["event"] for line in lines}
    assert "hidden" not in str(lines)
    assert "hidden" not in str([task.attempts for task in desk.writer.tasks.values()])
    assert all(task.attempts for task in desk.writer.tasks.values())


async def test_environment_proxies_are_not_used(desk, definition, receiver, make, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    callbacks = make()
    await completed(desk, definition, receiver.url)
    callbacks.submit("g")
    await until(lambda: desk.writer.tasks["g"].delivered_at)


class SilentPeer:
    """Accepts connections and never answers."""

    def __init__(self) -> None:
        self.connections: list[asyncio.BaseTransport] = []

    def __call__(self) -> asyncio.Protocol:
        peer = self

        class Silence(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                peer.connections.append(transport)

        return Silence()


@pytest.fixture
async def silent() -> AsyncIterator[tuple[SilentPeer, str]]:
    peer = SilentPeer()
    listening = await asyncio.get_running_loop().create_server(peer, "127.0.0.1", 0, backlog=512)
    yield peer, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/cb"
    listening.close()
    for connection in peer.connections:
        connection.close()


async def test_a_host_that_never_answers_delays_no_other(desk, definition, receiver, silent, make):
    peer, url = silent
    callbacks = make(callback_workers=100)
    hopeless, good = definition(completion_callback_url=url), definition(completion_callback_url=receiver.url)
    for number in range(2_000):
        desk.writer.submit(Desire(f"s{number}", "d", hopeless))
        desk.writer.submit(Cancel(f"s{number}"))
    await desk.writer.settle()
    for number in range(2_000):
        callbacks.submit(f"s{number}")
    await until(lambda: len(peer.connections) == 20)  # a fifth of the workers, and there it stays
    for number in range(200):
        desk.writer.submit(Desire(f"g{number}", "d", good))
        desk.writer.submit(Cancel(f"g{number}"))
    await desk.writer.settle()
    for number in range(200):
        callbacks.submit(f"g{number}")
    # No silent one has ended meanwhile: the attempts last ten seconds, and ``until`` waits no longer than that.
    await until(lambda: len(receiver.bodies) == 200)
    assert (len(peer.connections), callbacks.queued) == (20, 1_980)


async def test_origins_that_never_answer_get_their_turns(desk, definition, receiver, silent, make):
    _, url = silent
    callbacks = make(callback_workers=5, callback_timeout_seconds=0.05, callback_expiry_seconds=0.01)
    for number in range(40):
        target = url if number % 2 else receiver.url
        await completed(desk, definition, target, f"g{number}")
        callbacks.submit(f"g{number}")
    await until(lambda: not callbacks._known)
    assert len(receiver.bodies) == 20
    silent_ones = [task for task in desk.writer.tasks.values() if not task.delivered_at]
    assert [task.attempts[0].problem for task in silent_ones] == ["no answer in time"] * 20
    assert (callbacks.queued, callbacks.active, callbacks._lanes, list(callbacks._waiting)) == (0, 0, {}, [])


async def test_a_full_queue_refuses_and_says_so(desk, definition, silent, make, monkeypatch):
    monkeypatch.setattr(limits, "CALLBACK_QUEUE_MAX", 3)
    _, url = silent
    callbacks = make(callback_workers=1)
    with capture_logs() as lines:
        for number in range(6):
            await completed(desk, definition, url, f"g{number}")
            callbacks.submit(f"g{number}")
    assert callbacks.queued == 3
    assert [line["task_guid"] for line in lines if line["event"] == "callback.queue.full"] == ["g4", "g5"]


async def test_a_defect_with_one_task_is_logged_and_stops_no_other(desk, definition, receiver, make, monkeypatch):
    def body(task: Task) -> bytes:
        if task.guid == "bad":
            raise RuntimeError("a defect")
        return b"{}"

    monkeypatch.setattr("bulletin.board.callbacks.callback_body", body)
    callbacks = make(callback_workers=1)
    with capture_logs() as lines:
        for guid in ("bad", "g"):
            await completed(desk, definition, receiver.url, guid)
            callbacks.submit(guid)
        await until(lambda: desk.writer.tasks["g"].delivered_at and not callbacks._known)
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["callback.defect"]
    assert not callbacks.holds("bad")


async def test_a_closed_one_takes_nothing_and_leaves_nothing(desk, definition, silent, make):
    peer, url = silent
    callbacks = make()
    await completed(desk, definition, url)
    callbacks.submit("g")
    await until(lambda: peer.connections)
    await callbacks.close()
    await completed(desk, definition, url, "h")
    callbacks.submit("h")
    assert (callbacks.active, callbacks.holds("g"), callbacks.holds("h")) == (0, False, False)


async def test_workers_are_bounded_and_all_is_told(desk, definition, receiver, make):
    callbacks = make(callback_workers=2)
    for n in range(20):
        await completed(desk, definition, receiver.url, f"g{n}")
        callbacks.submit(f"g{n}")
        assert callbacks.active <= 2
    await until(lambda: all(task.delivered_at for task in desk.writer.tasks.values()))
    assert len(receiver.bodies) == 20
