"""``bulletin task``: every command against a board."""

from __future__ import annotations

import io
import json
import threading

import pytest

from bulletin import ResourceLimits, RunAction, TaskDefinition, TaskState, read_definition
from bulletin.cli.tasks import app
from bulletin.core import errors
from bulletin.core.definition import File
from bulletin.core.model import CallbackAttempt
from bulletin.core.operations import Cancel, Desire, Fail, RecordAttempts, Resolving, Start
from bulletin.wire.tasks import encode_definition, summarise

DEFINITION = {"root_fs": "docker:///busybox", "action": {"run_action": {"path": "true", "user": "root"}}}

FULL = TaskDefinition(
    root_fs="docker:///busybox",
    action=RunAction(
        path="/x", user="root", args=("-a",), env=(("TOKEN", "sekret1"),), resource_limits=ResourceLimits(3)
    ),
    environment_variables=(("KEY", "sekret2"),),
    memory_mb=1536,
    image_username="u",
    image_password="sekret3",
    volume_mounted_files=(File("p", "sekret4"),),
    completion_callback_url="https://u:sekret5@h/p?token=sekret6",
    network_properties={"env": "plain"},
    annotation="note\x1b[2J",
)


@pytest.fixture
def pending(board, ending):
    """Desire tasks that the cell leaves alone."""
    board.endings = [ending(never="started")]

    def desire(guid, domain="d", definition=FULL):
        board.do(Desire(guid, domain, summarise(encode_definition(definition))))

    return desire


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "definition.json"
    path.write_text(json.dumps(DEFINITION))
    return str(path)


def test_desire(board, bulletin, file):
    said = bulletin("task", "desire", file, "--guid", "g", "--domain", "dom")
    assert (said.status, said.out) == (0, "g\n")
    task = board.board.tasks["g"]
    assert task.domain == "dom"
    assert read_definition(task).action == RunAction(path="true", user="root")
    assert bulletin("task", "desire", file, "--guid", "g").status == 4
    said = bulletin("task", "desire", file, "--json")
    assert said.document["domain"] == "default"
    assert said.document["task_guid"] in board.board.tasks


def test_desire_from_standard_input(board, bulletin, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(DEFINITION).encode())))
    assert bulletin("task", "desire", "-", "--guid", "g").status == 0
    assert "g" in board.board.tasks


