"""Boards that stand in for each other over one PostgreSQL database, as processes: killed, paused, stopped, cut off.

Times are not asserted; each takeover prints how long it took (``pytest -rP`` shows it).
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.bulletin import import_example_image
from support.leaks import LeakCheck
from support.ports import free_port
from support.postgres import PostgresServer, require_postgres
from support.processes import ServingProcess
from support.skips import needs_command, needs_root

from bulletin import BoardError, Client, RunAction, TaskDefinition, TaskState
from bulletin.wire.proto import bbs_pb2 as bbs

pytestmark = pytest.mark.system

#: Of any one wait; what is waited for takes some seconds.
SECONDS_MAX = 90.0


class Standing:
    """One of the boards: its process, its two addresses, and the future of its ready line."""

    def __init__(self, directory: Path, database: str, pool: ThreadPoolExecutor) -> None:
        directory.mkdir()
        self.url = f"http://127.0.0.1:{free_port()}"
        self.health = f"http://127.0.0.1:{free_port()}"
        self.log = directory / "board.log"
        arguments = ["board", "--data", str(directory), "--resolved-retention", "1h", "--converge-interval", "1h"]
        arguments += ["--listen", self.url.removeprefix("http://"), "--health", self.health.removeprefix("http://")]
        self.process = ServingProcess(arguments, self.log, {"BULLETIN_DATABASE": database})
        self.ready: Future[str] = pool.submit(self.process.start, SECONDS_MAX)

    def await_ready(self) -> str:
        return self.ready.result(SECONDS_MAX)

    def await_log(self, words: str, count: int = 1) -> None:
        until(lambda: self.log.exists() and self.log.read_text().count(words) >= count, f"{words} in {self.log}")

    def is_closed(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(self.url.rpartition(":")[2]))) != 0

    def is_healthy(self) -> bool:
        with urlopen(self.health) as answer:
            return answer.status == 200


class Boards:
    """All boards of a test; each is ended and looked after when it is over."""

    def __init__(self, directory: Path, database: str) -> None:
        self._directory = directory
        self._database = database
        self._pool = ThreadPoolExecutor(8)
        self.all: list[Standing] = []

    def start(self) -> Standing:
        board = Standing(self._directory / f"board-{len(self.all)}", self._database, self._pool)
        self.all.append(board)
        return board

    def pair(self) -> tuple[Standing, Standing]:
        """One that serves and one that stands by."""
        first = self.start()
        first.await_ready()
        second = self.start()
        second.await_log('"standby"')
        return first, second

    def close(self) -> None:
        for board in self.all:
            # One whose start is still awaited in a thread ends that by ending.
            if board.process._process is not None and board.process.running:
                board.process._process.kill()
            board.ready.exception(SECONDS_MAX)
            if board.process._process is not None:
                board.process.kill()
        self._pool.shutdown()


@pytest.fixture
def boards(tmp_path: Path, postgres_url: str) -> Iterator[Boards]:
    check = LeakCheck(machine=False)
    made = Boards(tmp_path, postgres_url)
    try:
        yield made
    finally:
        made.close()
    for board in made.all:
        check.watch(board.process)
    check.assert_clean()


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not is_so():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.02)


def definition(script: str = "true", **options: object) -> TaskDefinition:
    return TaskDefinition(
        root_fs="docker:///busybox",
        memory_mb=32,
        disk_mb=16,
        max_pids=16,
        action=RunAction(user="root", path="sh", args=("-c", script)),
        result_file="result",
        **options,  # type: ignore[arg-type]
    )


def desire_message(guid: str) -> bytes:
    action = bbs.Action(run_action=bbs.RunAction(path="sh", user="root"))
    task = bbs.TaskDefinition(root_fs="docker:///busybox", action=action)
    return bbs.DesireTaskRequest(task_guid=guid, domain="d", task_definition=task).SerializeToString()


class Desirers:
    """Threads that desire one task after the other, with all boards to turn to."""

    def __init__(self, urls: list[str], count: int) -> None:
        self.answered: set[str] = set()
        self.problems: list[BoardError] = []
        self._urls = urls
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._desire, args=(n,)) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def _desire(self, desirer: int) -> None:
        with Client(self._urls) as client:
            number = 0
            while not self._stop.is_set():
                guid = f"g-{desirer}-{number}"
                number += 1
                try:
                    client.desire(guid, "d", definition())
                except BoardError as error:
                    self.problems.append(error)
                else:
                    self.answered.add(guid)

    def await_more(self, count: int) -> None:
        goal = len(self.answered) + count
        until(lambda: len(self.answered) >= goal, f"{count} more answers, after {self.problems[-3:]}")

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(SECONDS_MAX)
            assert not thread.is_alive()


def guids(url: str) -> set[str]:
    with Client(url) as client:
        return {task.guid for task in client.tasks()}


def test_kill_9_under_load(boards: Boards) -> None:
    first, second = boards.pair()
    assert second.is_healthy()
    assert second.is_closed()
    desirers = Desirers([first.url, second.url], 4)
    try:
        desirers.await_more(50)
        os.kill(first.process.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        second.await_ready()
        print(f"takeover after kill -9: {time.monotonic() - killed_at:.2f} s")
        desirers.await_more(50)
    finally:
        desirers.close()
    assert desirers.answered <= guids(second.url), "answered and lost"


def test_a_clean_stop_hands_over(boards: Boards) -> None:
    first, second = boards.pair()
    with Client([first.url, second.url]) as client:
        client.desire("g", "d", definition())
        stopped_at = time.monotonic()
        os.kill(first.process.pid, signal.SIGTERM)
        second.await_ready()
        print(f"takeover after SIGTERM: {time.monotonic() - stopped_at:.2f} s")
        assert client.task("g").state is TaskState.PENDING
    assert first.process.stop() == 0


def test_a_paused_board_is_replaced_and_knows_it_when_it_goes_on(boards: Boards) -> None:
    first, second = boards.pair()
    with Client(first.url) as client:
        client.desire("old", "d", definition())
    port = int(first.url.rpartition(":")[2])
    os.kill(first.process.pid, signal.SIGSTOP)
    stopped_at = time.monotonic()
    # What these connections send waits in the kernel until the board goes on.
    reading, writing = (http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS_MAX) for _ in range(2))
    with closing(reading), closing(writing), Client(second.url) as client:
        reading.request("POST", "/v1/tasks/list.r3")
        writing.request("POST", "/v1/tasks/desire.r2", desire_message("lost"))
        second.await_ready()
        print(f"takeover after SIGSTOP: {time.monotonic() - stopped_at:.2f} s")
        client.cancel("old")
        client.desire("new", "d", definition())
        os.kill(first.process.pid, signal.SIGCONT)
        for connection in (reading, writing):
            with suppress(ConnectionError, http.client.HTTPException):  # cut off: as good
                assert connection.getresponse().status == 503
        first.await_log('"standby"')
        assert first.is_closed()
        assert first.is_healthy()
        assert {task.guid: task.state for task in client.tasks()} == {
            "old": TaskState.COMPLETED,
            "new": TaskState.PENDING,
        }
    os.kill(second.process.pid, signal.SIGKILL)
    first.await_log('"ruling"', 2)
    assert guids(first.url) == {"old", "new"}
    assert first.process.stop() == 0, "and its ready line came only once"


def test_two_boards_race_for_an_empty_database(boards: Boards) -> None:
    racers = [boards.start() for _ in range(3)]
    until(lambda: any(racer.ready.done() for racer in racers), "a first board")
    (winner,) = [racer for racer in racers if racer.ready.done()]
    losers = [racer for racer in racers if racer is not winner]
    winner.await_ready()
    for loser in losers:
        loser.await_log('"standby"')
        assert loser.is_closed()
    with Client(winner.url) as client:
        client.desire("g", "d", definition())
    assert winner.process.stop() == 0
    until(lambda: any(loser.ready.done() for loser in losers), "a second board")
    (second,) = [loser for loser in losers if loser.ready.done()]
    assert guids(second.await_ready()) == {"g"}


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server of this test's own, which may be stopped."""
    require_postgres()
    directory = Path(tempfile.mkdtemp(prefix="bulletin-postgres-"))
    directory.chmod(0o755)
    server = PostgresServer(directory / "server")
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


