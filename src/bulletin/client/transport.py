"""Calls to a board over HTTP: protobuf out, protobuf in, tried again as the Go client does (board-api.md 1.2 to 1.4).

Rules: an answer is protobuf by its content type, whatever its status; everything else (no connection, a timeout, any
other content type, a body that cannot be read) is a failed attempt. The next attempt goes to the next board at once,
and after ``RETRY_DELAY_SECONDS`` when all boards were asked. An error inside a protobuf answer is never retried. Known
wart, the wire's own: a POST whose answer was lost is sent again, so a refusal may be the echo of the first try;
``Refused.repeated`` marks those.

Connections are kept open and reused (asyncio sets TCP_NODELAY on them), so a call on an idle client costs one round
trip.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl as tls
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

import aiohttp
from google.protobuf.message import DecodeError, Message

from bulletin.client.boards import Board, Boards, Patience
from bulletin.client.errors import BoardTimeout, BoardUnreachable, forbidden, refusal
from bulletin.client.failures import AttemptFailed, Problem, StreamRefused, explain
from bulletin.client.streams import EventStream
from bulletin.core import limits
from bulletin.wire.codec import PROTOBUF
from bulletin.wire.proto import bbs_pb2

__all__ = ["RETRY_DELAY_SECONDS", "Transport"]

#: Between attempts, as the Go client waits (board-api.md 1.4).
RETRY_DELAY_SECONDS: Final = 0.5
#: The Go client's dial timeout (board-api.md 1.4).
_CONNECT_SECONDS: Final = 5.0
#: Idle connections are dropped before the server's 120 s, so that no POST races with its close (board-api.md 1.1).
_KEEPALIVE_SECONDS: Final = 90.0
#: With standbys, a stream that is silent for so long is on a board that no longer leads: three heartbeats of a board.
_STREAM_SILENCE_SECONDS: Final = 45.0
#: Of an answer that is only a reason.
_REASON_BYTES_MAX: Final = 2048
#: "Not now", and the next attempt, or the next board, may have more luck.
_LATER: Final = frozenset({502, 503, 504})


_M = TypeVar("_M", bound=Message)
_T = TypeVar("_T")


class Transport:
    """The addresses of a board and its standbys, and the connections to them. Belongs to one event loop.

    Args:
        urls: see ``Boards``.
        timeout_seconds: for one attempt.
        retries: how often each board is asked.
        failover_seconds: with several boards, how long they are asked in turn at least.
        ssl: for https.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        timeout_seconds: float,
        retries: int,
        failover_seconds: float,
        ssl: tls.SSLContext | None,
    ) -> None:
        if retries < 1:
            msg = f"retries is the number of attempts and must be 1 or more, not {retries}"
            raise ValueError(msg)
        if timeout_seconds <= 0:
            msg = f"timeout_seconds must be more than 0, not {timeout_seconds}"
            raise ValueError(msg)
        self.boards = Boards(urls)
        self._retries = retries
        has_standby = len(self.boards) > 1
        self._failover_seconds = failover_seconds if has_standby else 0.0
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=_CONNECT_SECONDS)
        self._stream_timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_SECONDS, sock_read=_STREAM_SILENCE_SECONDS if has_standby else None
        )
        self._head_seconds = timeout_seconds
        self._ssl = ssl
        self._session: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        """The board that is asked first, which is the one that answered last."""
        return self.boards.url

    async def close(self) -> None:
        """Close every connection; the transport opens new ones when it is used again."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def patience(self, attempts: int | None = None) -> Patience:
        """How long to go on when nobody answers.

        Args:
            attempts: None: the client's ``retries``.
        """
        return Patience(self._retries if attempts is None else attempts, self._failover_seconds)

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

        async def attempt(board: Board) -> tuple[int, _M]:
            async with self._translated(), self._request("POST", board, path, body) as answer:
                await _check_protobuf(answer, path)
                status, payload = answer.status, await _read(answer)
            try:
                return status, response.FromString(payload)
            except DecodeError as error:
                raise AttemptFailed(Problem(f"its answer to {path} cannot be read")) from error

        (status, answer), repeated = await self._persevere(attempt)
        _raise_refusal(status, answer, subject, repeated=repeated)
        return answer

    async def get(self, path: str) -> tuple[int, str, bytes]:
        """GET a route of the board's own: status, content type, body.

        Raises:
            Forbidden: the board says that we may not.
            BoardUnreachable: no attempt brought an answer.
        """

        async def attempt(board: Board) -> tuple[int, str, bytes]:
            async with self._translated(), self._request("GET", board, path, b"") as answer:
                if answer.status in _LATER:
                    raise AttemptFailed(Problem(*_unusable(answer, path)))
                return answer.status, answer.content_type, await _read(answer)

        (status, content_type, body), _repeated = await self._persevere(attempt)
        if status == _FORBIDDEN:
            raise forbidden(body[:_REASON_BYTES_MAX].decode(errors="replace"))
        return status, content_type, body

    async def stream(self, path: str, last_event_id: str = "", *, method: str = "POST") -> EventStream:
        """Open an event stream; when this returns the board has subscribed us. Each board is asked once.

        Raises:
            Forbidden: the board says that we may not.
            StreamRefused: it answered something else; "later" only when no other board had an answer.
            BoardUnreachable: none could be reached.
        """
        later: StreamRefused | None = None
        failures: list[tuple[Board, AttemptFailed]] = []
        for board in self.boards.round():
            try:
                stream = await self._open_stream(board, method, path, last_event_id)
            except AttemptFailed as failure:
                failures.append((board, failure))
            except StreamRefused as refused:
                if refused.status == _FORBIDDEN:
                    raise forbidden(refused.reason) from refused
                if not refused.is_temporary:
                    raise
                later = refused
            else:
                self.boards.note_answer(board)
                return stream
            self.boards.note_failure(board)
        if later is not None:
            raise later
        raise _unreachable(failures) from failures[-1][1].__cause__

    async def _persevere(self, attempt: Callable[[Board], Awaitable[_T]]) -> tuple[_T, bool]:
        """Ask one board after the other until one answers, and all of them again after a pause.

        Returns:
            The answer, and whether an earlier attempt may have reached a board.

        Raises:
            BoardUnreachable: our patience is spent, or no attempt will ever bring an answer.
        """
        delivered = False
        patience: Patience | None = None
        while True:
            failures: list[tuple[Board, AttemptFailed]] = []
            for board in self.boards.round():
                try:
                    answer = await attempt(board)
                except AttemptFailed as failure:
                    failures.append((board, failure))
                    delivered = delivered or failure.problem.delivered
                    self.boards.note_failure(board)
                else:
                    self.boards.note_answer(board)
                    return answer, delivered
            patience = patience or self.patience()
            if patience.is_spent() or all(failure.problem.lasting for _board, failure in failures):
                raise _unreachable(failures) from failures[-1][1].__cause__
            await asyncio.sleep(RETRY_DELAY_SECONDS)

    async def _open_stream(self, board: Board, method: str, path: str, last_event_id: str) -> EventStream:
        headers = {"Last-Event-Id": last_event_id} if last_event_id else {}
        async with self._translated(), asyncio.timeout(self._head_seconds):
            answer = await self._open_session().request(
                method, board.locate(path), headers=headers, timeout=self._stream_timeout, allow_redirects=False
            )
            if answer.status != _OK:
                try:
                    reason = (await answer.content.read(_REASON_BYTES_MAX)).decode(errors="replace").strip()
                finally:
                    answer.close()
                raise StreamRefused(answer.status, reason)
        return EventStream(answer, lambda: self.boards.note_failure(board))

    def _request(
        self, method: str, board: Board, path: str, body: bytes
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._open_session().request(
            method, board.locate(path), data=body, timeout=self._timeout, allow_redirects=False
        )

    @contextlib.asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        """What HTTP, TLS and sockets raise, as one failed attempt."""
        try:
            yield
        except (aiohttp.ClientError, OSError) as error:
            # A TimeoutError is an OSError.
            raise AttemptFailed(explain(error, self._head_seconds)) from error

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


_OK: Final = 200
_BAD_REQUEST: Final = 400
_FORBIDDEN: Final = 403
_UNAVAILABLE: Final = 503


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    if (answer.content_length or 0) > limits.CLIENT_ANSWER_BYTES_MAX:
        raise AttemptFailed(Problem(f"its answer has {answer.content_length} bytes, which is too many"))
    return await answer.read()


async def _check_protobuf(answer: aiohttp.ClientResponse, path: str) -> None:
    """Whether this is the answer of a board at all; nothing that is not was executed by one, as far as one can know."""
    router_error = answer.headers.get("X-Cf-Routererror")
    if router_error is not None:
        raise AttemptFailed(Problem(f"a router on the way says {router_error[:200]!r}", delivered=False))
    if answer.content_type == PROTOBUF:
        return
    if answer.status == _BAD_REQUEST and b"HTTP request to an HTTPS server" in await answer.content.read(1024):
        hint = "write https:// instead of http://, and pass --ca, --cert and --key"
        raise AttemptFailed(Problem("it speaks TLS", hint, delivered=False, lasting=True))
    raise AttemptFailed(Problem(*_unusable(answer, path)))


def _unusable(answer: aiohttp.ClientResponse, path: str) -> tuple[str, str]:
    """Cause and hint for an answer that no board gives to what was asked."""
    if answer.status == _UNAVAILABLE:
        return "it answered 503: it is not serving now", "try again: it is starting, or another board is taking over"
    return f"it answered {answer.status} {answer.content_type} to {path}: is it a board?", ""


def _raise_refusal(status: int, answer: Message, subject: str, *, repeated: bool) -> None:
    # Every response but Ping's has an error, whose presence means failure (board-api.md 1.3).
    if "error" not in answer.DESCRIPTOR.fields_by_name or not answer.HasField("error"):
        return
    field: bbs_pb2.Error = answer.error  # type: ignore[attr-defined]
    if status == _FORBIDDEN:
        raise forbidden(field.message)
    error = refusal(field.type, field.message, subject)
    error.repeated = repeated
    raise error


def _unreachable(failures: Sequence[tuple[Board, AttemptFailed]]) -> BoardUnreachable:
    """What to tell of one round of failures."""
    board, failure = failures[-1]
    problem = failure.problem
    if len(failures) > 1:
        urls = ",".join(board.url for board, _failure in failures)
        causes = "; ".join(f"{board.url}: {failure.problem.cause}" for board, failure in failures)
        hint = next((failure.problem.hint for _board, failure in failures if failure.problem.hint), None)
        return BoardUnreachable(urls, causes, hint)
    if problem.timed_out:
        return BoardTimeout(board.url, problem.cause, "try again, or allow it more time; the board's log tells more")
    return BoardUnreachable(board.url, problem.cause, problem.hint or None)
