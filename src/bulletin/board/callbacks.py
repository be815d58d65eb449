"""Tells completion callbacks (board-api.md section 8, design section 6).

Taking a task to Resolving is what makes one resolver (S8): who cannot, stops. What an attempt's outcome means is
``core.callbacks``'s; this makes the attempts, each bounded in time, size and redirects. A delivered task stays
readable for ``resolved_retention`` and is then deleted. A task left Resolving is found again by convergence.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import ssl
from collections import deque
from typing import Final

import aiohttp
import structlog

from bulletin.board.settings import BoardSettings
from bulletin.board.writer import Writer
from bulletin.core import callbacks, limits
from bulletin.core.errors import TaskError
from bulletin.core.lifecycle import Delete, Deliver, Resolving
from bulletin.core.model import Task, TaskState
from bulletin.seams import Clock
from bulletin.wire.callback import callback_body

__all__ = ["Callbacks"]

log = structlog.get_logger("bulletin.board.callbacks")

_HEADERS: Final = {"Content-Type": "application/json", "User-Agent": "bulletin-board"}


class Callbacks:
    """A bounded queue of tasks whose callback is due, and the workers that tell them."""

    def __init__(self, writer: Writer, clock: Clock, settings: BoardSettings) -> None:
        self._writer = writer
        self._clock = clock
        self._settings = settings
        self._policy = callbacks.Policy(callback_expiry_seconds=settings.callback_expiry_seconds)
        self._queue: deque[str] = deque()
        self._known: set[str] = set()
        self._workers: set[asyncio.Task[None]] = set()
        self._retained: deque[tuple[float, str, int]] = deque()
        self._retained_wake = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None
        self._random = random.Random()  # noqa: S311 - jitter between tries, nothing secret

    def submit(self, guid: str) -> None:
        """A task is Completed and has a callback URL; harmless to say again. Never blocks."""
        if guid in self._known:
            return
        if len(self._queue) >= limits.CALLBACK_QUEUE_MAX:
            log.error("callback.queue.full", task_guid=guid)  # convergence brings it again
            return
        self._known.add(guid)
        self._queue.append(guid)
        if len(self._workers) < self._settings.callback_workers:
            worker = asyncio.get_running_loop().create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    def holds(self, guid: str) -> bool:
        """Whether the task waits here or is being told; nobody else should take it on (S8)."""
        return guid in self._known

    async def run(self) -> None:
        """Delete delivered tasks when their retention ends; for ever. Recovers those of an earlier board first."""
        for kept in sorted(self._writer.tasks.values(), key=lambda kept: kept.delivered_at):
            if kept.delivered_at:
                self._retain(kept.guid, kept.delivered_at)
        while True:
            if not self._retained:
                self._retained_wake.clear()
                await self._retained_wake.wait()
            due, guid, delivered_at = self._retained[0]
            wait = due - self._clock.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            self._retained.popleft()
            task = self._writer.tasks.get(guid)
            if task is not None and task.delivered_at == delivered_at and task.state is TaskState.RESOLVING:
                self._delete(guid)

    async def close(self) -> None:
        """Drop what is queued, end what is under way; convergence of the next board recovers both."""
        self._queue.clear()
        for worker in list(self._workers):
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _work(self) -> None:
        while self._queue:
            guid = self._queue.popleft()
            try:
                await self._resolve(guid)
            finally:
                self._known.discard(guid)

    async def _resolve(self, guid: str) -> None:
        task = self._writer.tasks.get(guid)
        if task is None or task.state is not TaskState.COMPLETED or not task.definition.completion_callback_url:
            return
        try:
            await self._writer.apply(Resolving(guid))
            delivered = await self._deliver(task)
            # Told for long enough, the task may have been deleted and its guid desired again: that one was not told.
            now = self._writer.tasks.get(guid)
            if delivered and now is not None and now.created_at == task.created_at:
                step = await self._writer.apply(Deliver(guid))
                assert step.task is not None
                self._retain(guid, step.task.delivered_at)
        except TaskError as error:
            # Somebody else resolves or deleted it, or the store was lost: either way it is not ours any more.
            log.info("callback.dropped", task_guid=guid, error=error.message)

    async def _deliver(self, task: Task) -> bool:
        """Make attempts until one counts or none may follow."""
        body = callback_body(task)
        attempt = 0
        while True:
            attempt += 1
            outcome = await self._attempt(task.definition.completion_callback_url, body)
            decision = callbacks.decide(
                attempt,
                outcome,
                self._policy,
                now=self._clock.now_ns(),
                first_completed_at=task.first_completed_at,
                jitter=self._random.random(),
            )
            match decision:
                case callbacks.Delivered():
                    return True
                case callbacks.Again(after_seconds=seconds):
                    log.info("callback.again", task_guid=task.guid, attempt=attempt, after_seconds=seconds)
                    await asyncio.sleep(seconds)
                case callbacks.Leave(reason=reason):
                    last = callbacks.is_expired(task.first_completed_at, self._clock.now_ns(), self._policy)
                    tell = log.error if last else log.warning
                    tell("callback.failed", task_guid=task.guid, attempt=attempt, reason=reason)
                    return False

    async def _attempt(self, url: str, body: bytes) -> callbacks.Outcome:
        """One attempt, redirects included, within the time-out."""
        try:
            async with asyncio.timeout(self._settings.callback_timeout_seconds):
                request = callbacks.first_request(url)
                followed = 0
                while isinstance(request, callbacks.Request):
                    status, location = await self._exchange(request, body)
                    following = callbacks.redirect(request, status, location, followed)
                    if following is None:
                        return callbacks.Answered(status)
                    request = following
                    followed += 1
                return request
        except aiohttp.ConnectionTimeoutError:
            return callbacks.Unreachable(callbacks.Failure.DIAL_TIMEOUT)
        except TimeoutError:
            return callbacks.TimedOut()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return callbacks.Unreachable(_failure(error))

    async def _exchange(self, request: callbacks.Request, body: bytes) -> tuple[int, str | None]:
        """Status and Location of one request; the answer's body is thrown away."""
        async with self._open_session().request(
            request.method,
            request.url,
            data=body if request.with_body else None,
            headers=_HEADERS if request.with_body else None,
            allow_redirects=False,
        ) as response:
            await response.content.read(limits.CALLBACK_RESPONSE_BYTES_MAX)
            return response.status, response.headers.get("Location")

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._settings.callback_workers, ttl_dns_cache=10),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.callback_connect_seconds),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    def _retain(self, guid: str, delivered_at: int) -> None:
        age = (self._clock.now_ns() - delivered_at) / 1e9
        remaining = max(self._settings.resolved_retention_seconds - age, 0.0)
        self._retained.append((self._clock.monotonic() + remaining, guid, delivered_at))
        self._retained_wake.set()

    def _delete(self, guid: str) -> None:
        try:
            self._writer.submit(Delete(guid))
        except TaskError as error:
            log.info("callback.delete.refused", task_guid=guid, error=error.message)


def _failure(error: Exception) -> callbacks.Failure:
    """What kind of failure it was, for the record."""
    if isinstance(error, aiohttp.ClientConnectorDNSError | socket.gaierror):
        return callbacks.Failure.DNS
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return callbacks.Failure.TLS
    if isinstance(error, aiohttp.InvalidURL | ValueError):
        return callbacks.Failure.BAD_URL
    if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
        return callbacks.Failure.REFUSED
    return callbacks.Failure.RESET
