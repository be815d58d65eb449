"""HTTP/1.1 connections for callbacks, kept for the next one: the small part of a client that callbacks need.

A callback is one small request whose answer matters by its status and, for a redirect, its Location. aiohttp's client
took a third of all that a completion with its callback costs, so its parser is used here without it (docs/adr, 13).

Rules. An answer is known when its header is; the body is thrown away within a bound, and a connection whose body does
not end within it is closed. A connection carries one request at a time, and is used again only when the whole answer
was read and nothing came after it. A used connection may be closed by its peer just when the next request is written:
when nothing of an answer has come, that request is sent once more, on a new connection. Every wait is the caller's to
bound: cancelling it closes the connection.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias, cast

from aiohttp import StreamReader, http, http_exceptions

from bulletin.board.dialling import Dialler
from bulletin.core import limits
from bulletin.core.callbacks import ConnectionClosed, Failure, Unreachable
from bulletin.wire.http1 import Origin

__all__ = ["Answer", "Pool"]

#: More than one read of a socket brings, so that the parser never asks to stop reading; bodies are not kept anyway.
_PARSER_BYTES: Final = 4 * 1024 * 1024
_SWITCHING: Final = 101
#: Turns of the loop until an aborted connection is gone; two or three are enough.
_CLOSING_TURNS_MAX: Final = 100
_BLANK_LINE: Final = b"\r\n\r\n"


class Answer(NamedTuple):
    """What matters of an answer."""

    status: int
    location: str | None


class _Stale(NamedTuple):
    """A used connection was closed before anything of an answer came."""


_Result: TypeAlias = Answer | Unreachable | _Stale


class _Connection(asyncio.Protocol):
    """One connection; it is in ``open_ones`` while it is open, and tells ``released`` when it can carry a request."""

    # What aiohttp's parser asks of the protocol its stream belongs to; see _PARSER_BYTES.
    connected = True
    _reading_paused = False

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        open_ones: set[_Connection],
        released: Callable[[_Connection], None],
    ) -> None:
        self.origin = origin
        #: When it was last released, by the loop's time.
        self.idle_since = 0.0
        self._loop = loop
        self._open_ones = open_ones
        self._released = released
        self._transport: asyncio.Transport | None = None
        self._parser: Any = http.HttpResponseParser(
            self,  # type: ignore[arg-type]  # it takes whatever can pause
            loop,
            _PARSER_BYTES,
            max_line_size=limits.HEADER_BYTES_MAX,
            max_field_size=limits.HEADER_BYTES_MAX,
            read_until_eof=True,
            auto_decompress=False,
        )
        self._waiter: asyncio.Future[_Result] | None = None
        self._body: StreamReader | None = None
        self._received_bytes = 0
        #: Of the header that is being received, what a blank line could begin with.
        self._last_bytes = b""
        self._is_used = False
        self._is_last = False
        self._drain_timer: asyncio.TimerHandle | None = None

    # -- for the pool --------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes) -> _Result:
        """Send ``request`` and wait for the header of its answer, however long that takes."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return _Stale() if self._is_used else Unreachable(Failure.RESET)
        assert self._waiter is None, "a connection carries one request at a time"
        self._received_bytes = 0
        self._last_bytes = b""
        self._waiter = self._loop.create_future()
        transport.write(request)
        try:
            return await self._waiter
        except asyncio.CancelledError:
            self.abort()
            raise

    def close(self) -> None:
        """Say farewell; for an idle connection."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    # -- for the transport ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of it
        self._open_ones.add(self)

    def data_received(self, data: bytes) -> None:
        if self._waiter is None and self._body is None:
            self.abort()  # Nobody asked for it, so it may not be taken for an answer of what is asked next.
            return
        self._received_bytes += len(data)
        begin = 0
        while begin < len(data):
            # Header and body are parsed apart, for a body that is wrong takes nothing from the header before it.
            end = self._find_header_end(data, begin) if self._waiter is not None else len(data)
            if not self._parse(data[begin:end]):
                self._settle(Unreachable(Failure.MALFORMED_ANSWER))
                self.abort()
                return
            begin = end
        if self._waiter is None:
            self._drain()
        elif self._received_bytes > limits.CALLBACK_HEADER_BYTES_MAX:
            self._settle(Unreachable(Failure.ANSWER_TOO_LARGE))
            self.abort()

    def eof_received(self) -> None:
        """The peer says no more; what was waited for does not come. The transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._open_ones.discard(self)
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        if self._is_used and not self._received_bytes:
            self._settle(_Stale())
        else:
            self._settle(Unreachable(Failure.TLS if isinstance(exc, ssl.SSLError) else Failure.RESET))

    def pause_reading(self) -> None:
        """Never needed: what is read is thrown away."""

    def resume_reading(self, *, resume_parser: bool = True) -> None:
        """See ``pause_reading``."""

    # -- answers -------------------------------------------------------------------------------------------------

    def _find_header_end(self, data: bytes, begin: int) -> int:
        """Behind the first blank line of ``data``, which may have begun before it; else the end of ``data``."""
        seen = self._last_bytes + data[begin:]
        blank = seen.find(_BLANK_LINE)
        if blank < 0:
            self._last_bytes = seen[-len(_BLANK_LINE) + 1 :]
            return len(data)
        end = begin + blank + len(_BLANK_LINE) - len(self._last_bytes)
        self._last_bytes = b""
        return end

    def _parse(self, data: bytes) -> bool:
        """Take what is in ``data``; False: it is not HTTP."""
        try:
            messages, _, rest = self._parser.feed_data(data)
        except http_exceptions.HttpProcessingError:
            return False
        for message, body in messages:
            self._take(message, body)
        if rest:
            self._is_last = True
        return True

    def _take(self, message: Any, body: StreamReader) -> None:  # noqa: ANN401 - the parser's type is not exported
        status: int = message.code
        if 100 <= status < 200 and status != _SWITCHING:
            return  # An interim answer; the real one follows.
        if self._waiter is None:
            self._is_last = True  # An answer to nothing.
            return
        self._is_last = message.should_close or status == _SWITCHING
        self._body = body
        self._settle(Answer(status, message.headers.get("Location")))

    def _settle(self, result: _Result) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(result)

    def _drain(self) -> None:
        """Throw away what has come of the body; use the connection again once all of it has."""
        body = self._body
        assert body is not None
        if body.exception() is not None:
            self.abort()
            return
        body.read_nowait()
        if body.is_eof():
            self._body = None
            if self._drain_timer is not None:
                self._drain_timer.cancel()
                self._drain_timer = None
            self._end()
        elif self._received_bytes > limits.CALLBACK_RESPONSE_BYTES_MAX:
            self.abort()
        elif self._drain_timer is None:
            self._drain_timer = self._loop.call_later(limits.CALLBACK_DRAIN_SECONDS_MAX, self.abort)

    def _end(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size():
            self.abort()  # It answered before it had the whole request, and the rest would precede the next one.
        elif self._is_last:
            self.close()
        else:
            self._is_used = True
            self._released(self)


class Pool:
    """Connections to any number of origins; the idle ones are bounded in number and in time. For one event loop."""

    def __init__(self, dialler: Dialler) -> None:
        self._loop = asyncio.get_running_loop()
        self._dialler = dialler
        self._open: set[_Connection] = set()
        #: Those released last at the end, and taken first: the rest grow old.
        self._idle: dict[Origin, deque[_Connection]] = {}
        self._idle_count = 0
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def exchange(self, origin: Origin, request: bytes) -> Answer | Unreachable | ConnectionClosed:
        """Send ``request`` to ``origin`` and wait for the header of its answer; the caller bounds the wait."""
        connection = self._take(origin)
        result: _Result = _Stale() if connection is None else await connection.exchange(request)
        if isinstance(result, _Stale) and not self._is_closed:
            made = await self._dialler.dial(origin, lambda: _Connection(self._loop, origin, self._open, self._put))
            if isinstance(made, Failure):
                return Unreachable(made)
            result = await made.exchange(request)
        if self._is_closed and not isinstance(result, Answer):
            return ConnectionClosed()
        assert not isinstance(result, _Stale), "a new connection was not used before"
        return result

    async def close(self) -> None:
        """Close every connection; what is under way on one fails, and who dials meanwhile is to be ended first.

        None is left to the end of the loop: uvloop's would wait for the farewell of a TLS connection for ever.
        """
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._idle.clear()
        self._idle_count = 0
        for connection in list(self._open):
            connection.abort()
        for _ in range(_CLOSING_TURNS_MAX):
            if not self._open:
                return
            await asyncio.sleep(0)

    def _take(self, origin: Origin) -> _Connection | None:
        connections = self._idle.get(origin)
        while connections:
            connection = connections.pop()
            self._idle_count -= 1
            if connection.is_open:
                return connection
        return None

    def _put(self, connection: _Connection) -> None:
        connections = self._idle.get(connection.origin)
        if (
            self._is_closed
            or self._idle_count >= limits.CALLBACK_IDLE_CONNECTIONS_MAX
            or (connections is not None and len(connections) >= limits.CALLBACK_ORIGIN_IDLE_CONNECTIONS_MAX)
        ):
            connection.close()
            return
        if connections is None:
            connections = self._idle[connection.origin] = deque()
        connection.idle_since = self._loop.time()
        connections.append(connection)
        self._idle_count += 1
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(limits.CALLBACK_IDLE_SECONDS_MAX / 4, self._sweep)

    def _sweep(self) -> None:
        """Close what was idle for too long; forget origins without connections."""
        self._sweeper = None
        old = self._loop.time() - limits.CALLBACK_IDLE_SECONDS_MAX
        for origin, connections in list(self._idle.items()):
            while connections and (connections[0].idle_since < old or not connections[0].is_open):
                connections.popleft().close()
                self._idle_count -= 1
            if not connections:
                del self._idle[origin]
        if self._idle:
            self._sweeper = self._loop.call_later(limits.CALLBACK_IDLE_SECONDS_MAX / 4, self._sweep)
