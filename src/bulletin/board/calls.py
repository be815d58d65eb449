"""One call: a message in, a message out, in protobuf or JSON (board-api.md 1.2, 1.3).

A body over the bound, or one that comes too slowly, is answered and the connection closed. Compressed bodies are not
unpacked. A listing is sent as it is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import Final

import structlog
from aiohttp import web

from bulletin.board.answers import JSON, PROTOBUF, ChunkedAnswer, WholeAnswer
from bulletin.board.auth import Forbidden, Guard
from bulletin.board.handlers import HANDLERS
from bulletin.board.reign import Reign
from bulletin.core import limits
from bulletin.core.errors import Blame, ErrorType, TaskError, bad_request
from bulletin.wire import codec
from bulletin.wire.routes import Route
from bulletin.wire.tasks import error_response, tasks_response

__all__ = ["refuse_call", "serve_call"]

log = structlog.get_logger("bulletin.board.http")

#: Tasks of a listing made between two turns of the loop; a listing of no more is sent whole, with its length.
_PIECE_TASKS: Final = 200
#: The same as JSON, which takes some ten times longer a task.
_PIECE_TASKS_JSON: Final = 20


async def serve_call(route: Route, guard: Guard | None, request: web.BaseRequest, reign: Reign) -> web.StreamResponse:
    """Answer a call, refusals included; ``guard`` checks what the caller may do beyond the route's roles."""
    content_type = request.headers.get("Content-Type", "")
    is_json = _asks_for_json(route, request, content_type)
    status, close, result = 200, False, "ok"
    try:
        body = await _read_body(request, route)
        message = codec.decode_request(route, body, content_type) if route.request is not None else None
        if guard is not None:
            guard(request, message, reign)
        answer = await HANDLERS[route.handler](reign, message, route.form)
        if not isinstance(answer, bytes):
            return await _send_tasks(request, answer, is_json=is_json)
    except _Unread as unread:
        status, close, result = route.error_status, True, unread.error.type.name.lower()
        answer = _encode_refusal(route, unread.error)
    except Forbidden as error:
        status = 403
        answer = _encode_refusal(route, error)
    except TaskError as error:
        if error.blame is not Blame.CALLER:
            log.warning("request.failed", route=route.name, error=error.message)
        status, result = route.error_status, error.type.name.lower()
        answer = _encode_refusal(route, error)
    whole = _make_answer(route, answer, is_json=is_json, status=status, close=close)
    if result != "ok":
        whole.result = result
    return whole


def refuse_call(route: Route, request: web.BaseRequest, error: TaskError, status: int) -> web.StreamResponse:
    """The answer that carries ``error``, in the form the request asks for, before its body was read."""
    is_json = _asks_for_json(route, request, request.headers.get("Content-Type", ""))
    return _make_answer(route, _encode_refusal(route, error), is_json=is_json, status=status)


def _make_answer(route: Route, answer: bytes, *, is_json: bool, status: int = 200, close: bool = False) -> WholeAnswer:
    if is_json:
        return WholeAnswer(codec.transcode(route, answer, codec.JSON), JSON, status=status, close=close)
    return WholeAnswer(answer, PROTOBUF, status=status, close=close)


def _asks_for_json(route: Route, request: web.BaseRequest, content_type: str) -> bool:
    """Who sends JSON is answered in JSON; where nothing is sent, ``Accept`` can ask for it."""
    if content_type == codec.PROTOBUF:
        return False  # nearly always
    return codec.is_json(content_type) or (
        route.request is None and codec.accepts_json(request.headers.get("Accept", ""))
    )


def _encode_refusal(route: Route, error: TaskError) -> bytes:
    return error_response(route, error).SerializeToString()


class _Unread(Exception):
    """The body was not read to its end; carries what to answer before the connection is closed."""

    def __init__(self, error: TaskError) -> None:
        super().__init__(error.message)
        self.error = error


def _too_large() -> TaskError:
    return TaskError(ErrorType.INVALID_REQUEST, f"the request's body is over {limits.REQUEST_BYTES_MAX} bytes")


async def _read_body(request: web.BaseRequest, route: Route) -> bytes:
    """The body, within its bounds in size and time.

    Raises:
        _Unread: it was not read to its end; the connection cannot be used again.
    """
    if not route.reads_body or not request.can_read_body:
        return b""
    length = request.content_length
    if length is not None and length > limits.REQUEST_BYTES_MAX:
        raise _Unread(_too_large())
    if length is not None and request.content.is_eof():
        return request.content.read_nowait()
    try:
        async with asyncio.timeout(limits.REQUEST_READ_SECONDS_MAX):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise _Unread(_too_large()) from error
    except TimeoutError as error:
        text = f"the request's body did not arrive within {limits.REQUEST_READ_SECONDS_MAX:g} seconds"
        raise _Unread(TaskError(ErrorType.INVALID_REQUEST, text)) from error
    except web.RequestPayloadError as error:
        raise _Unread(bad_request()) from error


async def _send_tasks(request: web.BaseRequest, tasks: Iterator[bytes], *, is_json: bool) -> web.StreamResponse:
    """Send a listing as it is made, so that a long one starts at once and never stands whole in memory."""
    pieces = codec.tasks_as_json(tasks) if is_json else tasks_response(tasks)
    kind = JSON if is_json else PROTOBUF
    count = _PIECE_TASKS_JSON if is_json else _PIECE_TASKS
    part = b"".join(islice(pieces, count))
    following = b"".join(islice(pieces, count))
    if not following:
        return WholeAnswer(part, kind)
    response = ChunkedAnswer(b"Content-Type: %b\r\n" % kind)
    try:
        await response.prepare(request)
        while part:
            await response.send(part)
            # A reader on a fast network never makes the writer wait, and the others want their turn.
            await asyncio.sleep(0)
            part, following = following, b"".join(islice(pieces, count))
    except (ConnectionError, TaskError):
        response.abort()
    return response
