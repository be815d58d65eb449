"""A client that desires tasks and waits for their completion on the board's event stream."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp

from bulletin.wire.proto import bbs_pb2

__all__ = ["TaskFailed", "WaitingClient", "waiting_client"]

#: bbs.proto, Task.State.
_RUNNING, _COMPLETED = 2, 3
_WAIT_SECONDS = 60.0
_HEADERS = {"Content-Type": "application/x-protobuf"}


class TaskFailed(Exception):
    """A task was refused, failed, or did not end."""


class WaitingClient:
    """Desires and waits; one connection for the events, as many as are needed for the desires."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._waiting: dict[tuple[str, int], asyncio.Future[tuple[float, bbs_pb2.Task]]] = {}

    async def desire(self, guid: str, definition: bbs_pb2.TaskDefinition) -> None:
        """Desire a task.

        Raises:
            TaskFailed: the board refused it.
        """
        body = bbs_pb2.DesireTaskRequest(task_guid=guid, domain="bench", task_definition=definition).SerializeToString()
        async with self._session.post("/v1/tasks/desire.r2", data=body, headers=_HEADERS) as response:
            answer = bbs_pb2.TaskLifecycleResponse.FromString(await response.read())
        if answer.HasField("error"):
            raise TaskFailed(f"{guid}: {answer.error.message}")

    async def run(self, guid: str, definition: bbs_pb2.TaskDefinition) -> tuple[float, bbs_pb2.Task]:
        """Desire a task; returns the seconds until its completion was seen here, and the completed task."""
        completed = self._expect(guid, _COMPLETED)
        began = time.perf_counter()
        await self.desire(guid, definition)
        async with asyncio.timeout(_WAIT_SECONDS):
            at, task = await completed
        return at - began, task

    async def running(self, guid: str, definition: bbs_pb2.TaskDefinition) -> None:
        """Desire a task and wait until its board says that it runs."""
        running = self._expect(guid, _RUNNING)
        await self.desire(guid, definition)
        async with asyncio.timeout(_WAIT_SECONDS):
            await running

    async def cancel(self, guid: str) -> None:
        body = bbs_pb2.TaskGuidRequest(task_guid=guid).SerializeToString()
        async with self._session.post("/v1/tasks/cancel", data=body, headers=_HEADERS) as response:
            await response.read()

    async def read_events(self, subscribed: asyncio.Event) -> None:
        """Read the event stream to its end, which is an error here."""
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.post("/v1/events/tasks.r1", headers=_HEADERS, timeout=timeout) as response:
            subscribed.set()
            name = b""
            async for line in response.content:
                key, _, value = line.strip().partition(b": ")
                if key == b"event":
                    name = value
                elif key == b"data" and name == b"task_changed":
                    self._changed(base64.b64decode(value))
        raise TaskFailed("the board ended the event stream")

    def _expect(self, guid: str, state: int) -> asyncio.Future[tuple[float, bbs_pb2.Task]]:
        future: asyncio.Future[tuple[float, bbs_pb2.Task]] = asyncio.get_running_loop().create_future()
        self._waiting[guid, state] = future
        return future

    def _changed(self, payload: bytes) -> None:
        after = bbs_pb2.TaskChangedEvent.FromString(payload).after
        future = self._waiting.pop((after.task_guid, after.state), None)
        if future is not None:
            future.set_result((time.perf_counter(), after))


@asynccontextmanager
async def waiting_client(url: str) -> AsyncIterator[WaitingClient]:
    """A client that is subscribed to the board's events."""
    timeout = aiohttp.ClientTimeout(total=_WAIT_SECONDS)
    async with aiohttp.ClientSession(url, timeout=timeout, read_bufsize=1 << 20) as session:
        client = WaitingClient(session)
        subscribed = asyncio.Event()
        events = asyncio.create_task(client.read_events(subscribed))
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await subscribed.wait()
            yield client
        finally:
            events.cancel()
            with suppress(asyncio.CancelledError):
                await events
