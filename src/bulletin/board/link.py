"""A cell's link as a WebSocket: bytes to frames, frames to ``Cells``, and back.

The link ends when either side closes it, a heartbeat goes unanswered, a frame makes no sense, or the cell does not
read. Frames are handled side by side, so that one commit carries what many containers say at once.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from aiohttp import WSMsgType, web

from bulletin.board.answers import text_answer
from bulletin.board.auth import Peer, check_cell
from bulletin.board.cells import Cells, LinkRefused, Outbox
from bulletin.board.reign import Reign
from bulletin.core import limits
from bulletin.core.errors import TaskError
from bulletin.wire import link as wire_link
from bulletin.wire.proto import link_pb2

__all__ = ["serve_link"]

log = structlog.get_logger("bulletin.board.link")

_HELLO_SECONDS_MAX: Final = 10.0
_SEND_SECONDS_MAX: Final = 30.0
#: Frames of one cell under way at once; more wait in the socket.
_FRAMES_MAX: Final = 1000


async def serve_link(
    request: web.BaseRequest, reign: Reign, peer: Peer, heartbeat_seconds: float
) -> web.StreamResponse:
    """Serve one cell, whose certificate says that it is ``peer``, until the link ends."""
    socket = web.WebSocketResponse(
        heartbeat=heartbeat_seconds, max_msg_size=limits.LINK_FRAME_BYTES_MAX, compress=False
    )
    if not socket.can_prepare(request).ok:
        return text_answer(400, "this path speaks WebSocket, to cells\n")
    await socket.prepare(request)
    try:
        async with asyncio.timeout(_HELLO_SECONDS_MAX):
            first = await socket.receive()
        if first.type is not WSMsgType.BINARY:
            return socket
        hello = _hello(first.data)
        check_cell(peer, hello.presence.cell_id)
        cell_id, outbox = reign.cells.connect(hello)
    except (LinkRefused, TaskError) as error:
        log.warning("link.refused", reason=str(error), remote=request.remote)
        await socket.send_bytes(wire_link.refused(str(error)))
        await socket.close()
        return socket
    except TimeoutError:
        await socket.close()
        return socket
    await _serve(socket, reign.cells, cell_id, outbox)
    return socket


def _hello(data: bytes) -> link_pb2.Hello:
    frame = wire_link.decode_frame(data)
    if frame.WhichOneof("body") != "hello":
        raise LinkRefused("the first frame has to be Hello")
    hello: link_pb2.Hello = frame.hello
    return hello


async def _serve(socket: web.WebSocketResponse, cells: Cells, cell_id: str, outbox: Outbox) -> None:
    sender = asyncio.create_task(_send(socket, outbox))
    room = asyncio.Semaphore(_FRAMES_MAX)
    handling: set[asyncio.Task[None]] = set()

    async def handle(frame: link_pb2.Frame) -> None:
        try:
            await cells.handle(cell_id, outbox, frame)
        except LinkRefused as error:
            log.warning("link.nonsense", cell_id=cell_id, reason=str(error))
            outbox.close()
        finally:
            room.release()

    try:
        async for message in socket:
            if message.type is not WSMsgType.BINARY:
                break
            frame = wire_link.decode_frame(message.data)
            await room.acquire()
            task = asyncio.create_task(handle(frame))
            handling.add(task)
            task.add_done_callback(handling.discard)
    except TaskError as error:
        log.warning("link.nonsense", cell_id=cell_id, reason=str(error))
    finally:
        cells.disconnect(cell_id, outbox)
        await asyncio.gather(sender, *handling, return_exceptions=True)
        await socket.close()


async def _send(socket: web.WebSocketResponse, outbox: Outbox) -> None:
    """Send what the outbox holds; when it is closed, or the cell does not read, the link ends."""
    try:
        while (frame := await outbox.take()) is not None:
            async with asyncio.timeout(_SEND_SECONDS_MAX):
                await socket.send_bytes(frame)
    except (ConnectionError, TimeoutError):
        log.info("link.cut")
    finally:
        await socket.close()
