"""Events to those who listen (board-api.md section 11).

An event is encoded once for each form and shared by all subscribers; only the ``id:`` lines are a subscriber's own,
and those who have come equally far share these too. A subscriber that keeps up has its events written by ``publish``
itself, all of one commit at once; behind one that does not, they are buffered. A subscriber that falls
``SUBSCRIBER_EVENTS_MAX`` behind is ended: it still gets what is buffered, then an orderly end. Publishing never waits
for anybody. Our own stream follows the ``ring`` instead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from bulletin.board.metrics import BoardMetrics
from bulletin.board.ring import Ring
from bulletin.core import limits
from bulletin.core.errors import TaskError
from bulletin.core.operations import Event
from bulletin.wire import events as wire_events
from bulletin.wire.routes import Form

__all__ = ["Hub", "Subscription"]


class Subscription:
    """One subscriber: events are handed on as they come, or buffered within bounds, until the end.

    Args:
        form: how tasks are shown.
        deliver: writes framed events without waiting; False when the subscriber has enough to read for now. Must
            not raise.
    """

    def __init__(self, form: Form, deliver: Callable[[bytes], bool]) -> None:
        self.form: Form = form
        self._deliver = deliver
        self._tails: deque[bytes] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._next_id = 0
        self._is_quiet = True
        self.ended = False

    @property
    def next_id(self) -> int | None:
        """The number of the next event if it can be handed on at once; None while events are buffered."""
        return self._next_id if self._wake is not None else None

    def hand_on(self, frames: bytes, count: int) -> None:
        """Hand on ``count`` events, framed from ``next_id`` on, which is not None."""
        self._is_quiet = False
        self._next_id += count
        if not self._deliver(frames):
            self._rouse()

    def buffer(self, tails: Sequence[bytes]) -> bool:
        """Buffer encoded events; False when they were too many and the subscription has ended."""
        room = limits.SUBSCRIBER_EVENTS_MAX - len(self._tails)
        self._tails.extend(islice(tails, room))
        if len(tails) > room:
            self.end()
            return False
        return True

    def end(self) -> None:
        """No event comes after the buffered ones."""
        self.ended = True
        self._rouse()

    def take(self) -> bytes:
        """All that is buffered, framed; empty when nothing is."""
        frames = wire_events.frame(self._next_id, self._tails)
        self._next_id += len(self._tails)
        self._tails.clear()
        return frames

    async def follow(self, seconds: float) -> bool:
        """Have events handed on as they come, until the subscriber has enough to read, or the end.

        Returns:
            Whether nothing was handed on for ``seconds``, at least: time for a sign of life. Nothing is buffered and
            nothing has ended before this is called; both may be after.
        """
        self._is_quiet = True
        self._wake = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._wake
        except TimeoutError:
            return self._is_quiet
        finally:
            self._wake = None
        return False

    def _rouse(self) -> None:
        if self._wake is not None:
            if not self._wake.done():
                self._wake.set_result(None)
            self._wake = None


class Hub:
    """All subscriptions of the task streams.

    Args:
        epoch: of the lease; part of the ids of our own stream.
        ring_events_max: how many events our own stream can resume from.
    """

    def __init__(self, epoch: int, ring_events_max: int, metrics: BoardMetrics | None = None) -> None:
        self._metrics = metrics or BoardMetrics()
        self.ring = Ring(epoch, ring_events_max, self._metrics)
        self._subscriptions: set[Subscription] = set()
        self._closed = False

    def __len__(self) -> int:
        """How many listen, our own stream's included."""
        return len(self._subscriptions) + len(self.ring)

    def subscribe(self, form: Form, deliver: Callable[[bytes], bool]) -> Subscription:
        """A subscription to everything published from now on; already ended when the hub is closed."""
        subscription = Subscription(form, deliver)
        if self._closed:
            subscription.end()
        else:
            self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a subscription; harmless when it is not known."""
        self._subscriptions.discard(subscription)

    def publish(self, events: Sequence[Event]) -> None:
        """Hand ``events``, those of one commit, to everybody, in order."""
        self.ring.append(events)
        if not self._subscriptions:
            return
        tails: dict[Form, list[bytes]] = {}
        frames: dict[tuple[Form, int], bytes] = {}
        for subscription in list(self._subscriptions):
            form = subscription.form
            if form not in tails:
                tails[form] = _encode(events, form)
            self._metrics.events_sent += len(tails[form])
            next_id = subscription.next_id
            if next_id is None:
                if not subscription.buffer(tails[form]):
                    self._subscriptions.discard(subscription)
                    self._metrics.subscribers_dropped += 1
                continue
            framed = frames.get((form, next_id))
            if framed is None:
                framed = frames[form, next_id] = wire_events.frame(next_id, tails[form])
            if framed:
                subscription.hand_on(framed, len(tails[form]))

    def close(self) -> None:
        """End every subscription in an orderly way."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.end()
        self._subscriptions.clear()
        self.ring.close()


def _encode(events: Sequence[Event], form: Form) -> list[bytes]:
    """``events`` in ``form``; without those of tasks whose stored definition this form cannot show."""
    tails: list[bytes] = []
    for event in events:
        try:
            tails.append(wire_events.encode_event(event, form))
        except TaskError:
            continue
    return tails
