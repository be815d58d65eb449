"""Lifecycle events that go on over cuts, as the Go event source gives them (board-api.md 11.4)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Final

from bulletin.client.errors import BoardError, BoardUnreachable, refusal
from bulletin.client.transport import EventStream, StreamCut, StreamRefused, Transport
from bulletin.core.errors import TaskError
from bulletin.core.lifecycle import Event
from bulletin.wire.events import RawEvent, decode_event

__all__ = ["EVENTS_PATH", "RETRY_INTERVAL_SECONDS", "follow", "refused_stream", "subscribe", "understand"]

EVENTS_PATH: Final = "/v1/events/tasks.r1"
#: Before a connection is tried again, unless the server asks for another (board-api.md 11.4).
RETRY_INTERVAL_SECONDS: Final = 1.0
#: What a server may ask for at most.
_RETRY_INTERVAL_SECONDS_MAX: Final = 60.0
#: Connections that may fail in a row, after the first (board-api.md 11.4).
_RECONNECTS_MAX: Final = 3


_log = logging.getLogger("bulletin.client")


async def follow(transport: Transport) -> AsyncGenerator[Event, None]:
    """Task events from now on, over cuts; ends with the server's orderly end.

    What happens while a connection is cut is lost, there is no replay (board-api.md 11.1). An event that cannot be
    understood is logged and left out.

    Raises:
        BoardUnreachable: four connections failed in a row.
        Refused: the board answered with a status that will not change by waiting.
    """
    last_event_id, interval = "", RETRY_INTERVAL_SECONDS
    while True:
        stream = await subscribe(transport, last_event_id, interval)
        with stream:
            try:
                async for raw in stream:
                    event = understand(raw)
                    if event is not None:
                        yield event
            except StreamCut:
                last_event_id = stream.last_event_id
                if stream.retry_ms is not None:
                    interval = min(stream.retry_ms / 1000, _RETRY_INTERVAL_SECONDS_MAX)
            else:
                return
        await asyncio.sleep(interval)


async def subscribe(transport: Transport, last_event_id: str, interval_seconds: float) -> EventStream:
    """Open a stream as the Go event source does: three more tries for a dead address, for ever for a busy board.

    Raises:
        BoardUnreachable, Refused: as ``follow``.
    """
    failures = 0
    while True:
        try:
            return await transport.stream(EVENTS_PATH, last_event_id)
        except StreamRefused as error:
            if not error.is_temporary:
                raise refused_stream(transport.url, error) from error
        except BoardUnreachable:
            failures += 1
            if failures > _RECONNECTS_MAX:
                raise
        await asyncio.sleep(interval_seconds)


def understand(raw: RawEvent) -> Event | None:
    """The event, or None for one that cannot be read, such as a kind a newer board may have (board-api.md 11.4)."""
    try:
        return decode_event(raw)
    except TaskError as error:
        _log.warning("an event was left out: %s", error.message)
        return None


def refused_stream(url: str, error: StreamRefused) -> BoardError:
    """What a caller is told about a stream that will never come."""
    return refusal(0, f"bad response from event source: {error.status}", subject=url)
