"""Two real boards over one PostgreSQL database: the one that serves is lost, and no wait is."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from support.leaks import LeakCheck
from support.ports import free_port
from support.processes import ServingProcess

from bulletin import AsyncClient, Missed, TaskState
from bulletin.client import transport

pytestmark = pytest.mark.system

WAITS = 50
START_SECONDS = 60.0


class Pair:
    """A board that serves and one that stands by."""

    def __init__(self, directory, database: str, pool: ThreadPoolExecutor) -> None:
        self.urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
        self.logs = [directory / f"board-{number}.log" for number in range(2)]
        self.processes = [
            ServingProcess(
                ["board", "--data", str(directory), "--listen", url.removeprefix("http://")],
                log,
                {"BULLETIN_DATABASE": database},
            )
            for url, log in zip(self.urls, self.logs, strict=True)
        ]
        self.processes[0].start()
        # Its ready line comes when it takes over.
        self.ready: Future[str] = pool.submit(self.processes[1].start, START_SECONDS * 2)


@pytest.fixture
async def pair(tmp_path, postgres_url, eventually: Callable):
    check = LeakCheck(machine=False)
    with ThreadPoolExecutor(1) as pool:
        made = await asyncio.to_thread(Pair, tmp_path, postgres_url, pool)
        try:
            await eventually(lambda: made.logs[1].exists() and '"standby"' in made.logs[1].read_text())
            yield made
        finally:
            # A start that is still awaited ends when its process does.
            for process in made.processes:
                if process._process is not None:
                    process._process.kill()
            made.ready.exception(START_SECONDS)
            for process in made.processes:
                process.kill()
    for process in made.processes:
        check.watch(process)
    check.assert_clean()


@pytest.mark.parametrize("loss", [signal.SIGKILL, signal.SIGSTOP])
async def test_every_wait_ends_right_when_the_board_is_lost(pair, definition, eventually, monkeypatch, loss):
    """A third of the tasks ends before, the others after; of those some are waited for anew, and new ones are run."""
    # A board that is stopped keeps its connections open; the time to notice is shortened, as it is not the point.
    monkeypatch.setattr(transport, "_STREAM_SILENCE_SECONDS", 5.0)
    guids = [f"g{number}" for number in range(WAITS)]
    timeout = 5.0 if loss is signal.SIGSTOP else 30.0
    async with AsyncClient(pair.urls, timeout_seconds=timeout, failover_seconds=60) as client:

        async def finish(guid: str) -> None:
            await client.start(guid, "cell")
            await client.complete(guid, "cell", result=f"of {guid}")

        runs = {guid: asyncio.create_task(client.run(definition, guid=guid)) for guid in guids}
        waits = client._open_waits()
        await eventually(lambda: sum(wait.is_confirmed for found in waits._by_guid.values() for wait in found) == WAITS)
        await asyncio.gather(*(finish(guid) for guid in guids[: WAITS // 3]))
        # From the beginning of the first reign: it stands once it has told the first event.
        follower = client.follow(after="1-0")
        assert (await anext(follower)).position == "1-1"
        os.kill(pair.processes[0].pid, loss)

        late = asyncio.create_task(client.run(definition, guid="late"))
        again = [asyncio.create_task(client.wait(guid)) for guid in guids]
        for guid in guids[WAITS // 3 :]:
            await finish(guid)
        await eventually(lambda: any(wait.is_confirmed for wait in waits._by_guid.get("late", ())))
        await finish("late")

        for guid, task in zip(guids, await asyncio.gather(*again), strict=True):
            assert (task.guid, task.state, task.result) == (guid, TaskState.COMPLETED, f"of {guid}")
        for guid in guids:
            outcome = await runs[guid]
            assert (outcome.guid, outcome.succeeded, outcome.result) == (guid, True, f"of {guid}")
        assert (await late).result == "of late"
        assert client.url == pair.urls[1]
        # The positions of the first board's reign mean nothing to the second, and that is said.
        seen = [await anext(follower)]
        while not isinstance(seen[-1].event, Missed):
            seen.append(await anext(follower))
        assert {one.position.partition("-")[0] for one in seen[:-1]} <= {"1"}
        assert seen[-1].position.startswith("2-")
        await follower.aclose()
