"""Fixtures of all tests: a running board, a running board and cell, and what they must not leave behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.bulletin import BUSYBOX, BoardProcess, BulletinUp
from support.leaks import LeakCheck
from support.ports import free_port
from support.postgres import PostgresServer, require_postgres
from support.skips import require_command, require_root

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("bulletin", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bulletin")


@pytest.fixture(scope="session")
def bulletin_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BulletinUp]:
    """A board and a cell with the image ``docker:///busybox``, shared by the whole session; proven to leave nothing."""
    require_root()
    require_command("skopeo", "umoci")
    if not BUSYBOX.exists():
        pytest.skip(f"{BUSYBOX} is missing: install busybox-static")
    directory = tmp_path_factory.mktemp("bulletin-up")
    data = directory / "data"
    data.mkdir()
    cell_id = f"test-{uuid.uuid4().hex[:12]}"
    check = LeakCheck(scope=cell_id)
    up = BulletinUp.start(data, directory / "up.log", cell_id)
    check.watch(up.process)
    LeakCheck.neighbours.add(cell_id)
    try:
        yield up
        up.stop()
    finally:
        LeakCheck.neighbours.discard(cell_id)
        up.process.kill()
    check.assert_clean()


@pytest.fixture
def board_process(tmp_path: Path) -> Iterator[BoardProcess]:
    """A board alone, not yet started: ``start``, ``kill``, ``restart``, ``stop``."""
    check = LeakCheck(machine=False)
    board = BoardProcess(tmp_path)
    try:
        yield board
    finally:
        if board.running:
            board.kill()
    for process in board.processes:
        check.watch(process)
    check.assert_clean()


@pytest.fixture
def leak_check() -> Iterator[LeakCheck]:
    """A look at the system before the test; after it, nothing may be there that was not there before."""
    check = LeakCheck()
    yield check
    check.assert_clean()


@pytest.fixture
def unused_port() -> Callable[[], int]:
    """Gives free TCP ports of the loopback."""
    return free_port


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A private PostgreSQL server, shared by the whole session; gone at its end."""
    require_postgres()
    # Not below pytest's own directory, which only the user of the test run may enter.
    directory = Path(tempfile.mkdtemp(prefix="bulletin-postgres-"))
    directory.chmod(0o755)
    server = PostgresServer(directory / "server")
    try:
        server.start()
        server_pid = server.pid
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)
    with pytest.raises(ProcessLookupError):
        os.kill(server_pid, 0)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a new, empty database."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)