@pytest.mark.parametrize(
    ("text", "err"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"root_fs": "a:b", "root_fs": "c:d"}', "is not JSON"),
        ('{"rootfs": "docker:///busybox"}', 'no field named "rootfs"'),
        ('{"root_fs": 3}', "is not a definition"),
        ('{"root_fs": "docker:///x"}', "is not a definition: Invalid field: action"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_definition_that_is_none(bulletin, tmp_path, text, err):
    path = tmp_path / "definition.json"
    if text is not None:
        path.write_text(text)
    said = bulletin("task", "desire", str(path))
    assert said.status == 2
    assert err in said.err.splitlines()[0]


def test_a_definition_the_board_refuses(board, bulletin, tmp_path):
    path = tmp_path / "definition.json"
    path.write_text(json.dumps({"action": DEFINITION["action"]}))
    said = bulletin("task", "desire", str(path))
    assert said.status == 2
    assert said.err.startswith("error: the request is refused: Invalid field: rootfs, invalid action type\n")


def test_get_shows_everything_but_secrets(pending, bulletin):
    pending("g")
    said = bulletin("task", "get", "g")
    assert said.status == 0
    for words in ("task g", "Pending", "docker:///busybox", "1.5G", "/x -a", "TOKEN=********", "KEY=********"):
        assert words in said.out
    assert "********@h/p" in said.out
    assert "sekret" not in said.out
    assert "\x1b[2J" not in said.out
    shown = bulletin("task", "get", "g", "--show-secrets").out
    assert all(f"sekret{n}" in shown for n in range(1, 7))


def test_get_as_json(pending, bulletin):
    pending("g")
    said = bulletin("task", "get", "g", "--json")
    document = said.document
    assert (document["task_guid"], document["state"], document["failed"]) == ("g", "Pending", False)
    assert isinstance(document["created_at"], int)
    definition = document["task_definition"]
    assert definition["memory_mb"] == 1536
    assert definition["action"]["run_action"]["env"] == [{"name": "TOKEN", "value": "********"}]
    assert definition["network"]["properties"] == {"env": "plain"}
    assert "sekret" not in said.out
    shown = bulletin("task", "get", "g", "--json", "--show-secrets").document["task_definition"]
    assert shown["image_password"] == "sekret3"


ATTEMPTS = (
    CallbackAttempt(1_795_460_318_569_809_506, 12_400_000, 503, "status 503"),
    CallbackAttempt(1_795_460_319_000_000_000, 900_000_000, 0, "no answer\x1b[2J in time"),
    CallbackAttempt(1_795_460_320_000_000_000, 3_000_000, 200),
)


def test_get_shows_the_attempts_to_call_back(board, pending, bulletin):
    pending("g")
    assert "CALLBACK" not in bulletin("task", "get", "g").out
    board.do(Cancel("g"), Resolving("g"), RecordAttempts("g", ATTEMPTS))
    out = bulletin("task", "get", "g").out
    rows = [line.strip("│ ").split()[2:] for line in out.splitlines() if " ms " in line]
    assert rows == [
        ["12", "ms", "503", "status", "503"],
        ["900", "ms", "-", "no", "answer\\x1b[2J", "in", "time"],
        ["3", "ms", "200", "told"],
    ]
    assert bulletin("task", "get", "g", "--json").document["callback_attempts"] == [
        {"at_ns": each.at, "duration_ns": each.duration_ns, "status": each.status, "problem": each.problem}
        for each in ATTEMPTS
    ]


def test_a_task_without_a_callback_is_not_asked_for_attempts(board, bulletin, file):
    bulletin("task", "desire", file, "--guid", "g")
    assert bulletin("task", "get", "g", "--json").document["callback_attempts"] == []
    assert "/v1/tasks/g/callbacks" not in board.board.requests


def test_a_board_that_keeps_no_attempts(board, pending, bulletin):
    pending("g")
    board.board.order("/v1/tasks/g/callbacks", 404)
    assert bulletin("task", "get", "g").status == 0


def test_get_of_an_ended_task(board, bulletin, ending, file):
    board.endings = [ending(failed=True, reason="APP: Exited with status 3\n", result="two\nlines")]
    bulletin("task", "desire", file, "--guid", "g")
    bulletin("task", "wait", "g")
    out = bulletin("task", "get", "g").out
    for words in ("Completed, failed", "Exited with status 3\\n", "two", "lines"):
        assert words in out


def test_no_such_task(board, bulletin):
    for command in (("get", "g"), ("wait", "g"), ("output", "g"), ("cancel", "g"), ("delete", "g")):
        said = bulletin("task", *command)
        assert said.status == 3, command
        assert said.out == ""
        assert said.err.startswith("error: there is no ")
        assert "\ntry: " in said.err


def test_list(board, pending, bulletin):
    assert bulletin("task", "list").out.split() == [
        "GUID",
        "DOMAIN",
        "STATE",
        "CELL",
        "AGE",
        "MEMORY",
        "ROOTFS",
        "REASON",
    ]
    pending("a")
    pending("b", "other")
    board.do(Start("b", "cell-9"))
    pending("c")
    board.do(Cancel("c"))
    rows = [line.split() for line in bulletin("task", "list").out.splitlines()[1:]]
    assert [row[:3] for row in rows] == [["a", "d", "Pending"], ["b", "other", "Running"], ["c", "d", "Completed,"]]
    assert rows[2][-3:] == ["task", "was", "cancelled"]

    def guids(*arguments):
        return [task["task_guid"] for task in bulletin("task", "list", "--json", *arguments).documents]

    assert guids() == ["a", "b", "c"]
    assert guids("--domain", "other") == ["b"]
    assert guids("--cell", "cell-9") == ["b"]
    assert guids("--state", "Completed") == ["c"]
    assert guids("--state", "Resolving") == []
    assert bulletin("task", "list", "--state", "Gone").status == 2


def test_a_long_reason_is_cut_in_a_table_only(board, pending, bulletin):
    pending("a")
    board.do(Fail("a", "x" * 200))
    assert "x" * 59 + "…" in bulletin("task", "list").out
    assert "x" * 200 in bulletin("task", "get", "a").out


@pytest.mark.parametrize(
    ("failed", "status", "out", "err"), [(False, 0, "r", ""), (True, 1, "", "error: task g failed: why\n")]
)
def test_wait(board, bulletin, ending, file, failed, status, out, err):
    board.endings = [ending(failed=failed, reason="why" if failed else "", result="r")]
    bulletin("task", "desire", file, "--guid", "g")
    said = bulletin("task", "wait", "g")
    assert (said.status, said.out, said.err) == (status, out, err)
    said = bulletin("task", "wait", "g", "--json")
    assert said.status == status
    assert said.document["failed"] is failed


def test_wait_no_longer(pending, bulletin):
    pending("g")
    said = bulletin("task", "wait", "g", "--timeout", "20ms")
    assert said.status == 124
    assert said.err.startswith("error: task g has not ended within 0.02 s")


def test_output(board, bulletin, ending, file):
    board.endings = [
        ending(output=[("out", "APP", "hi"), ("err", "APP", "oops"), ("out", "CELL", "Exit\x1b status 0")])
    ]
    bulletin("task", "desire", file, "--guid", "g")
    bulletin("task", "wait", "g")
    said = bulletin("task", "output", "g")
    assert (said.status, said.out, said.err) == (0, "hi\nExit\x1b status 0\n", "oops\n")
    documents = bulletin("task", "output", "g", "--json").documents
    assert documents[1] == {"time_ns": 2, "stream": "err", "source": "APP", "text": "oops"}
    lines = bulletin("task", "output", "g", "--verbose").out.splitlines()
    assert lines[1].endswith(" err [APP] oops")
    assert lines[2].endswith(" out [CELL] Exit\\x1b status 0")


def test_cancel_several(board, pending, bulletin):
    pending("a")
    pending("b")
    said = bulletin("task", "cancel", "a", "nobody", "b")
    assert said.status == 3
    assert said.err.splitlines()[0] == "cancelled a"
    assert said.err.splitlines()[-1] == "cancelled b"
    assert {task.failure_reason for task in board.board.tasks.values()} == {"task was cancelled"}
    said = bulletin("task", "cancel", "a")
    assert said.status == 4
    assert "Cannot transition from Completed to Completed" in said.err
    pending("c")
    assert bulletin("task", "cancel", "c", "--json").documents == [{"task_guid": "c", "cancelled": True}]


def test_delete(board, pending, bulletin):
    pending("a")
    said = bulletin("task", "delete", "a")
    assert said.status == 4
    assert said.err == "error: task a has not ended\ntry: wait for it (bulletin task wait), or pass --cancel\n"
    assert bulletin("task", "delete", "--cancel", "a").status == 0
    pending("b")
    board.do(Cancel("b"), Resolving("b"))
    pending("c")
    board.do(Start("c", "cell"))
    said = bulletin("task", "delete", "--cancel", "--json", "b", "c")
    assert said.documents == [{"task_guid": "b", "deleted": True}, {"task_guid": "c", "deleted": True}]
    assert board.board.tasks == {}


def test_delete_of_a_task_that_ends_meanwhile(board, pending, bulletin, monkeypatch):
    """Cancel is too late; the task goes nevertheless."""
    pending("a")
    fake = board.board
    real = fake._cancel_task

    async def late(message):
        await fake.finish("a")
        return await real(message)

    monkeypatch.setattr(fake, "_cancel_task", late)
    assert bulletin("task", "delete", "--cancel", "a").status == 0
    assert fake.tasks == {}


def test_delete_gives_up_on_a_task_that_never_holds_still(board, pending, bulletin, monkeypatch):
    pending("a")
    board.do(Cancel("a"))
    fake = board.board

    async def refused(_message):
        raise errors.transition("Completed", "Resolving")

    monkeypatch.setattr(fake, "_delete_task", refused)
    monkeypatch.setattr(fake, "_resolving_task", refused)
    said = bulletin("task", "delete", "a")
    assert said.status == 1
    assert "keeps changing its state" in said.err


def test_nobody_named(board, bulletin):
    assert bulletin("task", "cancel").status == 2


def test_no_board_ends_it_at_once(bulletin):
    said = bulletin("task", "cancel", "a", "b", "--board", "http://127.0.0.1:1")
    assert said.status == 5
    assert said.err.count("error: ") == 1


def test_every_command_is_named_in_the_help(bulletin):
    said = bulletin("task", "--help")
    assert said.status == 0
    for name in {*app.resolved_commands()} - {"--help", "-h", "--version"}:
        assert name in said.out


def test_a_wait_is_ended_by_the_end(board, pending, bulletin):
    pending("g")
    ender = threading.Thread(
        target=lambda: (
            board.call(board.board.until(lambda: board.board.count("/v1/tasks/get_by_task_guid.r3") == 1)),
            board.do(Cancel("g")),
        )
    )
    ender.start()
    said = bulletin("task", "wait", "g")
    ender.join()
    assert said.status == 1
    assert TaskState.COMPLETED is board.board.tasks["g"].state
