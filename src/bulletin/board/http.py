"""HTTP in: finds the route of a request and hands it to what serves that kind of route.

Every request passes through ``Http.handle``, in this order: is there such a path (404) and method (405), was it sent
by a page of another site (403), does this board rule (503), has the caller a role that may (403); then the route serves
it. Three kinds of routes serve: calls with one message in and one out (``board.calls``), streams of events
(``board.streams``), and our own ``GET`` routes (``board.own``).

Rules of board-api.md section 1: a handled call is 200 with an answer of its own type, refusals included. On plain
HTTP a request that a browser sent from another site's page is refused: whoever can desire a task is root in a
container.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage

from bulletin.board.answers import WholeAnswer, text_answer
from bulletin.board.auth import Auth, Forbidden, check_role
from bulletin.board.calls import refuse_call, serve_call
from bulletin.board.metrics import BoardMetrics, RouteMetrics
from bulletin.board.own import OwnHandlers
from bulletin.board.reign import Reign
from bulletin.board.settings import BoardSettings
from bulletin.board.streams import serve_stream
from bulletin.core import limits
from bulletin.core.errors import TaskError
from bulletin.telemetry import tracing
from bulletin.wire import routes
from bulletin.wire.routes import OwnRoute, Route

__all__ = ["Http", "make_request"]

Serve = Callable[[web.BaseRequest, Reign], Awaitable[web.StreamResponse]]

_GUID: Final = "{guid}"


class _Endpoint(NamedTuple):
    """A route and what serves it."""

    route: Route | OwnRoute
    serve: Serve
    metrics: RouteMetrics
    #: Its answers go on until one side leaves; how long that takes says nothing.
    lasts: bool

    def refuse(self, request: web.BaseRequest, error: TaskError) -> web.StreamResponse:
        """403 for a caller who may not call this route: in a call's own type, elsewhere as text."""
        if isinstance(self.route, Route) and self.route.has_error:
            return refuse_call(self.route, request, error, status=403)
        return text_answer(403, f"{error.message}\n")


class _Pattern(NamedTuple):
    """A path of our own with a task's guid in it: what stands before and behind the guid."""

    prefix: str
    suffix: str
    route: OwnRoute


class Http:
    """The board's HTTP face. ``reign`` is None while the board does not rule."""

    def __init__(self, settings: BoardSettings, metrics: BoardMetrics | None = None) -> None:
        self.reign: Reign | None = None
        self._metrics = metrics or BoardMetrics()
        #: Requests for no route of ours.
        self._strays = self._metrics.route("none")
        self._auth = Auth(settings)
        self._own = OwnHandlers(settings, self._auth)
        self._endpoints: dict[str, dict[str, _Endpoint]] = {}
        self._patterns: list[_Pattern] = []
        for route in (*routes.ROUTES, *routes.PHASE2_ROUTES):
            serve = (
                partial(serve_stream, route) if route.stream else partial(serve_call, route, self._auth.guard(route))
            )
            self._add(route, serve)
        for own in routes.OWN_ROUTES:
            prefix, guid, suffix = own.path.partition(_GUID)
            if guid:
                self._patterns.append(_Pattern(prefix, suffix, own))
            else:
                self._add(own, partial(self._own.serve, own, ""))

    def _add(self, route: Route | OwnRoute, serve: Serve) -> None:
        self._endpoints.setdefault(route.path, {})[route.method] = self._endpoint(route, serve)

    def _endpoint(self, route: Route | OwnRoute, serve: Serve) -> _Endpoint:
        return _Endpoint(route, serve, self._metrics.route(route.name), lasts=route.stream or route.handler == "link")

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, and count it."""
        began = perf_counter()
        tracing.begin(request.headers)
        path = request.raw_path.partition("?")[0]
        methods = self._endpoints.get(path) or self._match(path)
        if methods is None:
            return self._turn_away(text_answer(404, "404 page not found\n"))
        endpoint = methods.get(request.method)
        if endpoint is None:
            allow = f"Allow: {', '.join(sorted(methods))}\r\n"
            return self._turn_away(text_answer(405, "Method Not Allowed\n", allow.encode("ascii")))
        if "Origin" in request.headers and not _same_origin(request):
            return self._turn_away(text_answer(403, "cross-origin requests are refused\n"))
        reign = self.reign
        if reign is None or not reign.is_vouched():
            endpoint.metrics.results["http_503"] += 1
            return WholeAnswer(b"", b"", status=503)
        result = "broken"
        try:
            try:
                check_role(endpoint.route, self._auth.peer(request))
            except Forbidden as error:
                answer = endpoint.refuse(request, error)
            else:
                answer = await endpoint.serve(request, reign)
            result = getattr(answer, "result", "ok")  # aiohttp's own, of the cells' links, have none
        finally:
            if endpoint.lasts:
                endpoint.metrics.results[result] += 1
            else:
                endpoint.metrics.observe(perf_counter() - began, result)
        return answer

    def _turn_away(self, answer: WholeAnswer) -> WholeAnswer:
        self._strays.results[answer.result] += 1
        return answer

    def _match(self, path: str) -> dict[str, _Endpoint] | None:
        """What serves a path with a guid in it."""
        for prefix, suffix, route in self._patterns:
            guid = path[len(prefix) : -len(suffix)]
            if path.startswith(prefix) and path.endswith(suffix) and guid and "/" not in guid:
                return {route.method: self._endpoint(route, partial(self._own.serve, route, unquote(guid)))}
        return None


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


def _same_origin(request: web.BaseRequest) -> bool:
    """Whether a browser's page that sent this was our own."""
    return urlsplit(request.headers["Origin"]).netloc == request.headers.get("Host")
