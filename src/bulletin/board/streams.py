"""Streams of events (board-api.md section 11, docs/reference/api.md): sent until the client or the board leaves.

An end of ours is an orderly one, with the last chunk; a stream that broke is cut, so that the client comes again. A
stream that is quiet says so now and then in a comment: that is how a client that is gone is found.
"""

from __future__ import annotations

from typing import Final

import structlog
from aiohttp import web

from bulletin.board.answers import ChunkedAnswer
from bulletin.board.reign import Reign
from bulletin.wire.events import HEARTBEAT
from bulletin.wire.routes import Route

__all__ = ["HEARTBEAT_SECONDS", "serve_own_stream", "serve_stream"]

log = structlog.get_logger("bulletin.board.http")

HEARTBEAT_SECONDS: Final = 15.0

_HEADERS: Final = (
    b"Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache, no-store, must-revalidate\r\n"
)


async def serve_stream(route: Route, request: web.BaseRequest, reign: Reign) -> web.StreamResponse:
    """Send the events of a stream of the BBS's API."""
    answer = ChunkedAnswer(_HEADERS, stays=True)
    subscription = reign.hub.subscribe(route.form, answer.offer)
    try:
        await answer.prepare(request)
        while True:
            frames = subscription.take()
            if frames:
                await answer.send(frames)
            elif subscription.ended:
                break
            elif await subscription.follow(HEARTBEAT_SECONDS):
                await answer.send(HEARTBEAT)
            else:
                await answer.drain()
    except ConnectionError:
        log.info("stream.cut", route=route.name)
        answer.abort()
    finally:
        reign.hub.unsubscribe(subscription)
    return answer


async def serve_own_stream(request: web.BaseRequest, reign: Reign, *, guid: str, domain: str) -> web.StreamResponse:
    """Send the events of our own stream, from where the client was."""
    answer = ChunkedAnswer(_HEADERS, stays=True)
    ring = reign.hub.ring
    follower = ring.follow(request.headers.get("Last-Event-ID", ""), guid=guid, domain=domain)
    try:
        await answer.prepare(request)
        while (frames := await follower.frames(HEARTBEAT_SECONDS)) is not None:
            await answer.send(frames or follower.position)
    except ConnectionError:
        log.info("stream.cut", route="TaskEvents")
        answer.abort()
    finally:
        ring.unfollow(follower)
    return answer
