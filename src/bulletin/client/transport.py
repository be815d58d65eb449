"""Calls to a board over HTTP: protobuf out, protobuf in, tried again as the Go client does (board-api.md 1.2 to 1.4).

Rules: an answer is protobuf by its content type, whatever its status; everything else (no connection, a timeout, any
other content type, a body that cannot be read) is a failed attempt, and the next one follows after
``RETRY_DELAY_SECONDS``. An error inside a protobuf answer is never retried. Known wart, the wire's own: a POST whose
answer was lost is sent again, so a refusal may be the echo of the first try; ``Refused.repeated`` marks those.

Connections are kept open and reused (asyncio sets TCP_NODELAY on them), so a call on an idle client costs one round
trip.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl as tls
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Final, Self, TypeVar

import aiohttp
from google.protobuf.message import DecodeError, Message
from yarl import URL

from bulletin.client.errors import BoardTimeout, BoardUnreachable, refusal
from bulletin.core import limits
from bulletin.core.errors import TaskError
from bulletin.wire.codec import PROTOBUF
from bulletin.wire.events import EventParser, RawEvent
from bulletin.wire.proto import bbs_pb2

__all__ = ["RETRY_DELAY_SECONDS", "EventStream", "StreamCut", "StreamRefused", "Transport"]

#: Between attempts, as the Go client waits (board-api.md 1.4).
RETRY_DELAY_SECONDS: Final = 0.5
#: The Go client's dial timeout (board-api.md 1.4).
_CONNECT_SECONDS: Final = 5.0
#: Idle connections are dropped before the server's 120 s, so that no POST races with its close (board-api.md 1.1).
_KEEPALIVE_SECONDS: Final = 90.0
#: A silent stream whose peer vanished is found out after the first of these plus count times the second.
_PROBE_AFTER_SECONDS: Final = 30
_PROBE_INTERVAL_SECONDS: Final = 10
_PROBE_COUNT: Final = 3


_M = TypeVar("_M", bound=Message)


class StreamCut(Exception):
    """An event stream broke off, as opposed to an orderly end."""


class StreamRefused(Exception):
    """The board answered a request for a stream with something else.

    Attributes:
        status: of HTTP. 500, 502, 503 and 504 mean "later" (board-api.md 11.4).
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"it answered {status} to a request for events")
        self.status = status
        self.is_temporary = status in {500, 502, 503, 504}


class _AttemptFailed(Exception):
    """No usable answer from one attempt."""

    def __init__(self, cause: str, *, delivered: bool, timed_out: bool = False) -> None:
        super().__init__(cause)
        self.cause = cause
        #: Whether the board may have received the request.
        self.delivered = delivered
        self.timed_out = timed_out


