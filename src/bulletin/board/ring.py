"""The newest events, kept to resume from, and those who follow them: our own event stream.

The ring is bounded in events and, roughly, in bytes. A follower has no buffer: it has a place in the ring. When the
ring has moved beyond that place, the follower is told that it missed events and goes on with what comes next. An
event is turned into JSON when the first follower comes to it, and never when there is none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from bulletin.board.metrics import BoardMetrics
from bulletin.core import limits
from bulletin.core.errors import TaskError
from bulletin.core.operations import Event, TaskChanged
from bulletin.wire.ownevents import EventId, encode_missed, encode_own_event, encode_position

__all__ = ["Follower", "Ring"]

#: Events framed between two turns of the loop: JSON takes some 30 µs each, 100 µs when its definition is new.
_PIECE_EVENTS: Final = 32
#: What an event takes beside its definition, in bytes; roughly.
_EVENT_BYTES: Final = 1000


class Ring:
    """The newest events of a reign.

    Args:
        epoch: the reign's; part of every id.
        events_max: how many are kept.
        metrics: told of the events that are sent, and of who falls behind.
    """

    def __init__(self, epoch: int, events_max: int, metrics: BoardMetrics | None = None) -> None:
        self.metrics = metrics or BoardMetrics()
        self._epoch = epoch
        self._events_max = events_max
        self._events: deque[Event] = deque()
        self._frames: dict[int, bytes] = {}
        self._bytes = 0
        #: The sequence of the newest event; the first of a reign is 1.
        self._last = 0
        self._followers: set[Follower] = set()
        self.closed = False

    def __len__(self) -> int:
        """How many follow."""
        return len(self._followers)

    @property
    def first(self) -> int:
        """The sequence of the oldest event that is kept; one beyond ``last`` when none is."""
        return self._last - len(self._events) + 1

    @property
    def last(self) -> int:
        """The sequence of the newest event; 0 before the first."""
        return self._last

    def append(self, events: Sequence[Event]) -> None:
        """Keep ``events``, in order, and wake those who follow."""
        kept = self._events
        kept.extend(events)
        self._last += len(events)
        self._bytes += sum(map(_weigh, events))
        while len(kept) > self._events_max or self._bytes > limits.EVENT_RING_BYTES_MAX:
            self._drop_oldest()
        for follower in self._followers:
            follower.rouse()

    def _drop_oldest(self) -> None:
        sequence = self.first
        self._bytes -= _weigh(self._events.popleft())
        if self._frames:
            self._bytes -= len(self._frames.pop(sequence, b""))

    def id_of(self, sequence: int) -> EventId:
        """The id of an event."""
        return EventId(self._epoch, sequence)

    def event(self, sequence: int) -> Event:
        """An event that is kept."""
        return self._events[sequence - self.first]

    def frame(self, sequence: int) -> bytes:
        """An event that is kept, framed; made once where there is room. Empty when its definition cannot be read."""
        framed = self._frames.get(sequence)
        if framed is None:
            try:
                framed = encode_own_event(self.id_of(sequence), self.event(sequence))
            except TaskError:
                framed = b""
            if self._bytes + len(framed) <= limits.EVENT_RING_BYTES_MAX:
                self._frames[sequence] = framed
                self._bytes += len(framed)
        return framed

    def follow(self, last_event_id: str = "", *, guid: str = "", domain: str = "") -> Follower:
        """A follower of the events after ``last_event_id``, or of those to come when it is empty.

        Args:
            last_event_id: what the client sent, whatever that is; when it cannot be resumed from, the follower is
                told first that events are missed.
            guid: only events of this task.
            domain: only events of tasks of this domain.
        """
        follower = Follower(self, guid, domain)
        if last_event_id:
            follower.resume(last_event_id)
        if not self.closed:
            self._followers.add(follower)
        return follower

    def unfollow(self, follower: Follower) -> None:
        """Forget a follower; harmless when it is not known."""
        self._followers.discard(follower)

    def epoch_is(self, epoch: int) -> bool:
        """Whether an id of ``epoch`` is of this reign."""
        return epoch == self._epoch

    def close(self) -> None:
        """No event comes any more; followers get what is there and then the end."""
        self.closed = True
        for follower in self._followers:
            follower.rouse()
        self._followers.clear()


class Follower:
    """One place in the ring, and what of it is of interest."""

    def __init__(self, ring: Ring, guid: str, domain: str) -> None:
        self._ring = ring
        self._guid = guid
        self._domain = domain
        self._next = ring.last + 1
        #: To be told before anything else: how far the client is, or that it missed events.
        self._before = self.position
        self._wake: asyncio.Future[None] | None = None

    def resume(self, last_event_id: str) -> None:
        """Go on after ``last_event_id``; where that cannot be, with what is to come."""
        ring = self._ring
        missed = ""
        place = EventId.parse(last_event_id)
        if place is None:
            missed = "the Last-Event-ID is not one of this stream's"
        elif not ring.epoch_is(place.epoch):
            missed = "the board began a new reign since then; the events of earlier ones are not kept"
        elif place.sequence > ring.last:
            missed = "the Last-Event-ID is one that was never sent"
        elif place.sequence + 1 < ring.first:
            missed = f"the board keeps {ring.last - ring.first + 1} events, and that one is older"
        else:
            self._next = place.sequence + 1
        self._before = self._tell_missed(missed) if missed else self.position

    @property
    def position(self) -> bytes:
        """Up to where there is nothing to tell any more, framed."""
        return encode_position(self._ring.id_of(self._next - 1))

    async def frames(self, seconds: float) -> bytes | None:
        """Some of what is to be told, framed; empty when there is nothing for ``seconds``; None at the end."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            frames = self._take()
            if frames:
                return frames
            if self._next > self._ring.last:
                if self._ring.closed:
                    return None
                if loop.time() >= end or not await self._wait(end):
                    return b""
            else:
                await asyncio.sleep(0)  # many events, and none of interest among the first

    def rouse(self) -> None:
        """Look again."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _take(self) -> bytes:
        ring = self._ring
        if self._next < ring.first:
            self._next = ring.last + 1
            ring.metrics.subscribers_dropped += 1
            self._before = self._tell_missed("this subscriber reads more slowly than events come")
        if self._before:
            frame, self._before = self._before, b""
            return frame
        begin = self._next
        self._next = min(begin + _PIECE_EVENTS, ring.last + 1)
        frames = [ring.frame(number) for number in range(begin, self._next) if self._wants(ring.event(number))]
        ring.metrics.events_sent += len(frames)
        return b"".join(frames)

    def _tell_missed(self, reason: str) -> bytes:
        return encode_missed(self._ring.id_of(self._next - 1), reason)

    def _wants(self, event: Event) -> bool:
        task = event.after if isinstance(event, TaskChanged) else event.task
        return (not self._guid or task.guid == self._guid) and (not self._domain or task.domain == self._domain)

    async def _wait(self, end: float) -> bool:
        """Wait for another event; False when none came until ``end``, the loop's time."""
        self._wake = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout_at(end):
                await self._wake
        except TimeoutError:
            return False
        finally:
            self._wake = None
        return True


def _weigh(event: Event) -> int:
    task = event.after if type(event) is TaskChanged else event.task  # type: ignore[union-attr]
    return _EVENT_BYTES + len(task.definition.encoded) + len(task.result)
