"""``AsyncClient.events``: what the Go event source does (board-api.md 11.4)."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from bulletin import BoardUnreachable, Refused, TaskChanged, TaskCreated, TaskRemoved
from bulletin.core.operations import Cancel, Delete, Desire, Resolving
from bulletin.wire.tasks import encode_definition, summarise

STREAM = "/v1/events/tasks.r1"


@pytest.fixture
def stored(definition):
    return summarise(encode_definition(definition))


async def test_events_in_order_to_an_orderly_end(board, client, stored):
    events = client.events()
    first = asyncio.create_task(anext(events))
    await board.until(lambda: len(board.streams) == 1)
    await board.do(Desire("g", "d", stored))
    await board.do(Cancel("g"))
    await board.do(Resolving("g"))
    await board.do(Delete("g"))
    board.end_streams()
    seen = [await first, *[event async for event in events]]
    assert [type(event) for event in seen] == [TaskCreated, TaskChanged, TaskChanged, TaskRemoved]
    assert seen[0].task.guid == "g"
    assert seen[1].after.failure_reason == "task was cancelled"
    assert board.count(STREAM) == 1


async def test_a_cut_is_survived_with_the_last_event_id(board, client, stored):
    events = client.events()
    first = asyncio.create_task(anext(events))
    await board.until(lambda: len(board.streams) == 1)
    await board.do(Desire("a", "d", stored))
    await first
    second = asyncio.create_task(anext(events))
    await board.do(Desire("b", "d", stored))
    await second
    third = asyncio.create_task(anext(events))
    board.cut_streams()
    await board.until(lambda: len(board.streams) == 1)
    await board.do(Desire("c", "d", stored))
    assert (await third).task.guid == "c"
    assert board.last_event_ids == ["", "1"]
    await events.aclose()


async def test_busy_answers_are_waited_out_for_ever(board, client, stored):
    board.order(STREAM, *[500, 502, 503, 504] * 3)
    events = client.events()
    first = asyncio.create_task(anext(events))
    await board.until(lambda: len(board.streams) == 1)
    await board.do(Desire("g", "d", stored))
    assert (await first).task.guid == "g"
    assert board.count(STREAM) == 13
    await events.aclose()


@pytest.mark.parametrize("status", [400, 404, 405])
async def test_other_answers_are_final(board, client, status):
    board.order(STREAM, status)
    with pytest.raises(Refused, match=f"bad response from event source: {status}"):
        await anext(client.events())
    assert board.count(STREAM) == 1


async def test_four_dead_connections_are_final(board, client):
    board.order(STREAM, *["drop"] * 9)
    with pytest.raises(BoardUnreachable):
        await anext(client.events())
    assert board.count(STREAM) == 4


async def test_three_dead_connections_are_not(board, client, stored):
    board.order(STREAM, *["drop"] * 3)
    events = client.events()
    first = asyncio.create_task(anext(events))
    await board.until(lambda: len(board.streams) == 1)
    await board.do(Desire("g", "d", stored))
    await first
    await events.aclose()


async def test_letting_go_ends_the_subscription(board, client, stored, eventually):
    async with contextlib.aclosing(client.events()) as events:
        first = asyncio.create_task(anext(events))
        await board.until(lambda: len(board.streams) == 1)
        await board.do(Desire("g", "d", stored))
        await first
    # The server notices at one of its next writes.
    await eventually(lambda: not board.streams or board.send(b":\n\n"))


async def test_the_server_may_ask_to_be_left_alone(board, client, stored, monkeypatch):
    waited = []
    real = asyncio.sleep

    async def note(seconds):
        waited.append(seconds)
        await real(0)

    events = client.events()
    first = asyncio.create_task(anext(events))
    await board.until(lambda: len(board.streams) == 1)
    board.send(b"retry: 2500\n\n")
    await board.do(Desire("a", "d", stored))
    await first
    second = asyncio.create_task(anext(events))
    monkeypatch.setattr("bulletin.client.subscriptions.asyncio.sleep", note)
    board.cut_streams()
    await board.until(lambda: len(board.streams) == 1)
    await board.do(Desire("b", "d", stored))
    await second
    assert 2.5 in waited
    await events.aclose()


async def test_a_peer_that_vanished_is_found_out_by_the_kernel(board, client):
    with await client._transport.stream(STREAM) as stream:
        sock = stream._answer.connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
