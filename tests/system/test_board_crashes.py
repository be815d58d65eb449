"""kill -9 of the board, and of the database under it, at random moments of a load; connections cut under it as well.

After each crash everything anybody was told has to be explained by one order of events (tests/support/crashing.py):
what was answered is there, a cancelled task stays cancelled, the first outcome stays, callbacks told what is stored.
``BULLETIN_ROUNDS`` sets how often each board is killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest
from support.bulletin import BoardProcess
from support.crashing import Load
from support.leaks import LeakCheck
from support.postgres import PostgresServer, require_postgres

pytestmark = pytest.mark.system

#: Of each store, over its two boards.
ROUNDS = int(os.environ.get("BULLETIN_ROUNDS", "100"))
#: A board's start is work of one core, and takes longer than the load: two boards die side by side.
BOARDS = 2
DATABASE_ROUNDS = 10
#: No sweep comes between a crash and the look after it; the last start has one.
QUIET = ("--converge-interval", "1h", "--resolved-retention", "1ms", "--callback-expiry", "1h")
#: On PostgreSQL a dead board's lease has to run out before its successor may work.
LEASE = ("--lease", "1s", "--lease-retry", "50ms")
#: Everybody is told however long the crashes took: what expires is tests/system/test_board_model.py's.
KEEPING = ("--expire-completed", "1h", "--callback-expiry", "1h")
SWEEPING = ("--converge-interval", "200ms", "--kick-after", "100ms", "--resolved-retention", "1ms", *KEEPING)
#: What may follow a seed: the moment of death, in seconds of load.
DEATH_SECONDS = (0.03, 0.35)


Boards = Callable[[str, str], BoardProcess]


@pytest.fixture
def make_board(tmp_path: Path) -> Iterator[Boards]:
    """Makes boards of a name over a database; none of the processes they were is left at the end."""
    check = LeakCheck(machine=False)
    made: list[BoardProcess] = []

    def make(name: str, database: str) -> BoardProcess:
        (tmp_path / name).mkdir()
        made.append(BoardProcess(tmp_path / name, [*QUIET, *LEASE], database=database))
        return made[-1]

    yield make
    for board in made:
        if board.running:
            board.kill()
        for process in board.processes:
            check.watch(process)
    check.assert_clean()


def finish(board: BoardProcess, load: Load) -> None:
    """Stop gracefully, start with sweeps, and see every callback told."""
    board.stop()
    board.configure(*SWEEPING, *LEASE)
    board.start()
    load.finish(board.url)
    board.stop()
    assert load.answered > load.unanswered, "hardly anything was answered: no load"


def die_often(board: BoardProcess, name: str, seed: int, rounds: int) -> None:
    chance = random.Random(seed)
    load = Load(name, seed)
    with load:
        board.start()
        for number in range(rounds):
            load.start(board.url)
            time.sleep(chance.uniform(*DEATH_SECONDS))
            board.kill()
            load.stop()
            board.start()
            try:
                load.settle(board.url)
            except AssertionError as error:
                raise AssertionError(f"board {name}, round {number}: {error}") from None
        finish(board, load)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Makes databases: URLs, or empty for SQLite."""
    made: list[str] = []
    if request.param == "sqlite":
        yield lambda: ""
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")

    def make() -> str:
        made.append(server.create_database())
        return made[-1]

    yield make
    for url in made:
        server.drop_database(url)


def test_kill_9_at_random_moments(database: Callable[[], str], make_board: Boards) -> None:
    boards = {f"b{number}": make_board(f"b{number}", database()) for number in range(BOARDS)}
    with ThreadPoolExecutor(BOARDS) as pool:
        runs = [
            pool.submit(die_often, board, name, seed=seed, rounds=ROUNDS // BOARDS)
            for seed, (name, board) in enumerate(boards.items())
        ]
        for each in runs:
            each.result()


# -- the database ------------------------------------------------------------------------------------------------


def test_kill_9_of_the_database(make_board: Boards) -> None:
    require_postgres()
    chance = random.Random(7)
    # Not below pytest's own directory, which only the user of the test run may enter.
    directory = Path(tempfile.mkdtemp(prefix="bulletin-postgres-"))
    directory.chmod(0o755)
    server = PostgresServer(directory / "server", ("fsync=off",))  # a process dies, not the machine
    load = Load("db", 7)
    board: BoardProcess | None = None
    try:
        server.start()
        board = make_board("board", server.create_database())
        with load:
            board.start()
            for _ in range(DATABASE_ROUNDS):
                load.start(board.url)
                time.sleep(chance.uniform(0.1, 0.4))
                server.kill()
                time.sleep(chance.uniform(0.0, 0.3))
                server.start()
                load.stop()
                load.settle(board.url)
                assert board.running, "a board outlives its database"
            finish(board, load)
    finally:
        if board is not None and board.running:
            board.kill()
        server.stop()
        shutil.rmtree(directory)


def test_connections_to_the_database_are_cut(postgres_url: str, make_board: Boards) -> None:
    chance = random.Random(9)
    board, load = make_board("board", postgres_url), Load("cut", 9)
    with load:
        board.start()
        for _ in range(DATABASE_ROUNDS):
            load.start(board.url)
            for _ in range(2):
                time.sleep(chance.uniform(0.05, 0.2))
                asyncio.run(cut_connections(postgres_url))
            load.stop()
            load.settle(board.url)
            assert board.running, "a board outlives its connections"
        finish(board, load)


async def cut_connections(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        cut = await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> $1",
            connection.get_server_pid(),
        )
        assert cut, "nobody was connected"
    finally:
        await connection.close()
