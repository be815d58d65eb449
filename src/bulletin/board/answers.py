"""Answers that write themselves: whole ones in one go, long ones in chunks.

An answer of the API is a few headers and bytes that are already there. aiohttp's ``Response`` prepares for much more
(streaming, compression, cookies) and that costs as much as everything the board itself does for a read; so our
answers write themselves, head included, byte for byte as board-api.md 1.3 and 11.1 have it. WebSockets use aiohttp's
own response.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from aiohttp import HttpVersion11, web

__all__ = ["JSON", "PROTOBUF", "WRITE_SECONDS_MAX", "ChunkedAnswer", "WholeAnswer", "text_answer"]

PROTOBUF: Final = b"application/x-protobuf"
JSON: Final = b"application/json"
#: A client that does not read what it asked for is cut off.
WRITE_SECONDS_MAX: Final = 30.0
#: What may stand in a connection's buffer before its writer waits; where the transport itself says stop.
_BUFFERED_BYTES_MAX: Final = 64 * 1024
_STATUS_LINES: Final = {
    200: b"HTTP/1.1 200 OK",
    400: b"HTTP/1.1 400 Bad Request",
    403: b"HTTP/1.1 403 Forbidden",
    404: b"HTTP/1.1 404 Not Found",
    405: b"HTTP/1.1 405 Method Not Allowed",
    500: b"HTTP/1.1 500 Internal Server Error",
    501: b"HTTP/1.1 501 Not Implemented",
    503: b"HTTP/1.1 503 Service Unavailable",
}
_CLOSE: Final = b"Connection: close\r\n"
_STAYS: Final = b"Connection: keep-alive\r\n"


class _Date:
    """The Date header's line, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._line = b"Date: " + formatdate(now, usegmt=True).encode("ascii") + b"\r\n"
        return self._line


_date: Final = _Date()


class _Answer(web.StreamResponse):
    """What aiohttp's server asks of a response: ``prepare``, ``write_eof``, ``keep_alive`` and ``status``."""

    #: How it went, for metrics: the type of the error it carries, ``http_404`` where the status says it, or ``cut``.
    result = "ok"

    def __init__(self, status: int, *, close: bool) -> None:
        # aiohttp's own __init__ is left out on purpose: of a response its server uses only these members.
        self._code = status
        self._ends = close
        self._to: web.BaseRequest | None = None

    @property
    def status(self) -> int:
        """The HTTP status, for logs and metrics."""
        return self._code

    @property
    def keep_alive(self) -> bool:
        """Whether the connection can be used again."""
        return not self._ends

    async def prepare(self, request: web.BaseRequest) -> None:
        """Remember whom to answer."""
        self._to = request
        self._ends = self._ends or not request.keep_alive

    def _transport(self) -> asyncio.Transport:
        assert self._to is not None, "prepare comes first"
        transport = self._to.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        return transport

    async def _drain(self, transport: asyncio.Transport) -> None:
        """Let the client read, when much waits for it.

        Raises:
            ConnectionError: it is gone, or does not read.
        """
        if transport.get_write_buffer_size() > _BUFFERED_BYTES_MAX:
            assert self._to is not None
            try:
                async with asyncio.timeout(WRITE_SECONDS_MAX):
                    await self._to.writer.drain()
            except TimeoutError as error:
                raise ConnectionResetError("the client does not read") from error


@lru_cache(maxsize=64)
def _head(status: int, content_type: bytes, headers: bytes) -> bytes:
    """What the heads of many answers have in common."""
    kind = b"Content-Type: %b\r\n" % content_type if content_type else b""
    return b"%b\r\n%b%b" % (_STATUS_LINES[status], kind, headers)