class Transport:
    """One board's address and the connections to it. Belongs to one event loop."""

    def __init__(self, url: str, *, timeout_seconds: float, retries: int, ssl: tls.SSLContext | None) -> None:
        parsed = URL(url)
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            msg = f"{url!r} is not the URL of a board; write for example http://127.0.0.1:8889"
            raise ValueError(msg)
        if retries < 1:
            msg = f"retries is the number of attempts and must be 1 or more, not {retries}"
            raise ValueError(msg)
        if timeout_seconds <= 0:
            msg = f"timeout_seconds must be more than 0, not {timeout_seconds}"
            raise ValueError(msg)
        #: Without the trailing slash, which would make every path unknown (board-api.md 1.1).
        self.url = url.rstrip("/")
        self.retries = retries
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=_CONNECT_SECONDS)
        self._stream_timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
        self._head_seconds = timeout_seconds
        self._ssl = ssl
        self._session: aiohttp.ClientSession | None = None
        self._paths: dict[str, URL] = {}

    async def close(self) -> None:
        """Close every connection; the transport opens new ones when it is used again."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def call(self, path: str, request: Message | None, response: type[_M], *, subject: str = "") -> _M:
        """POST ``request`` and read the answer.

        Args:
            path: of the API, with its leading slash.
            request: None sends an empty body.
            response: what the answer is.
            subject: the guid the call is about, for error texts.

        Raises:
            Refused: the board answered with an error.
            BoardUnreachable: no attempt brought an answer.
        """
        body = b"" if request is None else request.SerializeToString()
        delivered = False
        for attempt in range(1, self.retries + 1):
            try:
                answer = await self._attempt(path, body, response)
            except _AttemptFailed as failure:
                delivered = delivered or failure.delivered
                if attempt == self.retries:
                    raise self._unreachable(failure) from failure.__cause__
                await asyncio.sleep(RETRY_DELAY_SECONDS)
            else:
                _raise_refusal(answer, subject, repeated=delivered)
                return answer
        raise AssertionError("the last attempt returns or raises")

    async def get(self, path: str) -> tuple[int, str, bytes]:
        """GET a route of the board's own: status, content type, body.

        Raises:
            BoardUnreachable: no attempt brought an answer.
        """
        for attempt in range(1, self.retries + 1):
            try:
                async with self._translated(), self._request("GET", path, b"", self._timeout) as answer:
                    return answer.status, answer.content_type, await _read(answer)
            except _AttemptFailed as failure:
                if attempt == self.retries:
                    raise self._unreachable(failure) from failure.__cause__
                await asyncio.sleep(RETRY_DELAY_SECONDS)
        raise AssertionError("the last attempt returns or raises")

    async def stream(self, path: str, last_event_id: str = "") -> EventStream:
        """Open an event stream; when this returns the board has subscribed us.

        Raises:
            StreamRefused: it answered something else.
            BoardUnreachable: one attempt failed; there is only one.
        """
        headers = {"Last-Event-Id": last_event_id} if last_event_id else {}
        try:
            async with self._translated(), asyncio.timeout(self._head_seconds):
                answer = await self._open_session().post(
                    self._locate(path), headers=headers, timeout=self._stream_timeout, allow_redirects=False
                )
        except _AttemptFailed as failure:
            raise self._unreachable(failure) from failure.__cause__
        if answer.status != 200:
            answer.close()
            raise StreamRefused(answer.status)
        _probe_when_silent(answer)
        return EventStream(answer)

    async def _attempt(self, path: str, body: bytes, response: type[_M]) -> _M:
        async with self._translated(), self._request("POST", path, body, self._timeout) as answer:
            router_error = answer.headers.get("X-Cf-Routererror")
            if router_error is not None:
                raise _AttemptFailed(f"a router on the way says {router_error[:200]!r}", delivered=False)
            if answer.content_type != PROTOBUF:
                cause = f"it answered {answer.status} {answer.content_type} to {path}: is it a board?"
                raise _AttemptFailed(cause, delivered=True)
            payload = await _read(answer)
        try:
            return response.FromString(payload)
        except DecodeError as error:
            raise _AttemptFailed(f"its answer to {path} cannot be read", delivered=True) from error

    def _request(
        self, method: str, path: str, body: bytes, timeout: aiohttp.ClientTimeout
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._open_session().request(
            method, self._locate(path), data=body, timeout=timeout, allow_redirects=False
        )

    @contextlib.asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        """What HTTP, TLS and sockets raise, as one failed attempt."""
        try:
            yield
        except TimeoutError as error:
            # aiohttp's connect timeout is both; nothing was sent then.
            delivered = not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
            cause = f"no answer within {self._head_seconds:g} s" if delivered else "no connection in time"
            raise _AttemptFailed(cause, delivered=delivered, timed_out=delivered) from error
        except aiohttp.ClientConnectorError as error:
            raise _AttemptFailed(_connect_cause(error), delivered=False) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _AttemptFailed(str(error) or type(error).__name__, delivered=True) from error

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                ssl=True if self._ssl is None else self._ssl,
                limit=limits.CLIENT_CONNECTIONS_MAX,
                keepalive_timeout=_KEEPALIVE_SECONDS,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Content-Type": PROTOBUF, "X-Vcap-Request-Id": "", "User-Agent": "bulletin"},
            )
        return self._session

    def _locate(self, path: str) -> URL:
        located = self._paths.get(path)
        if located is None:
            located = URL(self.url + path, encoded=True)
            if len(self._paths) < _PATHS_MAX:
                self._paths[path] = located
        return located

    def _unreachable(self, failure: _AttemptFailed) -> BoardUnreachable:
        if failure.timed_out:
            return BoardTimeout(self.url, failure.cause, "try again, or allow it more time; the board's log tells more")
        return BoardUnreachable(self.url, failure.cause)


#: There are two dozen routes; the paths with a guid in them need not be remembered.
_PATHS_MAX: Final = 64


class EventStream:
    """One connection's events, as they came. Ends with the server's orderly end; iterate it once."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self._parser = EventParser()
        #: Of the last event, for ``Last-Event-Id``.
        self.last_event_id = ""

    @property
    def retry_ms(self) -> int | None:
        """How long the server wants to be left alone before the next connection, if it said so."""
        return self._parser.retry_ms

    async def __aiter__(self) -> AsyncIterator[RawEvent]:
        """Give the events.

        Raises:
            StreamCut: the connection broke, or what came is no stream of events.
        """
        try:
            async for chunk in self._answer.content.iter_any():
                for event in self._parser.feed(chunk):
                    self.last_event_id = event.id
                    yield event
        except (aiohttp.ClientError, OSError, TimeoutError, TaskError) as error:
            raise StreamCut(str(error) or type(error).__name__) from error

    def close(self) -> None:
        """Drop the connection. Idempotent."""
        self._answer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    if (answer.content_length or 0) > limits.CLIENT_ANSWER_BYTES_MAX:
        raise _AttemptFailed(f"its answer has {answer.content_length} bytes, which is too many", delivered=True)
    return await answer.read()


def _raise_refusal(answer: Message, subject: str, *, repeated: bool) -> None:
    # Every response but Ping's has an error, whose presence means failure (board-api.md 1.3).
    if "error" not in answer.DESCRIPTOR.fields_by_name or not answer.HasField("error"):
        return
    field: bbs_pb2.Error = answer.error  # type: ignore[attr-defined]
    error = refusal(field.type, field.message, subject)
    error.repeated = repeated
    raise error


def _connect_cause(error: aiohttp.ClientConnectorError) -> str:
    cause = error.os_error
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    # aiohttp puts address and TLS context before the reason; the address stands in our text already.
    return cause.strerror or str(cause) or type(cause).__name__


def _probe_when_silent(answer: aiohttp.ClientResponse) -> None:
    """Ask the kernel to find out about a peer that vanished: the reference sends no heartbeat (board-api.md 11.1)."""
    connection = answer.connection
    transport = None if connection is None else connection.transport
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _PROBE_AFTER_SECONDS),
        ("TCP_KEEPINTVL", _PROBE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", _PROBE_COUNT),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
