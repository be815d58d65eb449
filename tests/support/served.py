"""A whole board on this test's own loop, reached over HTTP like any other, its parts within reach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from bulletin.board.app import Board
from bulletin.board.reign import Reign
from bulletin.board.settings import Address, BoardSettings
from bulletin.seams import RandomIds, SystemClock
from bulletin.store.api import Store
from bulletin.store.broken import BrokenStore
from bulletin.store.memory import MemoryStore
from bulletin.wire.proto import bbs_pb2 as bbs

__all__ = ["Scrape", "Served", "desire_request", "scrape", "serve_board"]

#: Sample name and labels, in order, to value.
Scrape = dict[tuple[str, *tuple[tuple[str, str], ...]], float]


@dataclass
class Served:
    """A board that serves."""

    url: str
    board: Board
    store: BrokenStore
    session: aiohttp.ClientSession

    @property
    def reign(self) -> Reign:
        reign = self.board._http.reign
        assert reign is not None, "the board does not rule"
        return reign

    async def call(self, path: str, message: Any = None, kind: Any = bbs.TaskLifecycleResponse, **headers: str) -> Any:
        """The answer to a call; an error in it is the caller's to look at."""
        body = b"" if message is None else message.SerializeToString()
        sent = {"Content-Type": "application/x-protobuf", **headers}
        async with self.session.post(f"{self.url}/v1/{path}", data=body, headers=sent) as response:
            assert response.status == 200
            return kind.FromString(await response.read())

    async def done(self, path: str, message: Any = None, kind: Any = bbs.TaskLifecycleResponse) -> Any:
        """The answer to a call that succeeds."""
        answer = await self.call(path, message, kind)
        assert not answer.HasField("error"), answer.error
        return answer

    async def desire(self, guid: str, domain: str = "d", **fields: Any) -> None:
        await self.done("tasks/desire.r2", desire_request(guid, domain, **fields))

    async def start(self, guid: str, cell_id: str = "c1") -> bool:
        message = bbs.StartTaskRequest(task_guid=guid, cell_id=cell_id)
        return (await self.done("tasks/start", message, bbs.StartTaskResponse)).should_start

    async def complete(self, guid: str, cell_id: str = "c1", **fields: Any) -> None:
        await self.done("tasks/complete", bbs.CompleteTaskRequest(task_guid=guid, cell_id=cell_id, **fields))

    async def act(self, path: str, guid: str) -> None:
        await self.done(f"tasks/{path}", bbs.TaskGuidRequest(task_guid=guid))


def desire_request(guid: str, domain: str = "d", **fields: Any) -> bbs.DesireTaskRequest:
    action = bbs.Action(run_action=bbs.RunAction(path="sh", user="root"))
    definition = bbs.TaskDefinition(**{"root_fs": "docker:///busybox", "action": action, **fields})
    return bbs.DesireTaskRequest(task_guid=guid, domain=domain, task_definition=definition)


@asynccontextmanager
async def serve_board(store: Store | None = None, **settings: Any) -> AsyncIterator[Served]:
    """A board over ``store`` (memory when left out), until the block is left; it converges at a word only."""
    clock = SystemClock()
    broken = BrokenStore(store or MemoryStore(clock=clock))
    options = {
        "listen": Address("127.0.0.1", 0),
        "data": None,
        "converge_repeat_interval_seconds": 3600.0,
        "commit_retry_seconds": 0.0,
        "stop_grace_seconds": 0.5,
        **settings,
    }
    board = Board(BoardSettings(**options), broken, clock, RandomIds())
    ready = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(board.run(ready))
    await asyncio.wait({ready, running}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        ready.cancel()
        await running  # raises why it could not
    try:
        async with aiohttp.ClientSession() as session:
            yield Served(await ready, board, broken, session)
    finally:
        board.stop()
        await asyncio.wait_for(running, 10)


async def scrape(session: aiohttp.ClientSession, url: str) -> Scrape:
    """What a scraper reads at ``url``."""
    async with session.get(url) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = await response.text()
    samples: Scrape = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in samples, f"{key} stands twice"
            samples[key] = sample.value
    return samples
