"""A receiver of completion callbacks: an HTTP server whose every answer is somebody's choice.

``Sink()`` holds each request until ``answer`` says what becomes of it; ``Sink(choose=...)`` asks a function instead.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

__all__ = ["CUT", "Reply", "Sink", "Told"]

#: Of a request that nobody answers: long enough for any test, short enough for a thread that was forgotten.
_HOLD_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a receiver answers; status 0 cuts the connection without a word."""

    status: int
    location: str = ""


CUT = Reply(0)


@dataclass(slots=True, eq=False)
class Told:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    _reply: Reply | None = None
    _decided: threading.Event = field(default_factory=threading.Event)

    @property
    def guid(self) -> str:
        """The last part of the path: tests give each task a URL that ends in its guid."""
        return self.path.rpartition("/")[2]

    @property
    def json(self) -> dict[str, Any]:
        decoded = json.loads(self.body)
        assert isinstance(decoded, dict)
        return decoded

    def answer(self, reply: Reply) -> None:
        self._reply = reply
        self._decided.set()

    def wait(self) -> Reply:
        self._decided.wait(_HOLD_SECONDS)
        return self._reply or CUT


class Sink:
    """The receiver; ``with Sink() as sink``.

    Args:
        choose: gives the reply to a request at once; None: the request is held until ``Told.answer``.
    """

    def __init__(self, choose: Callable[[Told], Reply] | None = None) -> None:
        self._choose = choose
        self._changed = threading.Condition()
        #: Every request, oldest first.
        self.requests: list[Told] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                sink._handle(self)

            def do_GET(self) -> None:
                sink._handle(self)

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        for told in list(self.requests):
            told.answer(CUT)
        self._server.shutdown()
        self._thread.join()
        self._server.cut_all()
        self._server.server_close()

    def url(self, guid: str = "") -> str:
        return f"http://127.0.0.1:{self._server.server_port}/done/{guid}"

    def of(self, guid: str) -> list[Told]:
        """The requests for a task, oldest first."""
        with self._changed:
            return [told for told in self.requests if told.guid == guid]

    def wait_for(self, guid: str, count: int, within_seconds: float = 20.0) -> Told:
        """The request number ``count`` (from 1) for a task."""
        deadline = time.monotonic() + within_seconds
        with self._changed:
            while len(found := [told for told in self.requests if told.guid == guid]) < count:
                left = deadline - time.monotonic()
                assert left > 0, f"{len(found)} callbacks of {guid} came, not {count}"
                self._changed.wait(left)
        return found[count - 1]

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        told = Told(handler.command, handler.path, dict(handler.headers), body)
        with self._changed:
            self.requests.append(told)
            self._changed.notify_all()
        reply = told.wait() if self._choose is None else self._choose(told)
        if reply.status == 0:
            handler.close_connection = True
            return
        try:
            handler.send_response(reply.status)
            if reply.location:
                handler.send_header("Location", reply.location)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        except OSError:
            handler.close_connection = True  # the board was killed while it waited


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a connection that a killed board left

    def cut_all(self) -> None:
        """Wake the handlers that wait for another request on a kept connection."""
        for request in list(self._open):
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
