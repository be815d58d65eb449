"""The command line as a whole: help, exit statuses, start-up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bulletin.cli import app as module
from bulletin.cli.app import build, main
from bulletin.cli.exits import status_of
from bulletin.client.errors import BoardUnreachable, OutputNotFound, TaskGone, WaitTimeout, refusal
from bulletin.core.errors import ErrorType

COMMANDS = [command.name for command in module._COMMANDS]


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_command_and_exit_status(bulletin, flag):
    said = bulletin(flag)
    assert (said.status, said.err) == (0, "")
    for name in COMMANDS:
        assert f" {name} " in said.out
    for word in ("Examples:", "BULLETIN_BOARD", "124 timed out", "130 interrupted"):
        assert word in said.out


def test_nothing_at_all_is_help(bulletin):
    assert bulletin().out == bulletin("--help").out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(bulletin, command):
    said = bulletin(command, "--help")
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith(f"Usage: bulletin {command} ")
    assert "Examples:\n  bulletin " in said.out
    assert max(map(len, said.out.splitlines())) <= 80


@pytest.mark.parametrize("command", [*COMMANDS, None])
def test_words_of_the_overview_are_there_however_a_command_is_loaded(command):
    app = build(command)
    assert {*app.resolved_commands()} >= {*COMMANDS}


@pytest.mark.parametrize(
    ("arguments", "first", "second"),
    [
        (("nonsense",), "nonsense", "bulletin --help"),
        (("rum", "busybox"), 'Did you mean "run"?', "bulletin --help"),
        (("task", "nonsense"), "nonsense", "bulletin task --help"),
        (("task", "get"), "GUID", "bulletin task get --help"),
        (("cells", "--nonsense"), "--nonsense", "bulletin cells --help"),
        (("cells", "--no-json"), "--no-json", "bulletin cells --help"),
        (("cells", "word"), "word", "bulletin cells --help"),
        (("--nonsense",), "--nonsense", "bulletin --help"),
        (("board", "--listen", "x"), "listen: 'x' is not HOST:PORT", "bulletin board --help"),
        (("board", "--listen", "0.0.0.0:1"), "plain HTTP is for loopback only", "bulletin board --help"),
        (("board", "--health", "x"), "health: 'x' is not HOST:PORT", "bulletin board --help"),
        (("board", "--converge-interval", "x"), "is not a length of time", "bulletin board --help"),
        (("cell", "--board", "x"), "board: 'x' is not http://HOST:PORT", "bulletin cell --help"),
        (("cell", "--disk-mb", "x"), "disk-mb", "bulletin cell --help"),
        (("cell", "--id", "x" * 256), "id: must have 1 to 255", "bulletin cell --help"),
    ],
)
def test_wrong_usage_is_two_lines_and_status_2(bulletin, arguments, first, second):
    said = bulletin(*arguments)
    assert (said.status, said.out) == (2, "")
    error, hint = said.err.splitlines()
    assert error.startswith("error: ")
    assert first in error
    assert hint == f"try: {second}"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (refusal(ErrorType.RESOURCE_NOT_FOUND, ""), 3),
        (OutputNotFound("g", ""), 3),
        (refusal(ErrorType.RESOURCE_EXISTS, ""), 4),
        (refusal(ErrorType.INVALID_STATE_TRANSITION, ""), 4),
        (refusal(ErrorType.RESOURCE_CONFLICT, ""), 4),
        (refusal(ErrorType.RUNNING_ON_DIFFERENT_CELL, ""), 4),
        (refusal(ErrorType.INVALID_REQUEST, ""), 2),
        (BoardUnreachable("u", "c"), 5),
        (WaitTimeout("g", 1), 124),
        (TaskGone("g", ""), 1),
        (refusal(ErrorType.UNKNOWN_ERROR, ""), 1),
    ],
)
def test_exit_statuses(error, status):
    assert status_of(error) == status


def test_ctrl_c_is_130(monkeypatch):
    def interrupt(_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_dispatch", interrupt)
    assert main([]) == 130


def test_version(bulletin):
    said = bulletin("version", "--json")
    assert said.document["bulletin"] in bulletin("version").out
    assert said.document["python"] == "{}.{}.{}".format(*sys.version_info)
    assert bulletin("--version").out == f"bulletin {said.document['bulletin']}\n"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bulletin", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


def test_as_a_process():
    done = run("version", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["bulletin"]
    done = run("cells", BULLETIN_BOARD="http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.count("\n") == 2
    assert run("nonsense").returncode == 2


def test_a_reader_that_goes_away_is_no_traceback(board):
    for number in range(3):
        board.board.cells.append(_cell(f"cell-{number}" + "x" * 100_000))
    process = subprocess.Popen(
        [sys.executable, "-m", "bulletin", "cells", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "BULLETIN_BOARD": board.url},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141
    assert err == b""


@pytest.mark.parametrize("arguments", [("version",), ("cells",), ("cells", "--json")])
def test_nobody_reads_at_all(board, arguments):
    board.board.cells.append(_cell("c"))
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bulletin", *arguments],
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=60,
            # Unbuffered, there would be nothing left to fail on at the end.
            env={**os.environ, "BULLETIN_BOARD": board.url, "PYTHONUNBUFFERED": ""},
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_terminal_without_umlauts_is_no_reason_to_fail(board):
    board.board.cells.append(_cell("zölle"))
    done = run("cells", BULLETIN_BOARD=board.url, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "z\\xf6lle" in done.stdout


def _cell(name: str):
    from bulletin.wire.proto import bbs_pb2

    return bbs_pb2.CellPresence(cell_id=name, capacity=bbs_pb2.CellCapacity(memory_mb=1, disk_mb=1, containers=1))


def test_help_loads_nothing_it_does_not_need():
    script = (
        "import sys; from bulletin.cli import main; main(['--help']);"
        "heavy = {'aiohttp', 'google.protobuf', 'structlog', 'sqlalchemy', 'uvloop', 'bulletin.board'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"


def test_the_reference_page_names_every_command_and_status():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text()
    for name in COMMANDS:
        assert f"`bulletin {name}" in page
    for status in (0, 1, 2, 3, 4, 5, 124, 129, 130, 141, 143):
        assert f"| {status} |" in page
