"""Our own ``GET`` routes, beside the BBS's (docs/reference/api.md): output, callbacks, events, the cells' link.

A handler is ``async (request, reign, guid) -> response``; ``guid`` is the one in the path, "" when there is none.
Errors are JSON: ``{"error": text}``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Final

import structlog
from aiohttp import web

from bulletin.board.answers import JSON, WholeAnswer
from bulletin.board.auth import Auth
from bulletin.board.exposition import answer_scrape
from bulletin.board.link import serve_link
from bulletin.board.reign import Reign
from bulletin.board.settings import BoardSettings
from bulletin.board.streams import serve_own_stream
from bulletin.core.errors import TaskError
from bulletin.store.api import StoreError
from bulletin.wire import openapi
from bulletin.wire.proto import link_pb2
from bulletin.wire.routes import OwnRoute

__all__ = ["OwnHandler", "OwnHandlers"]

log = structlog.get_logger("bulletin.board.http")

OwnHandler = Callable[[web.BaseRequest, Reign, str], Awaitable[web.StreamResponse]]

_LINES: Final = b"application/x-ndjson"
#: What the event stream can be asked for.
_FILTERS: Final = frozenset({"guid", "domain"})


class OwnHandlers:
    """What serves each of ``routes.OWN_ROUTES``, by the name of its handler."""

    def __init__(self, settings: BoardSettings, auth: Auth) -> None:
        self._settings = settings
        self._auth = auth
        self._handlers: dict[str, OwnHandler] = {
            "link": self._link,
            "task_output": _task_output,
            "task_callbacks": _task_callbacks,
            "task_events": _task_events,
            "openapi": _openapi,
            "metrics": _metrics,
        }

    async def serve(self, route: OwnRoute, guid: str, request: web.BaseRequest, reign: Reign) -> web.StreamResponse:
        """Answer a request for ``route``."""
        return await self._handlers[route.handler](request, reign, guid)

    async def _link(self, request: web.BaseRequest, reign: Reign, _guid: str) -> web.StreamResponse:
        return await serve_link(request, reign, self._auth.peer(request), self._settings.link_heartbeat_seconds)


async def _metrics(_request: web.BaseRequest, reign: Reign, _guid: str) -> web.StreamResponse:
    """The board's metrics, for Prometheus."""
    return await answer_scrape(reign.metrics)


def _json_answer(value: object, status: int = 200) -> web.StreamResponse:
    return WholeAnswer(json.dumps(value).encode("ascii"), JSON, status=status)


def _refused(status: int, text: str) -> web.StreamResponse:
    return _json_answer({"error": text}, status)


async def _task_output(_request: web.BaseRequest, reign: Reign, guid: str) -> web.StreamResponse:
    """The kept output of an ended task, a JSON object a line."""
    try:
        kept = await reign.store.output(guid)
    except StoreError as error:
        log.warning("output.failed", task_guid=guid, error=str(error))
        return _refused(500, f"the store failed: {error}")
    if kept is None:
        return _refused(404, f"no output is kept of task {guid}")
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
    return WholeAnswer("".join(f"{line}\n" for line in lines).encode("ascii"), _LINES)


async def _task_callbacks(_request: web.BaseRequest, reign: Reign, guid: str) -> web.StreamResponse:
    """The newest attempts to tell a task's outcome, oldest first."""
    try:
        task = await reign.writer.read(guid)
    except TaskError as error:
        log.warning("callbacks.failed", task_guid=guid, error=error.message)
        return _refused(500, error.message)
    if task is None:
        return _refused(404, f"there is no task {guid}")
    attempts = [
        {
            "at_ns": attempt.at,
            "duration_ns": attempt.duration_ns,
            "status": attempt.status,
            "problem": attempt.problem,
        }
        for attempt in task.attempts
    ]
    return _json_answer({"attempts": attempts})


async def _task_events(request: web.BaseRequest, reign: Reign, _guid: str) -> web.StreamResponse:
    """Events as JSON, from where the client was."""
    query = request.query
    if not query.keys() <= _FILTERS or len(query) > len(set(query)):
        return _refused(400, "task_events takes the filters guid and domain, each once: /v1/task_events?domain=d")
    return await serve_own_stream(request, reign, guid=query.get("guid", ""), domain=query.get("domain", ""))


async def _openapi(_request: web.BaseRequest, _reign: Reign, _guid: str) -> web.StreamResponse:
    """The description of all routes."""
    return WholeAnswer(openapi.document_bytes(version("bulletin")), JSON)
