"""The real Go client of the BBS, unchanged, against running boards and cells; the tests themselves are in ``go/``.

What needs containers runs against a board and a cell over plain HTTP. What is the protocol's alone runs against a
board, once over plain HTTP and once over mutual TLS with roles.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from support.bulletin import BoardProcess, BulletinUp
from support.leaks import LeakCheck
from support.skips import require_command

MODULE = Path(__file__).parent / "go"
#: The first build fetches and compiles the client's modules.
BUILD_SECONDS = 600
#: One Go test: its own waits are bounded by a minute each.
RUN_SECONDS = 180


def names_in(pattern: str) -> list[str]:
    """The names of the Go tests in the files of a pattern."""
    return sorted(
        name
        for source in MODULE.glob(pattern)
        for name in re.findall(r"^func (Test\w+)\(t \*testing\.T\)", source.read_text(), re.MULTILINE)
    )


PROTOCOL_TESTS = names_in("protocol_*_test.go")
CELL_TESTS = sorted(set(names_in("*_test.go")) - set(PROTOCOL_TESTS))
#: Over plain HTTP there are no certificates to test.
TLS_ALONE = {"TestConstructors", "TestRoles"}
#: They end the board, or crash it, so each has one of its own.
FATAL = {"TestOrderlyEnd", "TestReconnectAfterACrash"}


@pytest.fixture(scope="module")
def go_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled Go tests."""
    require_command("go")
    binary = tmp_path_factory.mktemp("go") / "interop.test"
    build = subprocess.run(
        ["go", "test", "-c", "-vet=all", "-o", str(binary), "."],
        cwd=MODULE,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert build.returncode == 0, build.stdout + build.stderr
    return binary


def run(
    binary: Path, name: str, environment: Mapping[str, str], log: Callable[[], str], deeds: Mapping[str, Callable] = {}
) -> None:
    """Run one Go test to its end; ``deeds`` are what it may ask for, by the word it asks with."""
    process = subprocess.Popen(
        [str(binary), "-test.v", "-test.run", f"^{name}$", "-test.timeout", f"{RUN_SECONDS}s"],
        cwd=MODULE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )
    said = []
    with process:
        try:
            for line in process.stdout:
                said.append(line)
                if line.startswith("board: "):
                    deeds[line.split()[1]]()
        finally:
            process.kill()
    story = f"{''.join(said)}\nthe end of bulletin's log:\n{log()[-4000:]}"
    assert process.returncode == 0, story
    assert f"--- PASS: {name} " in "".join(said), story


def test_every_go_test_is_known(go_tests: Path) -> None:
    """The lists above are read from the sources; the compiler's own list has to be the same."""
    listed = subprocess.run(
        [str(go_tests), "-test.list", "."], cwd=MODULE, capture_output=True, text=True, timeout=60, check=True
    )
    assert sorted(listed.stdout.split()) == sorted(CELL_TESTS + PROTOCOL_TESTS)
    assert CELL_TESTS
    assert set(PROTOCOL_TESTS) >= TLS_ALONE | FATAL


@pytest.mark.system
@pytest.mark.parametrize("name", CELL_TESTS)
def test_go_client(name: str, go_tests: Path, bulletin_up: BulletinUp) -> None:
    environment = {"BULLETIN_BOARD_URL": bulletin_up.url, "BULLETIN_CELL_ID": bulletin_up.cell_id}
    run(go_tests, name, environment, bulletin_up.process.log_text)


@pytest.fixture(scope="module", params=["http", "mtls"])
def transport(request: pytest.FixtureRequest) -> str:
    """How the board is spoken to."""
    return request.param


@pytest.fixture(scope="module")
def tls(transport: str, certificates: Path) -> tuple[list[str], dict[str, str]]:
    """The options of a board for the transport, and the environment of the Go tests."""
    if transport == "http":
        return [], {}
    files = {"ca": "ca.pem", "cert": "board.pem", "key": "board.key"}
    options = [word for name, file in files.items() for word in (f"--tls-{name}", str(certificates / file))]
    return options, {"BULLETIN_CERTIFICATES": str(certificates)}


@pytest.fixture(scope="module")
def shared_board(tls: tuple[list[str], dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A board for all tests that leave it alive."""
    check = LeakCheck(machine=False)
    board = BoardProcess(tmp_path_factory.mktemp("board"), tls[0])
    try:
        board.start()
        yield board
        board.stop()
    finally:
        if board.running:
            board.kill()
    for process in board.processes:
        check.watch(process)
    check.assert_clean()


@pytest.mark.parametrize("name", [name for name in PROTOCOL_TESTS if name not in FATAL])
def test_protocol(name: str, transport: str, go_tests: Path, shared_board: BoardProcess, tls: tuple) -> None:
    if transport == "http" and name in TLS_ALONE:
        pytest.skip("there are no certificates over plain HTTP")
    run(go_tests, name, {"BULLETIN_BOARD_URL": shared_board.url, **tls[1]}, shared_board.log_text)


@pytest.mark.parametrize("name", sorted(FATAL))
def test_protocol_when_the_board_ends(name: str, go_tests: Path, board_process: BoardProcess, tls: tuple) -> None:
    board_process.configure(*tls[0])
    url = board_process.start()
    assert url.startswith("https:" if tls[0] else "http:")
    environment = {"BULLETIN_BOARD_URL": url, **tls[1]}
    deeds = {"kill": board_process.restart, "stop": board_process.stop}
    run(go_tests, name, environment, board_process.log_text, deeds)
    if board_process.running:
        board_process.stop()