def test_a_board_survives_an_outage_of_its_database(tmp_path: Path, own_server: PostgresServer) -> None:
    boards = Boards(tmp_path, own_server.create_database())
    try:
        first, second = boards.pair()
        with Client([first.url, second.url]) as client:
            client.desire("g", "d", definition())
        own_server.kill()
        first.await_log('"reign.lost"')
        second.await_log('"lease.failed"')
        assert first.is_closed()
        assert first.is_healthy()
        assert second.is_healthy()
        own_server.start()
        until(lambda: not (first.is_closed() and second.is_closed()), "a board that serves again")
        with Client([first.url, second.url]) as client:
            assert {task.guid for task in client.tasks()} == {"g"}
            client.desire("h", "d", definition())
        assert first.process.running
        assert second.process.running
    finally:
        boards.close()


@needs_root
@needs_command("skopeo", "umoci", "crun")
def test_a_cell_follows_and_its_container_is_not_run_twice(boards: Boards, tmp_path: Path) -> None:
    first, second = boards.pair()
    cell_id = f"failover-{uuid.uuid4().hex[:8]}"
    check = LeakCheck(scope=cell_id)
    data = tmp_path / "cell-data"
    import_example_image(data)
    arguments = ["cell", "--board", f"{first.url},{second.url}", "--data", str(data), "--id", cell_id]
    cell = ServingProcess(arguments, tmp_path / "cell.log")
    cell.start()
    try:
        with Client([first.url, second.url]) as client:
            script = "sleep 6; cat /proc/sys/kernel/random/uuid > result"
            for n in range(3):
                client.desire(f"g{n}", "d", definition(script))
            until(lambda: all(task.state is TaskState.RUNNING for task in client.tasks()), "three running tasks")
            os.kill(first.process.pid, signal.SIGKILL)
            killed_at = time.monotonic()
            second.await_ready()
            until(lambda: [seen.cell_id for seen in client.cells()] == [cell_id], "the cell at the second board")
            print(f"cell at the new board after kill -9: {time.monotonic() - killed_at:.2f} s")
            until(lambda: all(task.state is TaskState.COMPLETED for task in client.tasks()), "three outcomes")
            tasks = client.tasks()
            assert not [task for task in tasks if task.failed]
            assert len({task.result for task in tasks}) == 3
        assert (tmp_path / "cell.log").read_text().count('"process.started"') == 3
        assert cell.stop() == 0
    finally:
        if cell.running:
            cell.kill()
    check.watch(cell)
    check.assert_clean()
