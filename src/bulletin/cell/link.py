"""The cell's end of the link: frames out without a detour, frames in one by one (design section 4, "the link").

``Link.send`` writes in the caller's own turn of the loop, which saves every task the two turns a queue and a sender
would cost. Only when the board does not read fast enough do frames wait, in order and bounded.
"""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, cast

import structlog
from aiohttp import ClientWebSocketResponse, WSMsgType

from bulletin.core.limits import LINK_WAITING_BYTES_MAX
from bulletin.wire import link as wire_link
from bulletin.wire.proto import link_pb2

__all__ = ["Link"]

log = structlog.get_logger("bulletin.cell.link")


class Link:
    """One WebSocket to the board, from its handshake until it is closed or broken."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._flusher: asyncio.Task[None] | None = None
        self._closer: asyncio.Task[None] | None = None

    def send(self, frame: bytes) -> None:
        """Send a frame; on a broken link it is lost, and ``frames`` ends."""
        if self._closer is not None:
            return
        if self._flusher is not None:
            self._waiting.append(frame)
            self._waiting_bytes += len(frame)
            if self._waiting_bytes > LINK_WAITING_BYTES_MAX:
                log.warning("link.congested", waiting_bytes=self._waiting_bytes)
                self.cut()
            return
        sending = self._socket.send_bytes(frame)
        try:
            awaited = sending.send(None)
        except StopIteration:
            return
        except ConnectionError as error:
            log.info("link.broken", error=str(error))
            self.cut()
            return
        # The frame is in the socket's buffer and that is full: the rest of the sending, and what follows, needs a task.
        self._flusher = asyncio.create_task(self._flush(_go_on(sending, awaited)))

    def cut(self) -> None:
        """Close the link from a place that cannot wait; ``frames`` ends. Idempotent."""
        if self._closer is None:
            self._closer = asyncio.create_task(self._close())

    async def close(self) -> None:
        """Close the link and wait until it is."""
        self.cut()
        assert self._closer is not None
        await asyncio.wait([self._closer])

    async def frames(self) -> AsyncGenerator[link_pb2.Frame, None]:
        """What the board says, until the link ends.

        Raises:
            TaskError: it says something no board of ours says.
        """
        async for message in self._socket:
            if message.type is not WSMsgType.BINARY:
                log.warning("link.broken", type=message.type.name, error=str(message.data))
                break
            yield wire_link.decode_frame(message.data)

    async def _close(self) -> None:
        if self._flusher is not None:
            self._flusher.cancel()
            await asyncio.wait([self._flusher])
        await self._socket.close()

    async def _flush(self, sending: Generator[Any, Any, None]) -> None:
        try:
            await cast("Coroutine[Any, Any, None]", sending)
            while self._waiting:
                frame = self._waiting.popleft()
                self._waiting_bytes -= len(frame)
                await self._socket.send_bytes(frame)
        except ConnectionError as error:
            log.info("link.broken", error=str(error))
            self.cut()
        finally:
            self._flusher = None


@types.coroutine
def _go_on(coroutine: Coroutine[Any, Any, None], awaited: object) -> Generator[Any, Any, None]:
    """Go on, in a task, with a coroutine whose first turn was taken outside of one and ended with ``awaited``."""
    try:
        while True:
            try:
                answer = yield awaited
            except BaseException as error:  # noqa: BLE001 - it belongs to the coroutine, cancellation included
                awaited = coroutine.throw(error)
            else:
                awaited = coroutine.send(answer)
    except StopIteration:
        return
