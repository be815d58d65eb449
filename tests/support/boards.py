"""Boards for tests that want the same thing of every store: a process over SQLite or PostgreSQL, or one in a thread.

``ThreadBoard`` is a whole board over a memory store, reached over HTTP as any other; what it has beside is a clock that
stands still until it is told to go on, and convergence at a word.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from support.model import Call
from support.voices import Voice

from bulletin.board.app import Board
from bulletin.board.settings import Address, BoardSettings
from bulletin.seams import RandomIds, SystemClock
from bulletin.store.memory import Contents, MemoryStore

__all__ = ["ThreadBoard", "ToldClock", "clear"]

STOP_SECONDS = 20.0
#: A lease that a clock cannot outrun, however far it is put forward.
_LEASE_SECONDS = 1e9


class ToldClock:
    """Stands still until it is told to go on; both its times go on alike."""

    def __init__(self) -> None:
        self._start_ns = time.time_ns()
        self._passed_ns = 0

    def advance(self, seconds: float) -> None:
        self._passed_ns += round(seconds * 1e9)

    def now_ns(self) -> int:
        return self._start_ns + self._passed_ns

    def monotonic(self) -> float:
        return 1e6 + self._passed_ns / 1e9


class ThreadBoard:
    """A board in a thread of this process, over contents that outlive it."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ToldClock()
        self.contents = Contents()
        self.url = ""
        self._settings = {
            "listen": Address("127.0.0.1", 0),
            "data": None,
            "lease_seconds": _LEASE_SECONDS,
            "converge_repeat_interval_seconds": 3600.0,
            "stop_grace_seconds": 0.5,
            "presence_ttl_seconds": 0.001,
            **settings,
        }
        self._board: Board | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: Future[None] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def start(self) -> str:
        ready: Future[str] = Future()
        self._thread = ThreadPoolExecutor(1, "board")
        self._running = self._thread.submit(asyncio.run, self._serve(ready))
        wait([ready, self._running], STOP_SECONDS, FIRST_COMPLETED)
        if not ready.done():
            self._running.result(0)  # raises why it did not come up
        self.url = ready.result(0)
        # Past the time in which a board gives cells a chance to dial it.
        self.clock.advance(1)
        self._settings["listen"] = Address("127.0.0.1", int(self.url.rpartition(":")[2]))
        return self.url

    def stop(self) -> None:
        """Stop it as SIGTERM does; idempotent."""
        if self._running is None:
            return
        assert self._loop is not None
        assert self._board is not None
        self._loop.call_soon_threadsafe(self._board.stop)
        running, self._running = self._running, None
        running.result(STOP_SECONDS)
        assert self._thread is not None
        self._thread.shutdown()

    def converge(self) -> None:
        """One sweep, now."""
        assert self._loop is not None
        assert self._board is not None
        reign = self._board._http.reign
        assert reign is not None
        asyncio.run_coroutine_threadsafe(reign.converger.converge(), self._loop).result(STOP_SECONDS)

    def is_telling(self, guid: str) -> bool:
        """Whether the callback of a task is under way or queued."""
        assert self._board is not None
        reign = self._board._http.reign
        assert reign is not None
        return reign.callbacks.holds(guid)

    async def _serve(self, ready: Future[str]) -> None:
        self._loop = asyncio.get_running_loop()
        store = MemoryStore(clock=SystemClock(), contents=self.contents)
        self._board = Board(BoardSettings(**self._settings), store, self.clock, RandomIds())
        is_ready: asyncio.Future[str] = self._loop.create_future()
        is_ready.add_done_callback(lambda done: None if done.cancelled() else ready.set_result(done.result()))
        try:
            await self._board.run(is_ready)
        finally:
            is_ready.cancel()


def clear(voice: Voice, within_seconds: float = STOP_SECONDS) -> None:
    """Take every task off a board, whatever it is in the middle of."""
    deadline = time.monotonic() + within_seconds
    while tasks := voice.list():
        assert time.monotonic() < deadline, f"these do not go: {tasks}"
        for task in tasks:
            for name in ("cancel", "resolving", "delete"):
                voice.call(Call(name, task.guid))
