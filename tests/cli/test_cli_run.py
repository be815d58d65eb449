"""``bulletin run``: what is desired, shown, returned and removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from bulletin import RunAction, TimeoutAction, read_definition
from bulletin.cli import printing
from bulletin.core.model import TaskState
from bulletin.core.operations import Cancel, Resolving

HELLO = [("out", "CELL", "Cell c creating container"), ("out", "APP", "hello"), ("out", "APP", "Exit status 0")]


def test_the_output_of_the_command_and_nothing_else(board, bulletin, ending):
    board.endings = [ending(output=[*HELLO[:2], ("err", "APP", "oops"), HELLO[2]])]
    said = bulletin("run", "busybox", "--", "echo", "hello")
    assert (said.status, said.out, said.err) == (0, "hello\n", "oops\n")
    assert board.board.tasks == {}, "an ended task is removed"


def test_the_definition_is_what_was_asked_for(board, bulletin):
    said = bulletin(
        *("run", "host:5000/team/app:v1", "--memory", "1G", "--disk", "2G", "--pids", "7", "--cpu-weight", "50"),
        *("--user", "alice", "--env", "A=1", "-e", "B=x=y", "--dir", "/d", "--result-file", "/r", "--privileged"),
        *("--timeout", "1m30s", "--guid", "g-1", "--domain", "dom", "--", "/app", "-x", "--json", "--"),
    )
    assert said.status == 0
    (task,) = board.desired
    definition = read_definition(task)
    assert (task.guid, task.domain) == ("g-1", "dom")
    assert definition.root_fs == "docker://host:5000/team/app#v1"
    assert (definition.memory_mb, definition.disk_mb, definition.max_pids) == (1024, 2048, 7)
    assert (definition.cpu_weight, definition.privileged, definition.result_file) == (50, True, "/r")
    assert (definition.log_guid, definition.log_source) == ("g-1", "CELL")
    assert definition.action == TimeoutAction(
        RunAction(
            path="/app",
            args=("-x", "--json", "--"),
            user="alice",
            dir="/d",
            env=(("A", "1"), ("B", "x=y")),
            log_source="APP",
        ),
        90_000,
    )


def test_the_defaults_are_bounded(board, bulletin):
    assert bulletin("run", "busybox", "true").status == 0
    definition = read_definition(board.desired[0])
    assert (definition.memory_mb, definition.max_pids, definition.privileged) == (256, 1024, False)
    assert isinstance(definition.action, RunAction)
    assert (definition.action.path, definition.action.user) == ("true", "root")


@pytest.mark.parametrize(
    ("reason", "status", "err"),
    [
        ("APP: Exited with status 3", 3, ""),
        ("APP: Exited with status 137 (out of memory)", 137, "out of memory)\ntry: allow it more: --memory\n"),
        ("exceeded 2s timeout; APP: Exited with status 143", 124, "error: the task failed: exceeded 2s timeout"),
        ("exceeded 2s timeout", 124, "error: the task failed: exceeded 2s timeout\n"),
        ("insufficient resources: memory", 1, "try: ask for less"),
        ("found no compatible cell", 1, "bulletin cells"),
        ("weird\x1b[31m", 1, "error: the task failed: weird\\x1b[31m\n"),
        ("", 1, "the board gave no reason"),
    ],
)
def test_a_failure_is_told_and_returned(board, bulletin, ending, reason, status, err):
    board.endings = [ending(failed=True, reason=reason)]
    said = bulletin("run", "busybox", "--", "x")
    assert said.status == status
    assert said.out == ""
    if err:
        assert err in said.err
    else:
        assert said.err == ""


def test_the_result_follows_the_output(board, bulletin, ending):
    board.endings = [
        ending(output=HELLO, result="42\n"),
        ending(output=[("out", "APP", "tailExit status 0")], result="42\n"),
        ending(output=None, result="42"),
    ]
    assert bulletin("run", "busybox", "--result-file", "/r", "--", "x").out == "hello\n42\n"
    assert bulletin("run", "busybox", "--result-file", "/r", "--", "x").out == "tail\n42\n"
    assert bulletin("run", "busybox", "--result-file", "/r", "--", "x").out == "42"


def test_output_without_a_newline_stays_without(board, bulletin, ending):
    board.endings = [ending(output=[("out", "APP", "fooExit status 0")])]
    assert bulletin("run", "busybox", "--", "x").out == "foo"


def test_verbose_tells_what_the_cell_says(board, bulletin, ending):
    board.endings = [ending(output=HELLO)]
    said = bulletin("run", "-v", "busybox", "--", "x")
    assert (said.out, said.err) == ("hello\n", "Cell c creating container\nExit status 0\n")
    board.endings = [ending(output=None)]
    said = bulletin("run", "-v", "busybox", "--", "x")
    assert "there is no output of task" in said.err


def test_one_document(board, bulletin, ending):
    board.endings = [ending(output=HELLO, failed=True, reason="APP: Exited with status 4", result="r")]
    said = bulletin("run", "--json", "--guid", "g", "busybox", "--", "x")
    assert said.status == 4
    assert said.err == ""
    document = said.document
    assert document.pop("created_at") > 0
    assert document.pop("first_completed_at") > 0
    assert document == {
        "task_guid": "g",
        "domain": "default",
        "succeeded": False,
        "exit_status": 4,
        "failure_reason": "APP: Exited with status 4",
        "result": "r",
        "output": [{"time_ns": 2, "stream": "out", "source": "APP", "text": "hello"}],
    }


def test_keep_keeps(board, bulletin):
    assert bulletin("run", "--keep", "--guid", "g", "busybox", "--", "x").status == 0
    assert board.board.tasks["g"].state is TaskState.COMPLETED


def test_somebody_else_may_remove_it_first(board, bulletin, monkeypatch):
    real = board.board._resolving_task

    async def faster(message):
        await board.board.do(Resolving(message.task_guid))
        return await real(message)

    monkeypatch.setattr(board.board, "_resolving_task", faster)
    assert bulletin("run", "busybox", "--", "x").status == 0


def test_a_taken_guid(board, bulletin):
    bulletin("run", "--keep", "--guid", "g", "busybox", "--", "x")
    said = bulletin("run", "--guid", "g", "busybox", "--", "x")
    assert said.status == 4
    assert said.err.startswith("error: a task g exists already\ntry: ")


@pytest.mark.parametrize(
    ("arguments", "err"),
    [
        (("busybox",), "there is no command to run"),
        (("busybox", "--"), "there is no command to run"),
        ((), "IMAGE"),
        (("Bad Image", "--", "x"), "invalid image reference"),
        (("busybox", "--memory", "1X", "--", "x"), "is not a size"),
        (("busybox", "--timeout", "never", "--", "x"), "is not a length of time"),
        (("busybox", "--env", "sekret", "--", "x"), "NAME=VALUE"),
        (("busybox", "--pids", "many", "--", "x"), "--pids"),
        (("busybox", "--nonsense", "--", "x"), "--nonsense"),
        (("busybox", "--board", "nowhere", "--", "x"), "is not the URL of a board"),
        (("busybox", "--board", "https://x", "--key", "k", "--", "x"), "--key needs --cert"),
        (
            ("busybox", "--board", "https://x", "--ca", "/no/such/file", "--", "x"),
            "/no/such/file: the authorities cannot be found",
        ),
    ],
)
def test_wrong_usage(bulletin, arguments, err):
    said = bulletin("run", *arguments)
    assert said.status == 2
    assert said.out == ""
    first, second = said.err.splitlines()
    assert first.startswith("error: ")
    assert err in first
    assert second.startswith("try: ")
    assert "sekret" not in said.err


def test_no_board(bulletin):
    said = bulletin("run", "--board", "http://127.0.0.1:1", "busybox", "--", "x")
    assert said.status == 5
    assert "bulletin up" in said.err


def test_a_wait_that_is_over_cancels_and_removes(board, bulletin, ending):
    board.endings = [ending(never="started")]
    said = bulletin("run", "--wait", "50ms", "--guid", "g", "busybox", "--", "x")
    assert said.status == 124
    assert "had not ended within 0.05 s and was cancelled" in said.err
    assert board.board.tasks == {}


class Killer:
    """Sends this process a signal when the board sees something."""

    def __init__(self, board, condition, number):
        self._thread = threading.Thread(target=self._run, args=(board, condition, number))
        self._thread.start()

    def _run(self, board, condition, number):
        board.call(board.board.until(condition))
        os.kill(os.getpid(), number)

    def join(self):
        self._thread.join()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("never", ["started", "ended"])
def test_a_signal_cancels_the_task(board, bulletin, ending, number, status, never):
    board.endings = [ending(never=never)]
    wanted = TaskState.PENDING if never == "started" else TaskState.RUNNING
    killer = Killer(board, lambda: "g" in board.board.tasks and board.board.tasks["g"].state is wanted, number)
    seen = []
    real = board.board._cancel_task

    async def cancel(message):
        answer = await real(message)
        seen.append(board.board.tasks["g"].failure_reason)
        return answer

    board.board._cancel_task = cancel
    said = bulletin("run", "--guid", "g", "busybox", "--", "x")
    killer.join()
    assert said.status == status
    assert "cancelling task g" in said.err
    assert seen == ["task was cancelled"]
    assert board.board.tasks == {}


def test_a_signal_before_the_board_has_the_task_cancels_it_still(board, bulletin, ending, monkeypatch):
    board.endings = [ending(never="started")]
    fake = board.board
    real_desire, real_cancel = fake._desire_task, fake._cancel_task
    tries = []

    async def slow_desire(message):
        os.kill(os.getpid(), signal.SIGINT)
        await fake.until(lambda: bool(tries))
        return await real_desire(message)

    async def cancel(message):
        tries.append(message.task_guid)
        async with fake.changed:
            fake.changed.notify_all()
        return await real_cancel(message)

    fake._desire_task, fake._cancel_task = slow_desire, cancel
    said = bulletin("run", "--guid", "g", "busybox", "--", "x")
    assert said.status == 130
    assert len(tries) >= 2
    assert fake.tasks == {}


def test_a_task_that_is_cancelled_by_another_is_a_failure(board, bulletin, ending):
    board.endings = [ending(never="ended")]
    canceller = threading.Thread(
        target=lambda: (
            board.call(
                board.board.until(lambda: any(t.state is TaskState.RUNNING for t in board.board.tasks.values()))
            ),
            board.do(Cancel("g")),
        )
    )
    canceller.start()
    said = bulletin("run", "--guid", "g", "busybox", "--", "x")
    canceller.join()
    assert said.status == 1
    assert "the task failed: task was cancelled" in said.err


@pytest.mark.parametrize(("never", "words"), [("started", "waits for a cell"), ("ended", "is with cell cell-1")])
def test_patience_is_asked_for_once(board, bulletin, ending, monkeypatch, never, words):
    monkeypatch.setattr("bulletin.cli.running._PATIENCE_SECONDS", 0.0)
    board.endings = [ending(never=never)]
    wanted = TaskState.PENDING if never == "started" else TaskState.RUNNING
    fake = board.board
    real = fake._task_by_guid

    async def asked(message):
        await fake.until(lambda: "g" in fake.tasks and fake.tasks["g"].state is wanted)
        return await real(message)

    def say_and_end(text):
        real_say(text)
        if words in text:
            board.start(fake.do(Cancel("g")))

    real_say = printing.say
    monkeypatch.setattr(printing, "say", say_and_end)
    monkeypatch.setattr(fake, "_task_by_guid", asked)
    said = bulletin("run", "-v", "--keep", "--guid", "g", "busybox", "--", "x")
    assert said.err.count(words) == 1
    assert board.board.count("/v1/tasks/get_by_task_guid.r3") == 1


def test_a_second_signal_leaves_at_once(board, ending):
    board.endings = [ending(never="ended")]
    fake = board.board
    fake.order("/v1/tasks/cancel", "hang")
    process = subprocess.Popen(
        [sys.executable, "-m", "bulletin", "run", "--guid", "g", "--board", board.url, "busybox", "--", "x"],
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    board.call(fake.until(lambda: "g" in fake.tasks and fake.tasks["g"].state is TaskState.RUNNING))
    process.send_signal(signal.SIGINT)
    board.call(fake.until(lambda: fake.count("/v1/tasks/cancel") == 1))
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
