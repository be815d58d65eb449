"""HTTP in and out: finds the route, reads the body within bounds, calls the handler, writes its answer.

Rules of board-api.md section 1: a handled call is 200 with a protobuf answer, refusals included; unknown paths are
404, wrong methods 405, a board that does not rule (yet) 503. A body over the bound, or one that comes too slowly, is
answered and the connection closed. Compressed bodies are not unpacked. On plain HTTP a request that a browser sent
from another site's page is refused: whoever can desire a task is root in a container.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import islice
from typing import Final
from urllib.parse import unquote, urlsplit

import structlog
from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage

from bulletin.board.answers import JSON, PROTOBUF, WRITE_SECONDS_MAX, WholeAnswer
from bulletin.board.handlers import HANDLERS
from bulletin.board.link import serve_link
from bulletin.board.reign import Reign
from bulletin.board.settings import BoardSettings
from bulletin.core import limits
from bulletin.core.errors import Blame, ErrorType, TaskError, bad_request
from bulletin.store.api import StoreError
from bulletin.wire import codec, routes
from bulletin.wire.events import HEARTBEAT
from bulletin.wire.proto import link_pb2
from bulletin.wire.routes import Route
from bulletin.wire.tasks import error_response, tasks_response

__all__ = ["Http", "make_request"]

log = structlog.get_logger("bulletin.board.http")

_LINK_PATH: Final = "/v1/link"
_OUTPUT_PREFIX: Final = "/v1/tasks/"
_OUTPUT_SUFFIX: Final = "/output"
#: Tasks of a listing made between two turns of the loop; a listing of no more is sent whole, with its length.
_PIECE_TASKS: Final = 200
#: The same as JSON, which takes a hundred times longer a task.
_PIECE_TASKS_JSON: Final = 10
_HEARTBEAT_SECONDS: Final = 15.0

_STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Connection": "keep-alive",
}
_TEXT_HEADERS: Final = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}


Endpoint = Callable[[web.BaseRequest, Reign], Awaitable[web.StreamResponse]]


class Http:
    """The board's HTTP face. ``reign`` is None while the board does not rule."""

    def __init__(self, settings: BoardSettings) -> None:
        self._settings = settings
        self.reign: Reign | None = None
        self._endpoints: dict[str, dict[str, Endpoint]] = {_LINK_PATH: {"GET": self._link}}
        for route in (*routes.ROUTES, *routes.PHASE2_ROUTES):
            serve = self._stream if route.stream else self._call
            self._endpoints.setdefault(route.path, {})[route.method] = partial(serve, route)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        path = request.raw_path.partition("?")[0]
        methods = self._endpoints.get(path) or self._pattern(path)
        if methods is None:
            return web.Response(status=404, body=b"404 page not found\n", headers=_TEXT_HEADERS)
        endpoint = methods.get(request.method)
        if endpoint is None:
            allow = {"Allow": ", ".join(sorted(methods)), **_TEXT_HEADERS}
            return web.Response(status=405, body=b"Method Not Allowed\n", headers=allow)
        if "Origin" in request.headers and not _same_origin(request):
            return web.Response(status=403, body=b"cross-origin requests are refused\n", headers=_TEXT_HEADERS)
        reign = self.reign
        if reign is None:
            return web.Response(status=503)
        return await endpoint(request, reign)

    def _pattern(self, path: str) -> dict[str, Endpoint] | None:
        """The one path of ours with a name in it."""
        if path.startswith(_OUTPUT_PREFIX) and path.endswith(_OUTPUT_SUFFIX):
            guid = unquote(path[len(_OUTPUT_PREFIX) : -len(_OUTPUT_SUFFIX)])
            return {"GET": partial(_output, guid)}
        return None

    async def _link(self, request: web.BaseRequest, reign: Reign) -> web.StreamResponse:
        return await serve_link(request, reign, self._settings.link_heartbeat_seconds)

    async def _call(self, route: Route, request: web.BaseRequest, reign: Reign) -> web.StreamResponse:
        content_type = request.headers.get("Content-Type", codec.PROTOBUF)
        close = False
        try:
            body = await self._body(request, route)
            message = codec.decode_request(route, body, content_type) if route.request is not None else None
            answer = await HANDLERS[route.handler](reign, message, route.form)
            if not isinstance(answer, bytes):
                return await _send_tasks(request, answer, is_json=codec.is_json(content_type))
        except _Unread as unread:
            close = True
            answer = _refuse(route, unread.error)
        except TaskError as error:
            if error.blame is not Blame.CALLER:
                log.warning("request.failed", route=route.name, error=error.message)
            answer = _refuse(route, error)
        if codec.is_json(content_type):
            return WholeAnswer(codec.transcode(route, answer, content_type), JSON, close=close)
        return WholeAnswer(answer, PROTOBUF, close=close)

    async def _body(self, request: web.BaseRequest, route: Route) -> bytes:
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

    async def _stream(self, route: Route, request: web.BaseRequest, reign: Reign) -> web.StreamResponse:
        """Send events until the client or the board leaves; an end of ours is an orderly one."""
        response = web.StreamResponse(headers=_STREAM_HEADERS)
        response.enable_chunked_encoding()
        subscription = reign.hub.subscribe(route.form)
        try:
            await response.prepare(request)
            while (frames := await subscription.frames(_HEARTBEAT_SECONDS)) is not None:
                await _write(response, frames or HEARTBEAT)
            await response.write_eof()
        except (ConnectionError, TimeoutError):
            log.info("stream.cut", route=route.name)
            _abort(request)
        finally:
            reign.hub.unsubscribe(subscription)
        return response


