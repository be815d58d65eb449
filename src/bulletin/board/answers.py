"""Whole answers, written in one go.

An answer of the API is a few headers and bytes that are already there. aiohttp's ``Response`` prepares for much more
(streaming, compression, cookies) and that costs as much as everything the board itself does for a read; so the usual
answer writes itself. Everything else uses aiohttp's own responses.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import Final

from aiohttp import web

__all__ = ["JSON", "PROTOBUF", "WRITE_SECONDS_MAX", "WholeAnswer"]

PROTOBUF: Final = b"application/x-protobuf"
JSON: Final = b"application/json"
#: A client that does not read what it asked for is cut off.
WRITE_SECONDS_MAX: Final = 30.0
#: What may stand in a connection's buffer before its next request is looked at.
_BUFFERED_BYTES_MAX: Final = 64 * 1024


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


class WholeAnswer(web.StreamResponse):
    """A 200 with a body of known length.

    Args:
        body: what follows the head.
        content_type: the value of Content-Type.
        close: say that the connection ends after this answer, and end it.
    """

    def __init__(self, body: bytes, content_type: bytes = PROTOBUF, *, close: bool = False) -> None:
        # aiohttp's own __init__ is left out on purpose: of a response its server uses only the three members below.
        self._content = body
        self._type = content_type
        self._ends = close
        self._to: web.BaseRequest | None = None

    @property
    def keep_alive(self) -> bool:
        """Whether the connection can be used again."""
        return not self._ends

    async def prepare(self, request: web.BaseRequest) -> None:
        """Remember whom to answer; everything is written at the end."""
        self._to = request
        self._ends = self._ends or not request.keep_alive

    async def write_eof(self, data: bytes = b"") -> None:
        """Write head and body at once.

        Raises:
            ConnectionError: the client is gone, or does not read.
        """
        assert self._to is not None, "prepare comes first"
        assert not data
        transport = self._to.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        content = b"" if self._to.method == "HEAD" else self._content
        transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b%b\r\n%b"
            % (self._type, len(self._content), _date.line(), b"Connection: close\r\n" if self._ends else b"", content)
        )
        if transport.get_write_buffer_size() > _BUFFERED_BYTES_MAX:
            try:
                async with asyncio.timeout(WRITE_SECONDS_MAX):
                    await self._to.writer.drain()
            except TimeoutError as error:
                raise ConnectionResetError("the client does not read") from error
