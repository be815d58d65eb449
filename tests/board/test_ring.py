"""The ring our own stream resumes from: exactly what came since, or a word that something is missing."""

from __future__ import annotations

import asyncio
import json

import pytest

from bulletin.board.ring import Follower, Ring
from bulletin.core import limits
from bulletin.core.model import Definition, Task, TaskState
from bulletin.core.operations import TaskCreated
from bulletin.wire.events import EventParser
from bulletin.wire.ownevents import Missed, decode_own_event


@pytest.fixture
def make(definition):
    made = definition()
    return lambda guid, domain="d": TaskCreated(Task(guid, domain, made, TaskState.PENDING, 1, 1))


class Client:
    """Reads a stream as a client does: events, and the last id."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self._parser = EventParser()

    async def read(self) -> list[str]:
        """The guids that have come, or ``missed: reason``."""
        found = []
        while frames := await self.follower.frames(0):
            for raw in self._parser.feed(frames):
                event = decode_own_event(raw)
                found.append(f"missed: {event.reason}" if isinstance(event, Missed) else event.task.guid)
        return found

    @property
    def last_id(self) -> str:
        return self._parser.last_id


async def test_a_new_follower_gets_what_comes_from_now_on_and_knows_at_once_where_it_is(make):
    ring = Ring(7, 100)
    ring.append([make("a"), make("b")])
    client = Client(ring.follow())
    assert await client.read() == []
    assert client.last_id == "7-2"
    ring.append([make("c")])
    assert await client.read() == ["c"]
    assert client.last_id == "7-3"


@pytest.mark.parametrize("seen", range(6))
async def test_resuming_gives_what_came_since_without_a_gap_or_a_repeat(make, seen):
    ring = Ring(7, 100)
    ring.append([make(str(number)) for number in range(1, 4)])
    ring.append([make(str(number)) for number in range(4, 6)])
    client = Client(ring.follow(f"7-{seen}"))
    ring.append([make("6")])
    assert await client.read() == [str(number) for number in range(seen + 1, 7)]
    assert client.last_id == "7-6"


@pytest.mark.parametrize(
    ("last_event_id", "reason"),
    [
        ("7-1", "that one is older"),
        ("7-0", "that one is older"),
        ("6-9", "a new reign"),
        ("8-3", "a new reign"),
        ("7-10", "never sent"),
        ("garbage", "not one of this stream's"),
        ("7", "not one of this stream's"),
        ("7-", "not one of this stream's"),
        ("-7-1", "not one of this stream's"),
        ("7-1 ", "not one of this stream's"),
        ("7-\u0661", "not one of this stream's"),
        ("7-" + "9" * 5000, "not one of this stream's"),
    ],
)
async def test_what_cannot_be_resumed_is_said_first_and_then_comes_what_is_new(make, last_event_id, reason):
    ring = Ring(7, 3)
    ring.append([make(str(number)) for number in range(1, 10)])
    client = Client(ring.follow(last_event_id))
    ring.append([make("10")])
    (missed, *others) = await client.read()
    assert missed.startswith("missed: ")
    assert reason in missed
    assert others == ["10"]
    # Who is cut off now does not come again with an id that hides the gap, nor with one that tells of it twice.
    assert await Client(ring.follow(client.last_id)).read() == []


@pytest.mark.parametrize("oldest", ["7-6", "7-7"])
async def test_the_oldest_kept_event_can_be_resumed_from_and_the_one_before_it(make, oldest):
    ring = Ring(7, 3)
    ring.append([make(str(number)) for number in range(1, 10)])
    assert await Client(ring.follow(oldest)).read() == [str(n) for n in range(int(oldest[2:]) + 1, 10)]


async def test_a_slow_follower_is_told_that_it_missed_events_and_goes_on(make):
    ring = Ring(7, 3)
    client = Client(ring.follow())
    ring.append([make("1")])
    assert await client.read() == ["1"]
    ring.append([make(str(number)) for number in range(2, 6)])
    (missed,) = await client.read()
    assert "more slowly" in missed
    assert client.last_id == "7-5"
    ring.append([make("6")])
    assert await client.read() == ["6"]


async def test_the_ring_is_bounded_in_bytes(definition, monkeypatch):
    monkeypatch.setattr(limits, "EVENT_RING_BYTES_MAX", 100_000)
    ring = Ring(7, 10_000)
    large = definition(annotation="x" * 10_000)
    follower = Client(ring.follow())
    for number in range(100):
        ring.append([TaskCreated(Task(str(number), "d", large, TaskState.PENDING, 1, 1))])
        assert len(await follower.read()) == 1
    assert 0 < ring.last - ring.first + 1 <= 9
    # What was framed for the follower counts as well, and went with its event.
    assert len(ring._frames) <= 9
    assert 0 <= ring._bytes <= 100_000


async def test_filters(make):
    ring = Ring(7, 100)
    ring.append([make(f"{domain}{number}", domain) for number in range(40) for domain in "ab"])
    assert await Client(ring.follow("7-0", guid="a7")).read() == ["a7"]
    by_domain = Client(ring.follow("7-0", domain="b"))
    assert await by_domain.read() == [f"b{number}" for number in range(40)]
    assert await Client(ring.follow("7-0", guid="a7", domain="b")).read() == []
    # A follower that wants nothing of it still moves on, so that it can come again later.
    quiet = Client(ring.follow("7-0", guid="nobody"))
    assert await quiet.read() == []
    assert quiet._parser.feed(quiet.follower.position) == []
    assert quiet.last_id == "7-80"


async def test_waiting_ends_with_an_event_of_interest_or_in_time(make):
    ring = Ring(7, 100)
    follower = ring.follow(guid="mine")
    assert await follower.frames(0)
    waiting = asyncio.create_task(follower.frames(60))
    await asyncio.sleep(0)
    ring.append([make("other")])
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    ring.append([make("mine")])
    assert b'"mine"' in await waiting
    assert await follower.frames(0.001) == b""


async def test_the_end_comes_after_what_is_there(make):
    ring = Ring(7, 100)
    follower = ring.follow("7-0")
    ring.append([make("a")])
    waiting = asyncio.create_task(ring.follow("7-1").frames(60))
    ring.close()
    assert await follower.frames(60)  # where it is
    assert b'"a"' in await follower.frames(60)
    assert await follower.frames(60) is None
    assert await waiting
    assert len(ring) == 0
    late = ring.follow()
    assert await late.frames(60)
    assert await late.frames(60) is None


async def test_an_event_is_made_into_json_once_and_only_for_somebody(make, monkeypatch):
    from bulletin.board import ring as module

    made = []

    def encode(event_id, event):
        made.append(str(event_id))
        return b"id: %b\ndata: x\n\n" % str(event_id).encode()

    monkeypatch.setattr(module, "encode_own_event", encode)
    ring = Ring(7, 100)
    ring.append([make("a")])
    first, second = ring.follow(), ring.follow()
    assert made == []
    ring.append([make("b")])
    for follower in (first, second, ring.follow("7-1")):
        assert await follower.frames(0)
        assert b"7-2" in await follower.frames(0)
    assert made == ["7-2"]


async def test_a_definition_that_cannot_be_read_costs_only_its_own_event(make):
    ring = Ring(7, 100)
    broken = Task("b", "d", Definition(b"\xff", ""), TaskState.PENDING, 1, 1)
    ring.append([TaskCreated(broken), make("a")])
    assert await Client(ring.follow("7-0")).read() == ["a"]


async def test_a_follower_that_left_is_forgotten(make):
    ring = Ring(7, 100)
    follower = ring.follow()
    assert len(ring) == 1
    ring.unfollow(follower)
    ring.unfollow(follower)
    assert len(ring) == 0


async def test_data_is_one_line_of_json(make):
    ring = Ring(7, 100)
    ring.append([make("a")])
    follower = ring.follow("7-0")
    await follower.frames(0)
    lines = (await follower.frames(0)).decode("ascii").split("\n")
    assert lines[:2] == ["id: 7-1", "event: task_created"]
    assert json.loads(lines[2].removeprefix("data: "))["task"]["task_guid"] == "a"
    assert lines[3:] == ["", ""]