class WholeAnswer(_Answer):
    """An answer with a body of known length.

    Args:
        body: what follows the head.
        content_type: the value of Content-Type; empty: no such header.
        status: one of ``_STATUS_LINES``.
        headers: more header lines, each with its end.
        close: say that the connection ends after this answer, and end it.
    """

    def __init__(
        self,
        body: bytes,
        content_type: bytes = PROTOBUF,
        *,
        status: int = 200,
        headers: bytes = b"",
        close: bool = False,
    ) -> None:
        # Not by way of the parent: there is one of these for each call.
        self._code = status
        self._ends = close
        self._to = None
        self._content = body
        if status >= 400:
            self.result = f"http_{status}"
        self._head = _head(status, content_type, headers)

    async def write_eof(self, data: bytes = b"") -> None:
        """Write head and body at once.

        Raises:
            ConnectionError: the client is gone, or does not read.
        """
        assert not data, "the body is known from the start"
        request = self._to
        assert request is not None, "prepare comes first"
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        content = b"" if request.method == "HEAD" else self._content
        transport.write(
            b"%bContent-Length: %d\r\n%b%b\r\n%b"
            % (self._head, len(self._content), _date.line(), _CLOSE if self._ends else b"", content)
        )
        if transport.get_write_buffer_size() > _BUFFERED_BYTES_MAX:
            await self._drain(transport)


class ChunkedAnswer(_Answer):
    """A 200 whose length is not known when it begins: a listing or a stream of events.

    An answer without its last chunk must not look whole, so whoever cannot finish it calls ``abort``. A client of
    HTTP/1.0 knows no chunks; to it the end of the connection is the end.

    Args:
        headers: all header lines that are its own, each with its end.
        stays: say that the connection stays open for long; it ends with the answer.
    """

    def __init__(self, headers: bytes, *, stays: bool = False) -> None:
        super().__init__(200, close=stays)
        self._lines = headers
        self._stays = stays
        self._chunked = True
        self._begun = self._ended = False

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write the head, the first time.

        Raises:
            ConnectionError: the client is gone.
        """
        if self._begun:
            return
        self._begun = True
        await super().prepare(request)
        self._chunked = request.version >= HttpVersion11
        if not self._chunked:
            self._ends = True
        lines = [_STATUS_LINES[200], b"\r\n", self._lines]
        if not self._chunked:
            lines.append(_CLOSE)
        else:
            lines += [_STAYS if self._stays else b"", b"Transfer-Encoding: chunked\r\n"]
        self._transport().write(b"".join([*lines, _date.line(), b"\r\n"]))

    def offer(self, data: bytes) -> bool:
        """Write ``data``, not empty, without waiting; False when the client is gone or has much to read already."""
        assert self._to is not None, "prepare comes first"
        transport = self._to.transport
        if transport is None or transport.is_closing():
            return False
        # A short copy costs less than three buffers in one call; a long one is what a listing makes anyway.
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        return transport.get_write_buffer_size() <= _BUFFERED_BYTES_MAX

    async def send(self, data: bytes) -> None:
        """Write ``data``, not empty, and let the client read.

        Raises:
            ConnectionError: it is gone, or does not read.
        """
        if not self.offer(data):
            await self.drain()

    async def drain(self) -> None:
        """Let the client read, when much waits for it.

        Raises:
            ConnectionError: it is gone, or does not read.
        """
        await self._drain(self._transport())

    async def write_eof(self, data: bytes = b"") -> None:
        """Write the last chunk, once; nothing when the client is gone."""
        assert not data
        if self._ended or self._to is None:
            return
        self._ended = True
        transport = self._to.transport
        if self._chunked and transport is not None and not transport.is_closing():
            transport.write(b"0\r\n\r\n")

    def abort(self) -> None:
        """Cut the connection without the last chunk."""
        self._ended = self._ends = True
        self.result = "cut"
        if self._to is not None and self._to.transport is not None:
            self._to.transport.close()


def text_answer(status: int, text: str, headers: bytes = b"") -> WholeAnswer:
    """A refusal in plain text, as Go's library words it (board-api.md 1.3)."""
    return WholeAnswer(
        text.encode(),
        b"text/plain; charset=utf-8",
        status=status,
        headers=b"X-Content-Type-Options: nosniff\r\n" + headers,
    )
