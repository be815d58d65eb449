"""Several boards: one serves, the others stand by, and the client finds the one that serves."""

from __future__ import annotations

import asyncio

import pytest

from bulletin import AsyncClient, BoardTimeout, BoardUnreachable, Client, TaskExists, TaskNotFound, TaskState
from bulletin.client import transport
from bulletin.core.operations import Cancel, Complete, Desire, Start
from bulletin.wire.tasks import encode_definition, summarise

PING = "/v1/ping"
DESIRE = "/v1/tasks/desire.r2"
STREAM = "/v1/events/tasks.r1"


@pytest.fixture
async def boards(board, make_board):
    """Two boards with the same tasks, as of one database; only tests know which of them rules."""
    other = await make_board()
    other.tasks = board.tasks
    return board, other


@pytest.fixture
async def client(boards):
    async with AsyncClient([board.url for board in boards], timeout_seconds=5, failover_seconds=0) as client:
        yield client


async def test_the_first_is_asked_and_kept(boards, client):
    first, second = boards
    for _ in range(3):
        assert await client.ping()
    assert (first.count(PING), second.count(PING)) == (3, 0)
    assert client.url == first.url


@pytest.mark.parametrize("fault", ["drop", 503, 404, "garbage", "router"])
async def test_the_next_is_asked_at_once_and_kept(boards, client, fault, monkeypatch):
    first, second = boards
    # A pause would hang the test.
    monkeypatch.setattr(transport, "RETRY_DELAY_SECONDS", 1000)
    first.order(PING, fault)
    assert await client.ping()
    assert await client.ping()
    assert (first.count(PING), second.count(PING)) == (1, 2)
    assert client.url == second.url


async def test_a_board_that_refuses_connections_is_passed_over(boards, client, monkeypatch):
    first, second = boards
    monkeypatch.setattr(transport, "RETRY_DELAY_SECONDS", 1000)
    await first.close()
    assert await client.ping()
    assert second.count(PING) == 1


async def test_a_board_that_is_silent_is_passed_over(boards, monkeypatch):
    first, second = boards
    monkeypatch.setattr(transport, "RETRY_DELAY_SECONDS", 1000)
    first.order(PING, "hang")
    async with AsyncClient(f"{first.url}, {second.url}/", timeout_seconds=0.05) as client:
        assert await client.ping()
    assert second.count(PING) == 1


async def test_back_to_the_first_when_the_second_fails(boards, client):
    first, second = boards
    first.order(PING, 503)
    second.order(PING, 503)
    assert await client.ping()
    assert (first.count(PING), second.count(PING)) == (2, 1)
    assert client.url == first.url


async def test_every_board_is_asked_as_often_as_is_allowed(boards, client):
    first, second = boards
    for board in boards:
        board.order(PING, *[503] * 9)
    with pytest.raises(BoardUnreachable) as failed:
        await client.ping()
    assert (first.count(PING), second.count(PING)) == (3, 3)
    assert failed.value.url == f"{first.url},{second.url}"
    assert failed.value.cause.count("it answered 503: it is not serving now") == 2
    assert not isinstance(failed.value, BoardTimeout)


async def test_a_takeover_is_waited_for(boards):
    """While no board rules, calls go on for ``failover_seconds``, however many attempts that takes."""
    first, second = boards
    first.order(PING, *[503] * 20)
    second.order(PING, *[503] * 20)
    async with AsyncClient([first.url, second.url], retries=1, failover_seconds=30) as client:
        assert await client.ping()
    assert first.count(PING) == 21


async def test_a_refusal_is_an_answer(boards, client):
    first, second = boards
    with pytest.raises(TaskNotFound):
        await client.task("none")
    assert second.requests == []
    assert client.url == first.url


async def test_a_desire_whose_answer_was_lost_is_confirmed_at_the_next_board(boards, client, definition):
    first, second = boards
    first.order(DESIRE, "lose answer")
    await client.desire("g", "d", definition)
    assert (first.count(DESIRE), second.count(DESIRE)) == (1, 1)

    first.order(DESIRE, "lose answer")
    client._transport.boards.note_failure(client._transport.boards.round()[0])
    assert client.url == first.url
    with pytest.raises(TaskExists):
        await client.desire("g", "another", definition)


async def test_own_routes_fail_over_too(boards, client):
    first, second = boards
    second.outputs["g"] = []
    first.order("/v1/tasks/g/output", 503)
    assert await client.output("g") == []


async def test_events_go_on_at_the_next_board(boards, client, definition):
    first, second = boards
    stored = summarise(encode_definition(definition))
    events = client.events()
    one = asyncio.create_task(anext(events))
    await first.until(lambda: first.streams)
    await first.do(Desire("a", "d", stored))
    assert (await one).task.guid == "a"
    two = asyncio.create_task(anext(events))
    first.cut_streams()
    await first.close()
    await second.until(lambda: second.streams)
    await second.do(Desire("b", "d", stored))
    assert (await two).task.guid == "b"
    await events.aclose()


async def test_waits_are_found_again_at_the_next_board(boards, client, definition, eventually):
    """Fifty waits: some end while no board rules, some at the second board, and every one is told its own end."""
    first, second = boards
    guids = [f"g{number}" for number in range(50)]
    runs = {guid: asyncio.create_task(client.run(definition, guid=guid)) for guid in guids}
    for guid in guids:
        await first.desired(guid)
    await eventually(
        lambda: sum(wait.is_confirmed for waits in client._open_waits()._by_guid.values() for wait in waits) == 50
    )
    await first.finish(guids[0], result="before")
    assert (await runs[guids[0]]).result == "before"
    first.cut_streams()
    await first.close()
    for guid in guids[1:25]:
        second.quietly(Start(guid, "c"))
        second.quietly(Complete(guid, "c", False, "", f"meanwhile {guid}"))
    await second.until(lambda: second.streams)
    for guid in guids[25:]:
        await second.finish(guid, result=f"after {guid}")
    outcomes = {guid: await runs[guid] for guid in guids[1:]}
    assert {guid: outcome.result for guid, outcome in outcomes.items()} == {
        **{guid: f"meanwhile {guid}" for guid in guids[1:25]},
        **{guid: f"after {guid}" for guid in guids[25:]},
    }
    assert client.url == second.url


async def test_a_stream_on_a_board_that_fell_silent_is_opened_elsewhere(boards, definition, monkeypatch):
    """A board that is paused keeps its connections; its heartbeats are what is missing."""
    first, second = boards
    monkeypatch.setattr(transport, "_STREAM_SILENCE_SECONDS", 0.1)
    async with AsyncClient([first.url, second.url], timeout_seconds=5) as client:
        run = asyncio.create_task(client.run(definition, guid="g"))
        await first.desired("g")
        await second.until(lambda: second.streams)
        second.quietly(Cancel("g"))
        assert (await run).task.state is TaskState.COMPLETED


async def test_one_board_may_be_silent_for_ever(board, monkeypatch):
    monkeypatch.setattr(transport, "_STREAM_SILENCE_SECONDS", 0.01)
    async with AsyncClient([board.url, board.url]) as client:
        assert client._transport._stream_timeout.sock_read is None


def test_the_blocking_client_takes_several_too():
    with Client(["http://a:1", "http://b:1"]) as client:
        assert client.url == "http://a:1"


@pytest.mark.parametrize("urls", [[], "", ",", ["http://a", "b"]])
def test_boards_that_are_none_are_refused(urls):
    with pytest.raises(ValueError, match="is not the URL of a board"):
        AsyncClient(urls)
