"""Task events without silent loss: over cuts, restarts and takeovers, each from where the last connection was.

A board of Bulletin has a stream of its own that can be resumed (docs/reference/api.md); any other board has the BBS's,
which cannot (board-api.md 11.1). What is lost is told: as ``Missed``, in its place among the events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final
from urllib.parse import urlencode

from bulletin.client.boards import Patience
from bulletin.client.failures import StreamCut, StreamGarbled, StreamRefused
from bulletin.client.streams import EventStream
from bulletin.client.subscriptions import EVENTS_PATH, refused_stream, subscribe
from bulletin.client.transport import RETRY_DELAY_SECONDS, Transport
from bulletin.client.values import Followed
from bulletin.core.errors import TaskError
from bulletin.core.operations import Event, TaskChanged
from bulletin.wire.events import RawEvent, decode_event
from bulletin.wire.ownevents import Missed, decode_own_event

__all__ = ["OWN_EVENTS_PATH", "Following"]

OWN_EVENTS_PATH: Final = "/v1/task_events"
#: What a board says that does not have a stream of its own.
_NO_SUCH_STREAM: Final = frozenset({404, 405})
_CUT_UNRESUMABLE: Final = "the connection was cut, and this board cannot say what happened meanwhile"
_CUT_EARLY: Final = "the connection was cut before the board had said where it was"


class Following:
    """One subscriber that goes on for as long as it is iterated.

    Args:
        transport: to the boards.
        reconnect_seconds: how long to bear that none can be reached.
        guid: only events of this task.
        domain: only events of tasks of this domain.
        after: the position of the last event that is known; empty begins with what happens from now on.
    """

    def __init__(self, transport: Transport, reconnect_seconds: float, *, guid: str, domain: str, after: str) -> None:
        self._transport = transport
        self._reconnect_seconds = reconnect_seconds
        self._guid = guid
        self._domain = domain
        self._position = after
        #: What to tell once a stream stands; empty for nothing.
        self._missed = ""
        #: The board has the stream that can be resumed, as far as is known.
        self._is_resumable = True

    async def events(self) -> AsyncGenerator[Followed, None]:
        """Give the events, and what was missed.

        Raises:
            BoardUnreachable: no board answered for too long.
            Refused: the answer is one that will not change by waiting.
        """
        patience = self._transport.patience()
        while True:
            stream = await self._connect(patience)
            with stream:
                if self._missed:
                    yield Followed(self._position, Missed(self._missed))
                    self._missed = ""
                try:
                    async for raw in stream:
                        told = self._understand(raw)
                        if told is not None:
                            yield Followed(raw.id if self._is_resumable else "", told)
                except StreamGarbled as error:
                    self._position, self._missed = "", f"the stream could not be read: {error}"
                except StreamCut:
                    self._note_end(stream)
                else:
                    # An orderly end is the board's, not ours: it stops, or we read too slowly.
                    self._note_end(stream)
            await asyncio.sleep(RETRY_DELAY_SECONDS)
            patience = Patience(1, self._reconnect_seconds)

    def _note_end(self, stream: EventStream) -> None:
        if not self._is_resumable:
            self._missed = _CUT_UNRESUMABLE
            return
        self._position = stream.last_event_id or self._position
        if not self._position:
            self._missed = _CUT_EARLY

    async def _connect(self, patience: Patience) -> EventStream:
        try:
            if self._is_resumable:
                wanted = {"guid": self._guid, "domain": self._domain}
                query = urlencode({name: value for name, value in wanted.items() if value})
                path = f"{OWN_EVENTS_PATH}?{query}" if query else OWN_EVENTS_PATH
                try:
                    return await self._subscribe(path, patience, "GET", self._position)
                except StreamRefused as error:
                    if error.status not in _NO_SUCH_STREAM:
                        raise
                self._is_resumable = False
                self._missed = _CUT_UNRESUMABLE if self._position else ""
                self._position = ""
            return await self._subscribe(EVENTS_PATH, patience, "POST", "")
        except StreamRefused as error:
            raise refused_stream(self._transport.url, error) from error

    async def _subscribe(self, path: str, patience: Patience, method: str, last_event_id: str) -> EventStream:
        return await subscribe(
            self._transport, path, patience, RETRY_DELAY_SECONDS, method=method, last_event_id=last_event_id
        )

    def _understand(self, raw: RawEvent) -> Event | Missed | None:
        """What ``raw`` tells; None when it is about another task."""
        try:
            told = decode_own_event(raw) if self._is_resumable else decode_event(raw)
        except TaskError as error:
            return Missed(error.message)
        if isinstance(told, Missed):
            return told
        task = told.after if isinstance(told, TaskChanged) else told.task
        # The board has looked already, unless it is one that cannot.
        is_wanted = self._guid in ("", task.guid) and self._domain in ("", task.domain)
        return told if is_wanted else None
