"""Waiting for tasks to end: one event stream for all waits of a client, and no polling.

Rules. A wait is registered and the stream stands before the task is desired or looked up, so no end is missed. A guid
may be used again, so a wait belongs to one incarnation of it, told by ``created_at``, and holds an end it hears of
until it knows that the end is its own. When the stream ends, in order or not, it is opened again and every wait looks
its task up once, since what happened in between is lost (board-api.md 11.1). The stream is closed when nobody has
waited for ``IDLE_SECONDS``. With several boards the stream is opened again at the one that leads by then.
"""

from __future__ import annotations

import asyncio
import contextlib
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Final

from google.protobuf.message import DecodeError

from bulletin.client.boards import Patience
from bulletin.client.errors import BoardError, BoardUnreachable, TaskGone, TaskNotFound
from bulletin.client.failures import StreamCut, StreamRefused
from bulletin.client.streams import EventStream
from bulletin.client.subscriptions import EVENTS_PATH, refused_stream, subscribe, understand
from bulletin.client.transport import RETRY_DELAY_SECONDS, Transport
from bulletin.client.values import ENDED_STATES
from bulletin.core import limits
from bulletin.core.model import Task
from bulletin.core.operations import Event, TaskChanged, TaskCreated
from bulletin.wire.events import RawEvent
from bulletin.wire.proto import bbs_pb2

__all__ = ["IDLE_SECONDS", "RECONNECT_SECONDS", "Wait", "Waits"]

#: An unused stream is kept so long, so that one task after another needs no new one.
IDLE_SECONDS: Final = 5.0
#: A board that cannot be reached for longer fails the waits; a restart takes 5 s (design promise L6).
RECONNECT_SECONDS: Final = 60.0
#: A connection that lived shorter than this is not followed by the next one at once.
_SHORT_LIFE_SECONDS: Final = 1.0


class Wait:
    """One caller's wait for the end of one task."""

    __slots__ = ("_confirmed", "_created_at", "_ended", "_future", "_pinned", "_removed_at", "epoch", "guid")

    def __init__(self, guid: str) -> None:
        self.guid = guid
        #: Which of the stream's connections was the last when the wait began to listen.
        self.epoch = 0
        self._future: asyncio.Future[Task] = asyncio.get_running_loop().create_future()
        #: The task is there: desired with an answer, or found.
        self._confirmed = False
        #: The incarnation waited for, as far as it is known; ``_pinned`` once it cannot be another.
        self._created_at: int | None = None
        self._pinned = False
        #: The newest end heard of, of whatever incarnation.
        self._ended: Task | None = None
        #: ``created_at`` of an incarnation that was removed without an end.
        self._removed_at: int | None = None

    @property
    def is_confirmed(self) -> bool:
        """Whether the task is known to have been there."""
        return self._confirmed

    async def ended(self) -> Task:
        """Wait for the end.

        Raises:
            TaskGone: it was removed and nothing told its outcome.
            BoardUnreachable: the board stayed away for too long.
        """
        return await self._future

    def hear(self, event: Event) -> None:
        """Take an event of the guid."""
        if isinstance(event, TaskCreated):
            if not self._pinned:
                self._created_at = event.task.created_at
        elif isinstance(event, TaskChanged):
            self._note_end(event.after)
        elif not self._note_end(event.task):
            self._removed_at = event.task.created_at
        self._settle()

    def confirm(self) -> None:
        """The desire was answered with success."""
        self._confirmed = True
        self._settle()

    def find(self, task: Task) -> None:
        """The task was looked up, after the stream stood."""
        if self._pinned and task.created_at != self._created_at:
            self.fail(
                TaskGone(self.guid, "it was removed while the stream of events was cut, and another has its guid")
            )
            return
        self._confirmed = self._pinned = True
        self._created_at = task.created_at
        self._note_end(task)
        self._settle()

    def fail(self, error: BaseException) -> None:
        """End the wait with ``error``, unless it has ended."""
        if not self._future.done():
            self._future.set_exception(error)
            # Whoever gave the wait up never asks for it, and that is no mistake.
            self._future.exception()

    def _note_end(self, task: Task) -> bool:
        if task.state not in ENDED_STATES:
            return False
        if self._ended is None or task.created_at >= self._ended.created_at:
            self._ended = task
        return True

    def _settle(self) -> None:
        if not self._confirmed or self._created_at is None or self._future.done():
            return
        if self._ended is not None and self._ended.created_at == self._created_at:
            self._future.set_result(self._ended)
        elif self._removed_at == self._created_at:
            self.fail(TaskGone(self.guid, "it was removed before it had ended"))


