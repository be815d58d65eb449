"""``bulletin board`` as a process: what it refuses to start with, and with which words."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.bulletin import BoardProcess
from support.processes import run_bulletin

from bulletin import Client, RunAction, TaskDefinition

SECONDS_MAX = 30.0
DEFINITION = TaskDefinition(
    root_fs="docker:///busybox",
    action=RunAction(user="root", path="true"),
    image_username="somebody",
    image_password="a secret of the client",
)


@pytest.fixture
def write_keys(tmp_path: Path) -> Callable[..., str]:
    """Writes the file of encryption keys; returns its name."""

    def write(**keys: str) -> str:
        path = tmp_path / "keys.json"
        path.write_text(json.dumps(keys))
        path.chmod(0o600)
        return str(path)

    return write


@pytest.fixture
def board(board_process: BoardProcess) -> Iterator[BoardProcess]:
    yield board_process
    if board_process.running:
        board_process.stop()


def refusal(board: BoardProcess, *options: str, status: int = 1) -> str:
    """What another board on the same data says before it ends."""
    answer = run_bulletin("board", "--listen", "127.0.0.1:0", "--data", str(board.data), *options)
    assert (answer.returncode, answer.stdout) == (status, "")
    return answer.stderr


def test_a_second_board_on_the_same_file_is_refused_and_the_first_goes_on(board):
    with Client(board.start()) as client:
        client.desire("g", "d", DEFINITION)
        text = refusal(board)
        assert "error: the board cannot run: " in text
        assert str(board.data) in text
        assert client.task("g").guid == "g"


def test_secrets_are_sealed_and_the_key_is_demanded(board, write_keys):
    board.configure("--encryption-keys", write_keys(first="passphrase one"))
    with Client(board.start()) as client:
        client.desire("g", "d", DEFINITION)
    board.stop()
    at_rest = b"".join(path.read_bytes() for path in board.data.rglob("*") if path.is_file())
    assert b"a secret of the client" not in at_rest
    assert "labelled 'first'" in refusal(board)
    assert "another passphrase" in refusal(board, "--encryption-keys", write_keys(first="wrong"))
    keys = write_keys(first="passphrase one", second="passphrase two")
    board.configure("--encryption-keys", keys, "--active-key-label", "second")
    with Client(board.start()) as client:
        assert b"a secret of the client" in client.task("g").definition.encoded
    deadline = time.monotonic() + SECONDS_MAX
    while not any("rotation.done" in line and '"second"' in line for line in board.log_text().splitlines()):
        assert time.monotonic() < deadline, "the rotation was never done"
        time.sleep(0.02)
    board.stop()
    assert "passphrase" not in board.log_text()
    board.configure("--encryption-keys", write_keys(second="passphrase two"))
    with Client(board.start()) as client:
        assert client.task("g").guid == "g"


def test_a_refused_database_shows_no_password(board):
    answer = run_bulletin("board", environment={"BULLETIN_DATABASE": "postgresql://u:secret@h:port/d"})
    assert answer.returncode == 2
    assert "database: " in answer.stderr
    assert "secret" not in answer.stderr + answer.stdout


def test_an_address_in_use_is_told(board):
    address = board.start().removeprefix("http://")
    answer = run_bulletin("board", "--listen", address, "--data", str(board.data.with_name("other")))
    assert answer.returncode == 1
    assert "error: the board cannot run: " in answer.stderr
    assert "in use" in answer.stderr
