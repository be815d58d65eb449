"""Lifecycle events that go on over cuts, as the Go event source gives them (board-api.md 11.4)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Final

from bulletin.client.boards import Patience
from bulletin.client.errors import BoardError, BoardUnreachable, refusal
from bulletin.client.failures import StreamCut, StreamRefused
from bulletin.client.streams import EventStream
from bulletin.client.transport import Transport
from bulletin.core.errors import TaskError
from bulletin.core.operations import Event
from bulletin.wire.events import RawEvent, decode_event

__all__ = ["EVENTS_PATH", "RETRY_INTERVAL_SECONDS", "follow", "refused_stream", "subscribe", "understand"]

EVENTS_PATH: Final = "/v1/events/tasks.r1"
#: Before a connection is tried again, unless the server asks for another (board-api.md 11.4).
RETRY_INTERVAL_SECONDS: Final = 1.0
#: What a server may ask for at most.
_RETRY_INTERVAL_SECONDS_MAX: Final = 60.0
#: Connections that may fail in a row: one, and three more (board-api.md 11.4).
_CONNECTIONS: Final = 4


_log = logging.getLogger("bulletin.client")


async def follow(transport: Transport) -> AsyncGenerator[Event, None]:
    """Task events from now on, over cuts; ends with the server's orderly end.

    What happens while a connection is cut is lost, there is no replay (board-api.md 11.1). An event that cannot be
    understood is logged and left out.

    Raises:
        BoardUnreachable: four connections failed in a row, and with several boards the failover time has passed.
        Refused: the board answered with a status that will not change by waiting.
    """
    last_event_id, interval = "", RETRY_INTERVAL_SECONDS
    while True:
        try:
            patience = transport.patience(_CONNECTIONS)
            stream = await subscribe(
                transport, EVENTS_PATH, patience, interval, last_event_id=last_event_id, bears_busy=True
            )
        except StreamRefused as error:
            raise refused_stream(transport.url, error) from error
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


async def subscribe(
    transport: Transport,
    path: str,
    patience: Patience,
    interval_seconds: float,
    *,
    method: str = "POST",
    last_event_id: str = "",
    bears_busy: bool = False,
) -> EventStream:
    """Open a stream, however many attempts that takes.

    Args:
        transport: to the boards.
        path: of the stream.
        patience: with boards that cannot be reached.
        interval_seconds: between attempts.
        method: of HTTP.
        last_event_id: for ``Last-Event-Id``.
        bears_busy: whether a board that answers 500, 502, 503 or 504 is asked again for ever, as the Go event source
            does; otherwise that is one more failed attempt.

    Raises:
        StreamRefused: the answer is one that will not change by waiting.
        BoardUnreachable: patience is spent.
        Forbidden: we may not listen.
    """
    while True:
        is_busy = False
        try:
            return await transport.stream(path, last_event_id, method=method)
        except StreamRefused as error:
            if not error.is_temporary:
                raise
            is_busy = bears_busy
            failure: BoardError = BoardUnreachable(transport.url, str(error))
        except BoardUnreachable as error:
            failure = error
        if not is_busy and patience.is_spent():
            raise failure
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