class Waits:
    """All waits of a client and the stream they share. Belongs to one event loop.

    Args:
        transport: to the board.
        find: looks a task up by guid; raises ``TaskNotFound``.
        idle_seconds, reconnect_seconds: see the constants.
    """

    def __init__(
        self,
        transport: Transport,
        find: Callable[[str], Awaitable[Task]],
        *,
        idle_seconds: float = IDLE_SECONDS,
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> None:
        self._transport = transport
        self._find = find
        self._idle_seconds = idle_seconds
        self._reconnect_seconds = reconnect_seconds
        self._by_guid: dict[str, set[Wait]] = {}
        #: The reader of the stream, and what it still has to do to be heard.
        self._reader: asyncio.Task[None] | None = None
        self._connected: asyncio.Future[None] | None = None
        #: Counts connections of all streams.
        self._epoch = 0
        self._idle: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._looking = asyncio.Semaphore(limits.CLIENT_RECHECKS_MAX)

    @contextlib.asynccontextmanager
    async def watching(self, guid: str) -> AsyncIterator[Wait]:
        """A wait that hears everything about ``guid`` from now on.

        Raises:
            BoardUnreachable, Refused: there is no stream to be had.
        """
        wait = Wait(guid)
        # Registered first: a stream that ends before we get to run again must not take itself for unneeded.
        self._by_guid.setdefault(guid, set()).add(wait)
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        try:
            await self._listen()
            wait.epoch = self._epoch
            yield wait
        finally:
            waits = self._by_guid[guid]
            waits.discard(wait)
            if not waits:
                del self._by_guid[guid]
            if not self._by_guid and self._reader is not None:
                self._idle = asyncio.get_running_loop().call_later(self._idle_seconds, self._stop)

    async def confirm(self, wait: Wait) -> None:
        """The desire of the wait's task was answered with success."""
        wait.confirm()
        await self._catch_up(wait)

    async def find(self, wait: Wait) -> None:
        """Look the wait's task up.

        Raises:
            TaskNotFound: there is none.
            BoardUnreachable: no answer.
        """
        wait.find(await self._find(wait.guid))
        await self._catch_up(wait)

    async def close(self) -> None:
        """Drop the stream; waits that are left fail."""
        self._fail(BoardUnreachable(self._transport.url, "the client was closed", "keep it open as long as you wait"))
        self._stop()
        left = list(self._background)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    # -- the stream ----------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Return once the stream stands."""
        if self._reader is None or self._reader.done():
            self._connected = asyncio.get_running_loop().create_future()
            self._reader = self._spawn(self._run())
        assert self._connected is not None
        await asyncio.shield(self._connected)

    async def _run(self) -> None:
        try:
            await self._read_on()
        except Exception as error:
            # Whatever it is, those who wait have to know; what we do not expect goes on to the loop as well.
            self._fail(error)
            if not isinstance(error, BoardError):
                raise

    async def _read_on(self) -> None:
        """Read the stream for as long as somebody waits, over however many connections."""
        loop = asyncio.get_running_loop()
        stream = await self._connect(self._transport.patience())
        while True:
            opened_at = loop.time()
            self._epoch += 1
            assert self._connected is not None
            self._connected.set_result(None)
            self._look_all()
            with stream, contextlib.suppress(StreamCut):
                async for raw in stream:
                    self._dispatch(raw)
            if not self._by_guid:
                return
            self._connected = loop.create_future()
            if loop.time() - opened_at < _SHORT_LIFE_SECONDS:
                await asyncio.sleep(RETRY_DELAY_SECONDS)
            stream = await self._connect(Patience(1, self._reconnect_seconds))

    async def _connect(self, patience: Patience) -> EventStream:
        try:
            return await subscribe(self._transport, EVENTS_PATH, patience, RETRY_DELAY_SECONDS)
        except StreamRefused as error:
            raise refused_stream(self._transport.url, error) from error

    def _dispatch(self, raw: RawEvent) -> None:
        guid = _guid_of(raw)
        if guid is not None and guid not in self._by_guid:
            return
        event = understand(raw)
        if event is None or guid is None:
            return
        for wait in self._by_guid[guid]:
            wait.hear(event)

    def _fail(self, error: BaseException) -> None:
        if self._connected is not None and not self._connected.done():
            self._connected.set_exception(error)
            self._connected.exception()
        for waits in self._by_guid.values():
            for wait in waits:
                wait.fail(error)

    def _stop(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()

    # -- looking tasks up ----------------------------------------------------------------------------------------

    async def _catch_up(self, wait: Wait) -> None:
        """Look again when the stream was cut, and came back, while the last request was under way."""
        is_up = self._connected is not None and self._connected.done()
        if is_up and wait.epoch != self._epoch:
            wait.epoch = self._epoch
            await self._look(wait)

    def _look_all(self) -> None:
        for waits in self._by_guid.values():
            for wait in waits:
                if wait.is_confirmed:
                    self._spawn(self._look(wait))

    async def _look(self, wait: Wait) -> None:
        async with self._looking:
            try:
                task = await self._find(wait.guid)
            except TaskNotFound:
                wait.fail(TaskGone(wait.guid, "it was removed while the stream of events was cut"))
            except BoardError as error:
                wait.fail(error)
            else:
                wait.find(task)

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


def _guid_of(raw: RawEvent) -> str | None:
    """The guid an event is about, without making tasks of it: most events on a busy board are about others.

    ``TaskChangedEvent`` reads the other two as well, whose task is its ``before``.
    """
    try:
        message = bbs_pb2.TaskChangedEvent.FromString(b64decode(raw.data))
    except (ValueError, DecodeError):
        return None
    return message.after.task_guid or message.before.task_guid
