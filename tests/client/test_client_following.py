"""``AsyncClient.follow``: exact over cuts where the board can, and never silent about what is lost."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from bulletin import BoardUnreachable, Forbidden, Missed, TaskChanged, TaskCreated, TaskRemoved
from bulletin.board.ring import Ring
from bulletin.client.boards import Patience
from bulletin.core.operations import Cancel, Delete, Desire, Resolving
from bulletin.wire.tasks import encode_definition, summarise

OWN = "/v1/task_events"
STREAM = "/v1/events/tasks.r1"


@pytest.fixture
def stored(definition):
    return summarise(encode_definition(definition))


@pytest.fixture
async def follow(client):
    """Followers that are let go at the end of the test."""
    async with contextlib.AsyncExitStack() as stack:
        yield (
            lambda **arguments: (
                stack.push_async_callback((following := client.follow(**arguments)).aclose) and following
            )
        )


async def started(board, following):
    """The first event's future, once the board knows of the follower."""
    first = asyncio.create_task(anext(following))
    await board.until(lambda: board.followers or board.streams)
    return first


async def test_events_come_with_their_positions(board, follow, stored):
    board.ring = Ring(3, 100)
    following = follow()
    first = await started(board, following)
    for operation in (Desire("g", "d", stored), Cancel("g"), Resolving("g"), Delete("g")):
        await board.do(operation)
    told = [await first, *[await anext(following) for _ in range(3)]]
    assert [type(one.event) for one in told] == [TaskCreated, TaskChanged, TaskChanged, TaskRemoved]
    assert [one.position for one in told] == ["3-1", "3-2", "3-3", "3-4"]
    assert told[0].event.task.definition == stored
    assert told[1].event.after == told[2].event.before


async def test_a_cut_loses_nothing(board, follow, stored):
    board.ring = Ring(3, 100)
    following = follow()
    first = await started(board, following)
    await board.do(Desire("g", "d", stored))
    assert (await first).position == "3-1"
    board.order(OWN, 503, "drop")
    board.cut_followers()
    await board.do(Cancel("g"))
    await board.do(Resolving("g"))
    assert [(await anext(following)).position for _ in range(2)] == ["3-2", "3-3"]
    assert board.last_event_ids == ["", "3-1", "3-1", "3-1"]


async def test_a_cut_before_the_first_event_loses_nothing_either(board, follow, stored):
    """The board says where it is before there is anything to tell."""
    board.ring = Ring(3, 100)
    await board.do(Desire("old", "d", stored))
    following = follow()
    first = await started(board, following)
    await board.until(lambda: not any(follower._before for follower in board.followers))
    board.cut_followers()
    await board.do(Desire("g", "d", stored))
    told = await first
    assert (told.position, told.event.task.guid) == ("3-2", "g")


async def test_an_orderly_end_is_no_end(board, follow, stored):
    """A board that stops, or a subscriber that was too slow, ends the stream; the follower comes again."""
    board.ring = ring = Ring(3, 100)
    following = follow()
    first = await started(board, following)
    await board.do(Desire("g", "d", stored))
    await first
    again = asyncio.create_task(anext(following))
    board.ring = Ring(4, 100)
    ring.close()
    told = await again
    assert isinstance(told.event, Missed)
    assert "new reign" in told.event.reason
    assert told.position == "4-0"
    await board.do(Cancel("g"))
    assert (await anext(following)).position == "4-1"


async def test_what_the_ring_does_not_hold_any_more_is_missed(board, follow, stored):
    board.ring = Ring(3, 2)
    for guid in ("a", "b", "c"):
        await board.do(Desire(guid, "d", stored))
    following = follow(after="3-0")
    told = await anext(following)
    assert told == type(told)("3-3", Missed("the board keeps 2 events, and that one is older"))


async def test_resume_from_a_position_of_before(board, follow, stored):
    board.ring = Ring(3, 100)
    for guid in ("a", "b", "c"):
        await board.do(Desire(guid, "d", stored))
    following = follow(after="3-1")
    assert [(await anext(following)).event.task.guid for _ in range(2)] == ["b", "c"]


async def test_filters_are_the_boards(board, follow, stored):
    board.ring = Ring(3, 100)
    for guid, domain in (("a&b", "d"), ("b", "d"), ("b2", "e=?")):
        await board.do(Desire(guid, domain, stored))
    assert (await anext(follow(after="3-0", guid="b"))).position == "3-2"
    assert (await anext(follow(after="3-0", domain="e=?"))).position == "3-3"
    assert (await anext(follow(after="3-0", guid="a&b"))).position == "3-1"


async def test_a_bbs_is_followed_and_its_gaps_are_told(board, follow, stored):
    following = follow(domain="d")
    first = await started(board, following)
    await board.do(Desire("other", "e", stored))
    await board.do(Desire("g", "d", stored))
    told = await first
    assert (told.position, told.event.task.guid) == ("", "g")
    second = asyncio.create_task(anext(following))
    board.cut_streams()
    assert "cut" in (await second).event.reason
    await board.do(Cancel("g"))
    assert (await anext(following)).event.after.failed
    third = asyncio.create_task(anext(following))
    board.end_streams()
    assert isinstance((await third).event, Missed)
    assert board.count(OWN) == 1


async def test_a_position_is_of_no_use_to_a_bbs(board, follow):
    told = await anext(follow(after="3-1"))
    assert isinstance(told.event, Missed)


async def test_an_event_that_cannot_be_read_is_missed(board, follow, stored):
    following = follow()
    first = await started(board, following)
    board.send(b"event: task_exploded\ndata: AAAA\n\n")
    assert "task_exploded" in (await first).event.reason


async def test_a_stream_that_is_garbled_is_left_and_told(board, follow, stored, monkeypatch):
    """An event too long to be read would come again and again to one who resumes before it."""
    board.ring = Ring(3, 100)
    await board.do(Desire("g", "d", stored))
    monkeypatch.setattr("bulletin.wire.events.EVENT_LINE_BYTES_MAX", 100)
    following = follow(after="3-0")
    told = await anext(following)
    assert "over 100 bytes" in told.event.reason
    assert board.last_event_ids == ["3-0", ""]


async def test_a_board_that_stays_away_is_told(board, client, follow, stored, monkeypatch):
    board.ring = Ring(3, 100)
    following = follow()
    first = await started(board, following)
    await board.do(Desire("g", "d", stored))
    await first
    monkeypatch.setattr("bulletin.client.following.Patience", lambda _attempts, _seconds: Patience(1, 0))
    await board.leave()
    with pytest.raises(BoardUnreachable):
        await anext(following)


async def test_without_a_role_there_is_no_stream(board, follow):
    board.order(OWN, 403)
    with pytest.raises(Forbidden, match="no"):
        await anext(follow())


async def test_the_next_board_is_followed(board, make_board, stored):
    from bulletin import AsyncClient

    other = await make_board()
    board.ring, other.ring = Ring(3, 100), Ring(4, 100)
    async with AsyncClient([board.url, other.url]) as client, contextlib.aclosing(client.follow()) as following:
        first = await started(board, following)
        await board.do(Desire("g", "d", stored))
        await first
        again = asyncio.create_task(anext(following))
        await board.leave()
        assert isinstance((await again).event, Missed)
        await other.do(Desire("h", "d", stored))
        assert (await anext(following)).position == "4-1"
