"""Events to subscribers: shared bytes, ids of one's own, bounds, orderly ends."""

from __future__ import annotations

import asyncio

import pytest

from bulletin.board.hub import Hub
from bulletin.core import limits
from bulletin.core.lifecycle import TaskChanged, TaskCreated, TaskRemoved
from bulletin.core.model import Task, TaskState
from bulletin.wire.events import EventParser, decode_event


@pytest.fixture
def task(definition):
    return Task("g", "d", definition(), TaskState.PENDING, 1, 1)


def decoded(frames: bytes) -> list:
    return [decode_event(raw) for raw in EventParser().feed(frames)]


async def test_everybody_gets_every_event_in_order_with_ids_of_ones_own(task):
    hub = Hub()
    early = hub.subscribe("v3")
    hub.publish([TaskCreated(task)])
    late = hub.subscribe("v2")
    hub.publish([TaskChanged(task, task), TaskRemoved(task)])
    first, second = await early.frames(1), await late.frames(1)
    assert [type(event) for event in decoded(first)] == [TaskCreated, TaskChanged, TaskRemoved]
    assert [type(event) for event in decoded(second)] == [TaskChanged, TaskRemoved]
    assert [raw.id for raw in EventParser().feed(first)] == ["0", "1", "2"]
    assert [raw.id for raw in EventParser().feed(second)] == ["0", "1"]


async def test_a_quiet_stream_gives_empty_frames_and_goes_on(task):
    hub = Hub()
    subscription = hub.subscribe("v3")
    assert await subscription.frames(0.001) == b""
    waiting = asyncio.create_task(subscription.frames(60))
    await asyncio.sleep(0)
    hub.publish([TaskCreated(task)])
    assert len(decoded(await waiting)) == 1


async def test_who_falls_behind_gets_what_is_buffered_and_then_the_end(task):
    hub = Hub()
    slow, quick = hub.subscribe("v3"), hub.subscribe("v3")
    for _ in range(limits.SUBSCRIBER_EVENTS_MAX):
        hub.publish([TaskCreated(task)])
    assert len(decoded(await quick.frames(1))) == limits.SUBSCRIBER_EVENTS_MAX
    hub.publish([TaskRemoved(task)])
    assert len(hub) == 1
    assert len(decoded(await slow.frames(1))) == limits.SUBSCRIBER_EVENTS_MAX
    assert await slow.frames(1) is None
    assert [type(event) for event in decoded(await quick.frames(1))] == [TaskRemoved]


async def test_closing_ends_all_and_those_who_come_later(task):
    hub = Hub()
    subscription = hub.subscribe("v3")
    hub.publish([TaskCreated(task)])
    hub.close()
    assert len(decoded(await subscription.frames(1))) == 1
    assert await subscription.frames(1) is None
    assert await hub.subscribe("v3").frames(1) is None


async def test_a_subscriber_that_left_gets_nothing(task):
    hub = Hub()
    subscription = hub.subscribe("v3")
    hub.unsubscribe(subscription)
    hub.unsubscribe(subscription)
    hub.publish([TaskCreated(task)])
    assert await subscription.frames(0.001) == b""
