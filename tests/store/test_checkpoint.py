"""The write-ahead log is moved into the database, whatever the thread, the writer and the disk do."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.batches import whole_batch

from bulletin.store.checkpoint import Checkpointer
from bulletin.store.sealing import PlainSealer
from bulletin.store.sqlite import SqliteStore

LOG_PAGES = 1000


class FakeConnection:
    """Counts what is executed, and fails on order."""

    def __init__(self) -> None:
        self.executed = 0
        self.error: Exception | None = None
        self.closed = False
        #: Cleared: whoever executes waits.
        self.gate = threading.Event()
        self.gate.set()

    def execute(self, _sql: str) -> FakeConnection:
        self.gate.wait()
        assert not self.closed
        self.executed += 1
        if self.error is not None:
            raise self.error
        return self

    def fetchone(self) -> tuple[int, int, int]:
        return (0, 0, 0)

    def close(self) -> None:
        self.closed = True


class Bench:
    """A checkpointer between two fake connections, the thread's and the loop's."""

    def __init__(self, path: Path) -> None:
        self.thread, self.loop = FakeConnection(), FakeConnection()
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        self.checkpointer = Checkpointer(self.thread, self.descriptor, log_pages=LOG_PAGES)

    def committed(self, pages: int) -> None:
        """A commit after which the pass it may have begun is over."""
        self.checkpointer.committed(self.loop, pages)
        if self.checkpointer._pass is not None:
            self.checkpointer._pass.exception()

    @property
    def executed(self) -> tuple[int, int]:
        return (self.thread.executed, self.loop.executed)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "file")
    yield bench
    bench.checkpointer.close()
    os.close(bench.descriptor)
    assert bench.thread.closed
    assert not bench.loop.closed


def test_nothing_happens_before_the_log_is_long(bench) -> None:
    for _ in range(9):
        bench.committed(LOG_PAGES // 10)
    assert bench.executed == (0, 0)


def test_the_thread_moves_the_log_and_the_next_commit_finishes(bench) -> None:
    bench.committed(LOG_PAGES)
    assert bench.executed == (1, 0)
    bench.committed(1)
    assert bench.executed == (1, 1)
    bench.committed(LOG_PAGES - 1)
    assert bench.executed == (1, 1)
    bench.committed(1)
    assert bench.executed == (2, 1)


def test_the_thread_is_sent_again_while_much_is_left_but_not_for_ever(bench) -> None:
    bench.committed(LOG_PAGES)
    seen = []
    for _ in range(8):
        bench.committed(LOG_PAGES)
        seen.append(bench.executed)
    assert seen == [(2, 0), (3, 0), (3, 1), (4, 1), (5, 1), (6, 1), (6, 2), (7, 2)]


def test_commits_during_a_pass_only_count(bench) -> None:
    bench.thread.gate.clear()
    for _ in range(5):
        bench.checkpointer.committed(bench.loop, LOG_PAGES)
    bench.thread.gate.set()
    bench.checkpointer._pass.result()
    assert bench.executed == (1, 0)
    bench.committed(1)
    assert bench.executed == (2, 0)


def test_closing_waits_for_the_pass(tmp_path) -> None:
    bench = Bench(tmp_path / "file")
    bench.thread.gate.clear()
    bench.checkpointer.committed(bench.loop, LOG_PAGES)
    threading.Timer(0.01, bench.thread.gate.set).start()
    bench.checkpointer.close()
    assert bench.thread.executed == 1
    assert bench.thread.closed
    os.close(bench.descriptor)


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), OSError(5, "Input/output error")])
def test_a_pass_that_fails_is_counted_and_tried_again(bench, error) -> None:
    bench.thread.error = error
    bench.committed(LOG_PAGES)
    bench.committed(1)
    assert bench.checkpointer.failures == 1
    assert bench.executed == (1, 0)
    bench.thread.error = None
    bench.committed(LOG_PAGES)
    bench.committed(1)
    assert bench.executed == (2, 1)
    assert bench.checkpointer.failures == 1


def test_a_finish_that_fails_is_counted_and_the_commit_is_not_harmed(bench) -> None:
    bench.loop.error = sqlite3.OperationalError("disk I/O error")
    bench.committed(LOG_PAGES)
    bench.committed(1)
    assert bench.checkpointer.failures == 1
    bench.committed(LOG_PAGES)
    assert bench.executed == (2, 1)


def test_a_defect_is_not_swallowed(bench) -> None:
    bench.thread.error = TypeError("a defect")
    bench.committed(LOG_PAGES)
    with pytest.raises(TypeError):
        bench.committed(1)


# -- with SQLite -------------------------------------------------------------------------------------------------


def log_pages_of(path: Path) -> int:
    """Pages in the log since it last began anew. Asking moves them, as any checkpoint would."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
    finally:
        connection.close()


async def test_under_steady_commits_the_log_begins_anew_again_and_again(tmp_path, clock, make_task, load_all) -> None:
    path = tmp_path / "board.sqlite3"
    store = SqliteStore(path, sealer=PlainSealer(), clock=clock, log_pages=100)
    await store.open()
    lease = await store.acquire("a", 15)
    tasks = {}
    for number in range(1500):
        task = make_task(f"{number}", created_at=number)
        await store.commit(whole_batch({task.guid: task}), lease)
        tasks[task.guid] = task
        # Commits and passes overlap by one commit only, however slow the machine: the bound below is no matter of luck.
        if store._checkpointer._pass is not None and number % 2:
            store._checkpointer._pass.result()
    assert store._checkpointer.failures == 0
    assert (tmp_path / "board.sqlite3-wal").stat().st_size < 4096 * 500
    assert log_pages_of(path) < 500
    assert await load_all(store) == tasks
    await store.close()


async def test_without_a_checkpoint_the_log_would_be_longer(tmp_path, clock, make_task) -> None:
    """What the bound of the test above is worth."""
    store = SqliteStore(tmp_path / "board.sqlite3", sealer=PlainSealer(), clock=clock, log_pages=10**9)
    await store.open()
    lease = await store.acquire("a", 15)
    for number in range(1500):
        await store.commit(whole_batch({f"{number}": make_task(f"{number}")}), lease)
    assert (tmp_path / "board.sqlite3-wal").stat().st_size > 4096 * 2000
    await store.close()


async def test_renewals_alone_do_not_lengthen_the_log_for_ever(tmp_path, clock) -> None:
    store = SqliteStore(tmp_path / "board.sqlite3", sealer=PlainSealer(), clock=clock, log_pages=100)
    await store.open()
    lease = await store.acquire("a", 15)
    for number in range(1000):
        await store.renew(lease, 15)
        if store._checkpointer._pass is not None and number % 2:
            store._checkpointer._pass.result()
    assert (tmp_path / "board.sqlite3-wal").stat().st_size < 4096 * 300
    await store.close()


async def test_a_reader_that_stays_holds_up_the_log_but_no_commit(tmp_path, clock, make_task, load_all) -> None:
    path = tmp_path / "board.sqlite3"
    store = SqliteStore(path, sealer=PlainSealer(), clock=clock, log_pages=50)
    await store.open()
    lease = await store.acquire("a", 15)
    await store.commit(whole_batch({"t": make_task("t")}), lease)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT COUNT(*) FROM tasks").fetchone() == (1,)
    for number in range(200):
        await store.commit(whole_batch({"t": make_task("t", created_at=number)}), lease)
    assert reader.execute("SELECT created_at FROM tasks").fetchone() != (199,)
    reader.close()
    assert (await load_all(store))["t"].created_at == 199
    assert store._checkpointer.failures == 0
    await store.close()
