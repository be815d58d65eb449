"""The board of tests/client on a thread of its own, with a cell that ends tasks as it is told, and the command line."""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib.util
import json
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from bulletin.cli import main
from bulletin.core import operations
from bulletin.core.model import Task, TaskState

_SOURCE = Path(__file__).parents[1] / "client" / "conftest.py"


def _load_fake_board() -> type:
    spec = importlib.util.spec_from_file_location("bulletin_fake_board", _SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FakeBoard


@dataclass
class Ending:
    """How the cell of the tests ends a task."""

    failed: bool = False
    reason: str = ""
    result: str = ""
    #: (stream, source, text) each; None keeps no output.
    output: list[tuple[str, str, str]] | None = field(default_factory=list)
    #: Leave it pending, or running.
    never: str = ""


class BoardThread:
    """A ``FakeBoard`` behind real sockets, usable from blocking code."""

    def __init__(self) -> None:
        self.board = _load_fake_board()()
        #: How the next tasks end; the last one goes for all that follow.
        self.endings: list[Ending] = [Ending()]
        self.desired: list[Task] = []
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="fake-board")

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.result(10)
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        """Serve until told to stop; ``asyncio.run`` cancels what is left of requests."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await self.board.open()
        cell = asyncio.create_task(self._play_cell())
        self._started.set_result(None)
        await self._stop.wait()
        cell.cancel()
        await self.board.close()

    @property
    def url(self) -> str:
        return self.board.url

    def start(self, work: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.start(work).result(10)

    def do(self, *operations: operations.Operation) -> None:
        for operation in operations:
            self.call(self.board.do(operation))

    async def _play_cell(self) -> None:
        seen: set[tuple[str, int]] = set()
        while True:
            fresh = [task for task in self.board.tasks.values() if (task.guid, task.created_at) not in seen]
            for task in fresh:
                seen.add((task.guid, task.created_at))
                self.desired.append(task)
                await self._end(task)
            async with self.board.changed:
                await self.board.changed.wait_for(
                    lambda: any((task.guid, task.created_at) not in seen for task in self.board.tasks.values())
                )

    async def _end(self, task: Task) -> None:
        ending = self.endings.pop(0) if len(self.endings) > 1 else self.endings[0]
        if ending.never == "started" or task.state is not TaskState.PENDING:
            return
        await self.board.do(operations.Start(task.guid, "cell-1"))
        if ending.never:
            return
        if ending.output is not None:
            self.board.outputs[task.guid] = [
                {"time_ns": 1 + n, "stream": stream, "source": source, "text": text}
                for n, (stream, source, text) in enumerate(ending.output)
            ]
        await self.board.do(operations.Complete(task.guid, "cell-1", ending.failed, ending.reason, ending.result))


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Iterator[BoardThread]:
    with BoardThread() as board:
        monkeypatch.setenv("BULLETIN_BOARD", board.url)
        yield board


@pytest.fixture(name="ending")
def _ending() -> type[Ending]:
    return Ending


@dataclass
class Said:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def documents(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def bulletin(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run the command line in this process."""

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        status = main(list(arguments))
        said = capsys.readouterr()
        return Said(status, said.out, said.err)

    return run


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("BULLETIN_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
    # It would bind the loggers of this whole process to the captured stream of one test.
    monkeypatch.setattr("bulletin.telemetry.logging.configure", lambda _level: None)
    monkeypatch.setattr("bulletin.client.transport.RETRY_DELAY_SECONDS", 0.01)
    monkeypatch.setattr("bulletin.client.waits.RETRY_DELAY_SECONDS", 0.01)
    monkeypatch.setattr("bulletin.client.following.RETRY_DELAY_SECONDS", 0.01)


@pytest.fixture(autouse=True)
def _deadline() -> Iterator[None]:
    """A wait that never ends is a failure, not a hang."""

    def give_up(_number: int, _frame: object) -> None:
        raise TimeoutError("the test hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 240)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
