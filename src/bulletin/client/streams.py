"""One connection's events, as they come in."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Final, Self

import aiohttp

from bulletin.client.failures import StreamCut, StreamGarbled
from bulletin.core.errors import TaskError
from bulletin.wire.events import EventParser, RawEvent

__all__ = ["EventStream"]

#: A silent stream whose peer vanished is found out after the first of these plus count times the second.
_PROBE_AFTER_SECONDS: Final = 30
_PROBE_INTERVAL_SECONDS: Final = 10
_PROBE_COUNT: Final = 3


class EventStream:
    """The events of one connection. Ends with the server's orderly end; iterate it once.

    Args:
        answer: whose head has come.
        note_silence: called when the stream is cut because nothing came for too long.
    """

    def __init__(self, answer: aiohttp.ClientResponse, note_silence: Callable[[], None]) -> None:
        self._answer = answer
        self._note_silence = note_silence
        self._parser = EventParser()
        #: Where to go on after: the last id that came, once every event up to it was given out.
        self.last_event_id = ""
        _probe_when_silent(answer)

    @property
    def retry_ms(self) -> int | None:
        """How long the server wants to be left alone before the next connection, if it said so."""
        return self._parser.retry_ms

    async def __aiter__(self) -> AsyncIterator[RawEvent]:
        """Give the events.

        Raises:
            StreamCut: the connection broke, or was silent for too long.
            StreamGarbled: what came is no stream of events.
        """
        try:
            async for chunk in self._answer.content.iter_any():
                for event in self._parser.feed(chunk):
                    self.last_event_id = event.id
                    yield event
                self.last_event_id = self._parser.last_id
        except TimeoutError as error:
            self._note_silence()
            raise StreamCut("it was silent for too long") from error
        except (aiohttp.ClientError, OSError) as error:
            raise StreamCut(str(error) or type(error).__name__) from error
        except TaskError as error:
            raise StreamGarbled(error.message) from error

    def close(self) -> None:
        """Drop the connection. Idempotent."""
        self._answer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _probe_when_silent(answer: aiohttp.ClientResponse) -> None:
    """Ask the kernel to find out about a peer that vanished: the reference sends no heartbeat (board-api.md 11.1)."""
    connection = answer.connection
    transport = None if connection is None else connection.transport
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _PROBE_AFTER_SECONDS),
        ("TCP_KEEPINTVL", _PROBE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", _PROBE_COUNT),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
