"""kill -9 in the middle of 200 tasks, of the board and of the cell: nothing answered is lost, nothing runs twice.

How a second run would be seen: each task prints a random uuid, so two runs have two results, and the cell logs each
process it starts with the task's guid before any of its code runs; that log outlives the cell.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.bulletin import BoardProcess, import_example_image
from support.leaks import LeakCheck
from support.processes import ServingProcess
from support.skips import needs_command, needs_root

from bulletin import BoardError, Client, RunAction, Task, TaskDefinition, TaskState

pytestmark = [pytest.mark.system, needs_root, needs_command("skopeo", "umoci", "crun")]

TASKS = 200
DESIRERS = 8
#: Of a whole round: 200 containers on a busy machine.
SECONDS_MAX = 150.0
LOST_WITH_THE_CELL = "task container does not exist"


@dataclass
class Pair:
    """A board and a cell, each its own process, each of which can be killed."""

    board: BoardProcess
    directory: Path
    cell_id: str = field(default_factory=lambda: f"crash-{uuid.uuid4().hex[:8]}")
    cells: list[ServingProcess] = field(default_factory=list)

    def start_cell(self) -> None:
        arguments = ["cell", "--board", self.board.url, "--data", str(self.board.data), "--id", self.cell_id]
        cell = ServingProcess(arguments, self.directory / "cell.log")
        self.cells.append(cell)
        cell.start()

    def kill_cell(self) -> None:
        self.cells[-1].kill_alone()

    def started(self) -> Counter[str]:
        """How often a process of each task was started, over all lives of the cell."""
        starts: Counter[str] = Counter()
        for line in (self.directory / "cell.log").read_text().splitlines():
            if '"process.started"' in line:
                starts[json.loads(line)["task_guid"]] += 1
        return starts


@pytest.fixture
def pair(tmp_path: Path, board_process: BoardProcess) -> Iterator[Pair]:
    made = Pair(board_process, tmp_path)
    check = LeakCheck(scope=made.cell_id)
    board_process.start()
    import_example_image(board_process.data)
    made.start_cell()
    try:
        yield made
        if made.cells[-1].running:
            assert made.cells[-1].stop() == 0
        board_process.stop()
    finally:
        for cell in made.cells:
            if cell.running:
                cell.kill()
    for cell in made.cells:
        check.watch(cell)
    check.assert_clean()


def definition() -> TaskDefinition:
    script = "cat /proc/sys/kernel/random/uuid > result"
    return TaskDefinition(
        root_fs="docker:///busybox",
        memory_mb=32,
        disk_mb=16,
        max_pids=16,
        action=RunAction(user="root", path="sh", args=("-c", script)),
        result_file="result",
    )


def desire_all(url: str, at: int, crash: Callable[[], None]) -> set[str]:
    """Desire all tasks from several threads; ``crash`` after ``at`` answers. Returns the guids that were answered."""
    answered: set[str] = set()
    lock = threading.Lock()
    crashed = threading.Event()

    def desire(client: Client, guid: str) -> None:
        try:
            client.desire(guid, "crash", definition())
        except BoardError:
            return  # nobody was told that it is there, so nobody may count on it
        with lock:
            answered.add(guid)
            is_time = len(answered) >= at and not crashed.is_set()
            if is_time:
                crashed.set()
        if is_time:
            crash()

    with Client(url, retries=6) as client, ThreadPoolExecutor(DESIRERS) as pool:
        list(pool.map(lambda n: desire(client, f"t{n}"), range(TASKS)))
    assert crashed.is_set()
    return answered


def outcomes(url: str, guids: set[str]) -> dict[str, Task]:
    """Wait until each of ``guids`` has its outcome."""
    deadline = time.monotonic() + SECONDS_MAX
    with Client(url, retries=6) as client:
        while True:
            tasks = {task.guid: task for task in client.tasks(domain="crash")}
            missing = guids - tasks.keys()
            assert not missing, f"answered and lost: {sorted(missing)[:5]}"
            waiting = [task for task in tasks.values() if task.state is not TaskState.COMPLETED]
            if not waiting:
                return tasks
            assert time.monotonic() < deadline, f"{len(waiting)} never ended, such as {waiting[0]}"
            time.sleep(0.25)


def test_kill_9_of_the_board(pair: Pair) -> None:
    answered = desire_all(pair.board.url, TASKS // 2, pair.board.restart)
    tasks = outcomes(pair.board.url, answered)
    failed = [task for task in tasks.values() if task.failed]
    assert not failed, f"{len(failed)} failed, such as {failed[0]}"
    assert len({task.result for task in tasks.values()}) == len(tasks)
    starts = pair.started()
    assert starts.keys() == tasks.keys()
    assert set(starts.values()) == {1}


def test_kill_9_of_the_cell(pair: Pair) -> None:
    def crash() -> None:
        pair.kill_cell()
        pair.start_cell()

    answered = desire_all(pair.board.url, TASKS // 2, crash)
    tasks = outcomes(pair.board.url, answered)
    assert {task.failure_reason for task in tasks.values()} <= {"", LOST_WITH_THE_CELL}
    succeeded = [task for task in tasks.values() if not task.failed]
    assert len(succeeded) > TASKS // 2, "what had not run yet runs on the cell's next life"
    assert len({task.result for task in succeeded}) == len(succeeded)
    starts = pair.started()
    assert set(starts.values()) == {1}
    assert {task.guid for task in succeeded} <= starts.keys()


def test_kill_9_of_both(pair: Pair) -> None:
    def crash() -> None:
        pair.kill_cell()
        pair.board.restart()
        pair.start_cell()

    answered = desire_all(pair.board.url, TASKS // 2, crash)
    tasks = outcomes(pair.board.url, answered)
    assert {task.failure_reason for task in tasks.values()} <= {"", LOST_WITH_THE_CELL}
    assert set(pair.started().values()) == {1}
