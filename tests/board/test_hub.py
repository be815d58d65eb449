"""Events to subscribers: shared bytes, ids of one's own, bounds, orderly ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from bulletin.board.hub import Hub, Subscription
from bulletin.core import limits
from bulletin.core.model import Definition, Task, TaskState
from bulletin.core.operations import TaskChanged, TaskCreated, TaskRemoved
from bulletin.wire.events import EventParser, decode_event


@dataclass
class Reader:
    """One end of a stream: what was written to it, and whether it has room."""

    has_room: bool = True
    written: list[bytes] = field(default_factory=list)

    def deliver(self, frames: bytes) -> bool:
        self.written.append(frames)
        return self.has_room

    @property
    def events(self) -> list:
        return decoded(b"".join(self.written))

    @property
    def ids(self) -> list[str]:
        return [raw.id for raw in EventParser().feed(b"".join(self.written))]


@pytest.fixture
def hub() -> Hub:
    return Hub(1, 100)


@pytest.fixture
def task(definition):
    return Task("g", "d", definition(), TaskState.PENDING, 1, 1)


def decoded(frames: bytes) -> list:
    return [decode_event(raw) for raw in EventParser().feed(frames)]


async def following(subscription: Subscription) -> asyncio.Task[bool]:
    """The subscription, with events handed on as they come."""
    task = asyncio.create_task(subscription.follow(60))
    await asyncio.sleep(0)
    assert subscription.next_id is not None
    return task


async def test_what_comes_before_anybody_reads_is_buffered_and_numbered(hub, task):
    early = hub.subscribe("v3", Reader().deliver)
    hub.publish([TaskCreated(task)])
    late = hub.subscribe("v2", Reader().deliver)
    hub.publish([TaskChanged(task, task), TaskRemoved(task)])
    first, second = early.take(), late.take()
    assert [type(event) for event in decoded(first)] == [TaskCreated, TaskChanged, TaskRemoved]
    assert [type(event) for event in decoded(second)] == [TaskChanged, TaskRemoved]
    assert [raw.id for raw in EventParser().feed(first)] == ["0", "1", "2"]
    assert [raw.id for raw in EventParser().feed(second)] == ["0", "1"]
    assert early.take() == b""


async def test_who_keeps_up_gets_each_commit_in_one_piece_without_waiting(hub, task):
    reader = Reader()
    subscription = hub.subscribe("v3", reader.deliver)
    waiting = await following(subscription)
    hub.publish([TaskCreated(task), TaskChanged(task, task)])
    hub.publish([TaskRemoved(task)])
    assert len(reader.written) == 2
    assert reader.ids == ["0", "1", "2"]
    assert [type(event) for event in reader.events] == [TaskCreated, TaskChanged, TaskRemoved]
    assert not waiting.done()
    hub.close()
    assert await waiting is False
    assert subscription.ended


async def test_those_who_have_come_equally_far_share_their_bytes(hub, task):
    readers = [Reader(), Reader(), Reader()]
    hub.publish([TaskCreated(task)])
    waiting = [await following(hub.subscribe("v3", reader.deliver)) for reader in readers[:2]]
    hub.publish([TaskCreated(task)])
    waiting.append(await following(hub.subscribe("v3", readers[2].deliver)))
    hub.publish([TaskRemoved(task)])
    assert readers[0].written[1] is readers[1].written[1]
    assert [reader.ids for reader in readers] == [["0", "1"], ["0", "1"], ["0"]]
    hub.close()
    await asyncio.gather(*waiting)


async def test_who_has_enough_to_read_is_buffered_for_and_then_goes_on(hub, task):
    reader = Reader(has_room=False)
    subscription = hub.subscribe("v3", reader.deliver)
    waiting = await following(subscription)
    hub.publish([TaskCreated(task)])
    hub.publish([TaskChanged(task, task)])
    assert await waiting is False
    assert len(reader.events) == 1
    reader.deliver(subscription.take())
    reader.has_room = True
    waiting = await following(subscription)
    hub.publish([TaskRemoved(task)])
    assert reader.ids == ["0", "1", "2"]
    hub.close()
    await waiting


async def test_a_quiet_stream_says_so_and_one_that_is_not_does_not(hub, task):
    subscription = hub.subscribe("v3", Reader().deliver)
    assert await subscription.follow(0.001) is True
    waiting = asyncio.create_task(subscription.follow(0.05))
    await asyncio.sleep(0)
    hub.publish([TaskCreated(task)])
    assert await waiting is False


async def test_who_falls_behind_gets_what_is_buffered_and_then_the_end(hub, task):
    slow = hub.subscribe("v3", Reader().deliver)
    quick_reader = Reader()
    waiting = await following(hub.subscribe("v3", quick_reader.deliver))
    for _ in range(limits.SUBSCRIBER_EVENTS_MAX):
        hub.publish([TaskCreated(task)])
    assert not slow.ended
    hub.publish([TaskRemoved(task)])
    assert slow.ended
    assert len(hub) == 1
    assert [type(event) for event in decoded(slow.take())] == [TaskCreated] * limits.SUBSCRIBER_EVENTS_MAX
    hub.publish([TaskRemoved(task)])
    assert slow.take() == b""
    assert len(quick_reader.events) == limits.SUBSCRIBER_EVENTS_MAX + 2
    hub.close()
    await waiting


async def test_a_commit_that_is_too_much_is_given_up_to_the_bound(hub, task):
    slow = hub.subscribe("v3", Reader().deliver)
    hub.publish([TaskCreated(task)])
    hub.publish([TaskChanged(task, task)] * limits.SUBSCRIBER_EVENTS_MAX)
    assert slow.ended
    assert len(decoded(slow.take())) == limits.SUBSCRIBER_EVENTS_MAX


async def test_closing_ends_all_and_those_who_come_later(hub, task):
    subscription = hub.subscribe("v3", Reader().deliver)
    hub.publish([TaskCreated(task)])
    hub.close()
    assert len(decoded(subscription.take())) == 1
    assert subscription.ended
    assert hub.subscribe("v3", Reader().deliver).ended
    assert len(hub) == 0


async def test_a_subscriber_that_left_gets_nothing(hub, task):
    reader = Reader()
    subscription = hub.subscribe("v3", reader.deliver)
    waiting = await following(subscription)
    hub.unsubscribe(subscription)
    hub.unsubscribe(subscription)
    hub.publish([TaskCreated(task)])
    waiting.cancel()
    assert reader.written == []
    assert subscription.take() == b""


async def test_a_definition_that_one_form_cannot_show_costs_nobody_else_an_event(hub, task):
    broken = Task("b", "d", Definition(b"\xca\x01\xff", ""), TaskState.PENDING, 1, 1)
    old, new = hub.subscribe("v2", Reader().deliver), hub.subscribe("v3", Reader().deliver)
    hub.publish([TaskCreated(broken), TaskCreated(task)])
    assert [event.task.guid for event in decoded(old.take())] == ["g"]
    assert len(EventParser().feed(new.take())) == 2
