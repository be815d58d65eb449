"""The blocking client: ``AsyncClient`` on a thread of its own, one method for one method.

Nothing is decided here; every method hands the coroutine of the same name to the loop of the background thread and
waits for it. Any number of threads may use one client at once. A thread that is interrupted while it waits (Ctrl-C)
cancels its call.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ssl as tls
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from bulletin.client.aio import DEFAULT_URL, FAILOVER_SECONDS, AsyncClient
from bulletin.client.values import Cell, Followed, Outcome, OutputLine
from bulletin.core.definition import TaskDefinition
from bulletin.core.model import CallbackAttempt, Task
from bulletin.core.operations import Event

__all__ = ["Client"]

_T = TypeVar("_T")


class Client:
    """A client of a board and its standbys for ordinary, blocking code.

    ``with Client() as client: outcome = client.run(definition)``. Arguments, results and errors are those of
    ``AsyncClient``. Leaving the block (or ``close``) closes every connection and ends the thread.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        timeout_seconds: float = 30.0,
        retries: int = 3,
        failover_seconds: float = FAILOVER_SECONDS,
        reconnect_seconds: float = 60.0,
        ca: Path | str | None = None,
        cert: Path | str | None = None,
        key: Path | str | None = None,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        self._client = AsyncClient(
            url,
            timeout_seconds=timeout_seconds,
            retries=retries,
            failover_seconds=failover_seconds,
            reconnect_seconds=reconnect_seconds,
            ca=ca,
            cert=cert,
            key=key,
            ssl=ssl,
        )
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._closed = False

    @property
    def url(self) -> str:
        """See ``AsyncClient.url``."""
        return self._client.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """See ``AsyncClient.aclose``. Calls of other threads that are under way are cancelled; there are no more."""
        with self._lock:
            self._closed = True
            running, self._running = self._running, None
        if running is not None:
            running.loop.call_soon_threadsafe(running.stop.set)
            running.thread.join()

    # -- tasks: clients ------------------------------------------------------------------------------------------

    def desire(self, guid: str, domain: str, definition: TaskDefinition) -> None:
        """See ``AsyncClient.desire``."""
        self._call(self._client.desire(guid, domain, definition))

    def task(self, guid: str) -> Task:
        """See ``AsyncClient.task``."""
        return self._call(self._client.task(guid))

    def tasks(self, domain: str = "", cell_id: str = "") -> list[Task]:
        """See ``AsyncClient.tasks``."""
        return self._call(self._client.tasks(domain, cell_id))

    def cancel(self, guid: str) -> None:
        """See ``AsyncClient.cancel``."""
        self._call(self._client.cancel(guid))

    def fail(self, guid: str, reason: str) -> None:
        """See ``AsyncClient.fail``."""
        self._call(self._client.fail(guid, reason))

    def resolving(self, guid: str) -> None:
        """See ``AsyncClient.resolving``."""
        self._call(self._client.resolving(guid))

    def delete(self, guid: str) -> None:
        """See ``AsyncClient.delete``."""
        self._call(self._client.delete(guid))

    # -- tasks: cells --------------------------------------------------------------------------------------------

    def start(self, guid: str, cell_id: str) -> bool:
        """See ``AsyncClient.start``."""
        return self._call(self._client.start(guid, cell_id))

    def complete(
        self, guid: str, cell_id: str, *, failed: bool = False, failure_reason: str = "", result: str = ""
    ) -> None:
        """See ``AsyncClient.complete``."""
        self._call(self._client.complete(guid, cell_id, failed=failed, failure_reason=failure_reason, result=result))

    def reject(self, guid: str, reason: str) -> None:
        """See ``AsyncClient.reject``."""
        self._call(self._client.reject(guid, reason))

    # -- tasks: outcomes -----------------------------------------------------------------------------------------

    def wait(self, guid: str, timeout_seconds: float | None = None) -> Task:
        """See ``AsyncClient.wait``."""
        return self._call(self._client.wait(guid, timeout_seconds))

    def run(
        self,
        definition: TaskDefinition,
        *,
        guid: str | None = None,
        domain: str = "default",
        timeout_seconds: float | None = None,
    ) -> Outcome:
        """See ``AsyncClient.run``."""
        return self._call(self._client.run(definition, guid=guid, domain=domain, timeout_seconds=timeout_seconds))

    def output(self, guid: str) -> list[OutputLine]:
        """See ``AsyncClient.output``."""
        return self._call(self._client.output(guid))

    def callback_attempts(self, guid: str) -> list[CallbackAttempt]:
        """See ``AsyncClient.callback_attempts``."""
        return self._call(self._client.callback_attempts(guid))

    # -- everything else -----------------------------------------------------------------------------------------

    def ping(self) -> bool:
        """See ``AsyncClient.ping``."""
        return self._call(self._client.ping())

    def domains(self) -> list[str]:
        """See ``AsyncClient.domains``."""
        return self._call(self._client.domains())

    def upsert_domain(self, domain: str, ttl_seconds: int) -> None:
        """See ``AsyncClient.upsert_domain``."""
        self._call(self._client.upsert_domain(domain, ttl_seconds))

    def cells(self) -> list[Cell]:
        """See ``AsyncClient.cells``."""
        return self._call(self._client.cells())

    def events(self) -> Iterator[Event]:
        """See ``AsyncClient.events``; close the iterator, or let it go, to end the subscription."""
        return self._iterate(self._client.events())

    def follow(self, *, guid: str = "", domain: str = "", after: str = "") -> Iterator[Followed]:
        """See ``AsyncClient.follow``; close the iterator, or let it go, to end the subscription."""
        return self._iterate(self._client.follow(guid=guid, domain=domain, after=after))

    # -- the thread ----------------------------------------------------------------------------------------------

    def _iterate(self, values: AsyncGenerator[_T, None]) -> Iterator[_T]:
        try:
            while (value := self._call(_next(values))) is not None:
                yield value
        finally:
            # A closed client has ended it already.
            if not self._closed:
                self._call(values.aclose())

    def _call(self, work: Coroutine[object, object, _T]) -> _T:
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._open_loop())
        except RuntimeError:
            work.close()
            raise
        try:
            return future.result()
        except BaseException:
            # Ctrl-C in this thread; of a call that failed by itself there is nothing left to cancel.
            future.cancel()
            raise

    def _open_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                msg = "this client is closed; make another"
                raise RuntimeError(msg)
            if self._running is None:
                started: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
                started = concurrent.futures.Future()
                thread = threading.Thread(
                    target=asyncio.run, args=(_serve(self._client, started),), name="bulletin-client", daemon=True
                )
                thread.start()
                self._running = _Running(thread, *started.result())
            return self._running.loop


@dataclass(frozen=True, slots=True)
class _Running:
    """The background thread, its loop, and what ends it."""

    thread: threading.Thread
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event


async def _serve(
    client: AsyncClient, started: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
) -> None:
    """Keep the loop going until it is told to stop; ``asyncio.run`` then cancels what is left."""
    stop = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), stop))
    await stop.wait()
    await client.aclose()


async def _next(values: AsyncGenerator[_T, None]) -> _T | None:
    return await anext(values, None)
