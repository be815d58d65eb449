"""Events to those who listen (board-api.md section 11).

An event is encoded once for each form and shared by all subscribers; only the ``id:`` line is a subscriber's own. A
subscriber that falls ``SUBSCRIBER_EVENTS_MAX`` behind is ended: it still gets what is buffered, then an orderly end.
Publishing never waits for anybody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Literal

from bulletin.core import limits
from bulletin.core.lifecycle import Event
from bulletin.wire import events as wire_events

__all__ = ["Form", "Hub", "Subscription"]

Form = Literal["v3", "v2"]


class Subscription:
    """One subscriber: a bounded buffer of encoded events, and the end."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self._tails: deque[bytes] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._next_id = 0
        self._ended = False

    def offer(self, tail: bytes) -> bool:
        """Buffer an encoded event; False when the buffer was full and the subscription has ended."""
        if len(self._tails) >= limits.SUBSCRIBER_EVENTS_MAX:
            self.end()
            return False
        self._tails.append(tail)
        self._rouse()
        return True

    def end(self) -> None:
        """No event comes after the buffered ones."""
        self._ended = True
        self._rouse()

    async def frames(self, seconds: float) -> bytes | None:
        """All that is buffered, framed; empty after ``seconds`` without an event; None at the end."""
        if not self._tails and not self._ended:
            self._wake = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(seconds):
                    await self._wake
            except TimeoutError:
                return b""
            finally:
                self._wake = None
        if not self._tails:
            return None
        parts = []
        while self._tails:
            parts.append(wire_events.frame(self._next_id, self._tails.popleft()))
            self._next_id += 1
        return b"".join(parts)

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


class Hub:
    """All subscriptions of the task streams."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._subscriptions)

    def subscribe(self, form: Form) -> Subscription:
        """A subscription to everything published from now on; already ended when the hub is closed."""
        subscription = Subscription(form)
        if self._closed:
            subscription.end()
        else:
            self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a subscription; harmless when it is not known."""
        self._subscriptions.discard(subscription)

    def publish(self, events: Iterable[Event]) -> None:
        """Hand ``events`` to everybody, in order."""
        if not self._subscriptions:
            return
        for event in events:
            tails: dict[Form, bytes] = {}
            for subscription in list(self._subscriptions):
                form = subscription.form
                if form not in tails:
                    tails[form] = wire_events.encode_event(event, form)
                if not subscription.offer(tails[form]):
                    self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End every subscription in an orderly way."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.end()
        self._subscriptions.clear()
