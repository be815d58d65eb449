"""``Client``: the same calls, from ordinary threads."""

from __future__ import annotations

import asyncio
import inspect
import threading
import typing
from concurrent.futures import ThreadPoolExecutor

import pytest

from bulletin import AsyncClient, Client, TaskExists, TaskNotFound, TaskState, WaitTimeout
from bulletin.core.operations import Cancel, Desire
from bulletin.wire.tasks import encode_definition, summarise

STREAM = "/v1/events/tasks.r1"


def public(kind: type) -> dict[str, object]:
    return {name: member for name, member in vars(kind).items() if not name.startswith("_")}


def test_every_method_has_its_twin_with_the_same_face():
    ours, theirs = public(Client), public(AsyncClient)
    assert {*ours} - {"close"} == {*theirs} - {"aclose"}
    for name in {*ours} - {"close", "url"}:
        mine, other = inspect.signature(ours[name]), inspect.signature(theirs[name])
        assert mine.parameters == other.parameters, name
        if name in {"events", "follow"}:
            continue  # an iterator here, an asynchronous one there
        assert typing.get_type_hints(ours[name]) == typing.get_type_hints(theirs[name]), name
    mine, other = inspect.signature(Client.__init__), inspect.signature(AsyncClient.__init__)
    assert mine.parameters == other.parameters


async def test_a_task_from_desire_to_delete(board, blocking, definition):
    def work() -> None:
        assert blocking.url == board.url
        assert blocking.ping()
        assert blocking.domains() == []
        blocking.upsert_domain("d", 0)
        assert blocking.cells() == []
        blocking.desire("g", "d", definition)
        with pytest.raises(TaskExists):
            blocking.desire("g", "d", definition)
        assert blocking.task("g").state is TaskState.PENDING
        assert [task.guid for task in blocking.tasks("d")] == ["g"]
        with pytest.raises(WaitTimeout):
            blocking.wait("g", 0.01)
        assert blocking.start("g", "c")
        blocking.complete("g", "c", result="r")
        assert blocking.wait("g").result == "r"
        blocking.resolving("g")
        assert blocking.callback_attempts("g") == []
        blocking.delete("g")
        with pytest.raises(TaskNotFound):
            blocking.cancel("g")
        with pytest.raises(TaskNotFound):
            blocking.fail("g", "x")
        with pytest.raises(TaskNotFound):
            blocking.reject("g", "x")
        board.outputs["g"] = []
        assert blocking.output("g") == []

    await asyncio.to_thread(work)


async def test_one_client_serves_many_threads(board, blocking, definition):
    def work(number: int) -> str:
        return blocking.run(definition, guid=f"g{number}").result

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(16) as pool:
        running = [loop.run_in_executor(pool, work, number) for number in range(16)]
        await board.until(lambda: len(board.tasks) == 16)
        for number in range(16):
            await board.finish(f"g{number}", result=str(number))
        assert await asyncio.gather(*running) == [str(number) for number in range(16)]
    assert board.count(STREAM) == 1
    assert sum(thread.name == "bulletin-client" for thread in threading.enumerate()) == 1


async def test_events_come_one_by_one(board, blocking, definition):
    stored = summarise(encode_definition(definition))

    def work() -> list[str]:
        events = blocking.events()
        seen = [next(events).task.guid, next(events).after.failure_reason]
        events.close()
        return seen

    working = asyncio.create_task(asyncio.to_thread(work))
    await board.until(lambda: len(board.streams) == 1)
    await board.do(Desire("g", "d", stored))
    await board.do(Cancel("g"))
    assert await working == ["g", "task was cancelled"]


async def test_events_end_in_order(board, blocking):
    working = asyncio.create_task(asyncio.to_thread(lambda: list(blocking.events())))
    await board.until(lambda: len(board.streams) == 1)
    board.end_streams()
    assert await working == []


async def test_closing_ends_the_thread_and_is_final(board):
    client = Client(board.url)
    assert await asyncio.to_thread(client.ping)
    assert any(thread.name == "bulletin-client" for thread in threading.enumerate())
    await asyncio.to_thread(client.close)
    assert not any(thread.name == "bulletin-client" for thread in threading.enumerate())
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.ping()


def test_a_client_that_was_never_used_has_no_thread():
    with Client("http://127.0.0.1:1"):
        assert not any(thread.name == "bulletin-client" for thread in threading.enumerate())


async def test_a_forgotten_iterator_of_a_closed_client_is_harmless(board, definition):
    stored = summarise(encode_definition(definition))

    def work() -> None:
        with Client(board.url) as client:
            events = client.events()
            next(events)
        events.close()

    working = asyncio.create_task(asyncio.to_thread(work))
    await board.until(lambda: len(board.streams) == 1)
    await board.do(Desire("g", "d", stored))
    await working


async def test_an_interrupted_wait_is_cancelled(board, blocking, definition, monkeypatch, eventually):
    """Ctrl-C raises in the waiting thread; the call behind it must not go on."""
    client = blocking._client

    def work() -> None:
        with pytest.raises(KeyboardInterrupt):
            blocking.run(definition, guid="g")

    class Interrupted:
        def __init__(self, future):
            self.future = future

        def result(self):
            while "g" not in board.tasks:
                pass
            raise KeyboardInterrupt

        def cancel(self):
            return self.future.cancel()

    real = asyncio.run_coroutine_threadsafe
    monkeypatch.setattr(
        "bulletin.client.blocking.asyncio.run_coroutine_threadsafe", lambda work, loop: Interrupted(real(work, loop))
    )
    await asyncio.to_thread(work)
    await eventually(lambda: not client._waits._by_guid)