def make_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """Aiohttp's request object, with our bound on the body."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=limits.REQUEST_BYTES_MAX)


class _Unread(Exception):
    """The body was not read to its end; carries what to answer before the connection is closed."""

    def __init__(self, error: TaskError) -> None:
        super().__init__(error.message)
        self.error = error


def _too_large() -> TaskError:
    return TaskError(ErrorType.INVALID_REQUEST, f"the request's body is over {limits.REQUEST_BYTES_MAX} bytes")


def _refuse(route: Route, error: TaskError) -> bytes:
    return error_response(route, error).SerializeToString()


async def _send_tasks(request: web.BaseRequest, tasks: Iterator[bytes], *, is_json: bool) -> web.StreamResponse:
    """Send a listing as it is made, so that a long one starts at once and never stands whole in memory."""
    pieces = codec.tasks_as_json(tasks) if is_json else tasks_response(tasks)
    kind = JSON if is_json else PROTOBUF
    count = _PIECE_TASKS_JSON if is_json else _PIECE_TASKS
    part = b"".join(islice(pieces, count))
    following = b"".join(islice(pieces, count))
    if not following:
        return WholeAnswer(part, kind)
    response = web.StreamResponse(headers={"Content-Type": kind.decode()})
    try:
        await response.prepare(request)
        while part:
            await _write(response, part)
            # A reader on a fast network never makes the writer wait, and the others want their turn.
            await asyncio.sleep(0)
            part, following = following, b"".join(islice(pieces, count))
        await response.write_eof()
    except (ConnectionError, TimeoutError, TaskError):
        _abort(request)
    return response


def _abort(request: web.BaseRequest) -> None:
    """Cut the connection: an answer without its end must not look whole."""
    if request.transport is not None:
        request.transport.close()


def _same_origin(request: web.BaseRequest) -> bool:
    """Whether a browser's page that sent this was our own."""
    return urlsplit(request.headers["Origin"]).netloc == request.headers.get("Host")


async def _write(response: web.StreamResponse, data: bytes) -> None:
    """Write to a client that has to keep reading.

    Raises:
        TimeoutError: it does not.
        ConnectionError: it is gone.
    """
    async with asyncio.timeout(WRITE_SECONDS_MAX):
        await response.write(data)


async def _output(guid: str, _request: web.BaseRequest, reign: Reign) -> web.StreamResponse:
    """The kept output of an ended task, a JSON object a line."""
    try:
        kept = await reign.store.output(guid)
    except StoreError as error:
        log.warning("output.failed", task_guid=guid, error=str(error))
        return web.json_response({"error": f"the store failed: {error}"}, status=500)
    if kept is None:
        return web.json_response({"error": f"no output is kept of task {guid}"}, status=404)
    lines = [
        json.dumps(
            {
                "time_ns": line.time_ns,
                "stream": "err" if line.stream else "out",
                "source": line.source,
                "text": line.text,
            }
        )
        for line in link_pb2.Output.FromString(kept).lines
    ]
    return web.Response(text="".join(f"{line}\n" for line in lines), content_type="application/x-ndjson")
