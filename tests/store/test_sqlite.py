"""What only the SQLite store promises: one process, private files, a full disk, damaged rows, durability."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import re
import resource
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.batches import whole_batch
from support.committing import assert_batches_are_whole, kill_child, start_child
from support.skips import needs_command, require_root

from bulletin.store.api import Batch, BrokenRow, LeaseHeld, LeaseLost, Output, StoreError
from bulletin.store.sealing import PlainSealer
from bulletin.store.sqlite import SqliteStore

CHILD = Path(__file__).with_name("committing_child.py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "board.sqlite3"


@pytest.fixture
async def store(path: Path, clock):
    store = SqliteStore(path, sealer=PlainSealer(), clock=clock)
    await store.open()
    yield store
    await store.close()


def run_sql(path: Path, sql: str, *parameters: object) -> list[tuple]:
    """Run one statement from another connection, as an operator would."""
    connection = sqlite3.connect(path)
    try:
        with connection:
            return connection.execute(sql, parameters).fetchall()
    finally:
        connection.close()


# -- one process -------------------------------------------------------------------------------------------------


async def test_a_second_opener_is_refused_by_name(store, path, clock) -> None:
    second = SqliteStore(path, sealer=PlainSealer(), clock=clock)
    with pytest.raises(LeaseHeld, match=re.escape(f"process {os.getpid()}) holds {path}.lock")):
        await second.open()
    await store.close()
    await second.open()
    await second.close()


async def test_a_refused_opener_harms_nothing(store, path, clock, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    for _ in range(3):
        with pytest.raises(LeaseHeld):
            await SqliteStore(path, sealer=PlainSealer(), clock=clock).open()
    task = make_task("t")
    await store.commit(whole_batch({"t": task}), lease)
    assert await load_all(store) == {"t": task}


async def test_the_lease_of_who_had_the_file_before_is_over(path, clock, make_task) -> None:
    store = SqliteStore(path, sealer=PlainSealer(), clock=clock)
    await store.open()
    before = await store.acquire("a", 3600)
    await store.close()
    await store.open()
    after = await store.acquire("b", 15)
    assert after.epoch > before.epoch
    with pytest.raises(LeaseLost):
        await store.commit(whole_batch({"t": make_task("t")}), before)
    await store.close()


async def test_another_program_may_read_meanwhile(store, path, make_task, make_definition) -> None:
    lease = await store.acquire("a", 15)
    await store.commit(whole_batch({"t": make_task("t", definition=make_definition(root_fs="preloaded:x"))}), lease)
    ((guid, sealed),) = run_sql(path, "SELECT guid, definition FROM tasks")
    assert guid == "t"
    assert sealed.startswith(b"\x02\x00")
    assert b"preloaded:x" in sealed


async def test_a_lock_of_another_program_fails_the_commit_and_no_more(store, path, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    batch = whole_batch({"t": make_task("t")})
    with pytest.raises(StoreError, match=r"locked.*SQLITE_BUSY"):
        await store.commit(batch, lease)
    other.execute("ROLLBACK")
    other.close()
    await store.commit(batch, lease)
    assert await load_all(store) == batch.tasks


# -- files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def wide_open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("wide_open_umask")
async def test_files_are_for_the_owner_only(tmp_path, clock, make_task) -> None:
    tmp_path.chmod(0o755)
    store = SqliteStore(tmp_path / "a" / "b" / "board.sqlite3", sealer=PlainSealer(), clock=clock)
    await store.open()
    await store.commit(whole_batch({"t": make_task("t")}), await store.acquire("a", 15))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.rglob("*")}
    await store.close()
    names = ["board.sqlite3", "board.sqlite3-wal", "board.sqlite3-shm", "board.sqlite3.lock"]
    assert modes == {"a": 0o700, "b": 0o700} | dict.fromkeys(names, 0o600)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


async def test_closing_leaves_no_descriptor_no_thread_and_no_log(path, clock, make_task) -> None:
    gc.collect()
    descriptors, threads = set(os.listdir("/proc/self/fd")), threading.active_count()
    store = SqliteStore(path, sealer=PlainSealer(), clock=clock, log_pages=1)
    await store.open()
    lease = await store.acquire("a", 15)
    for number in range(20):
        await store.commit(whole_batch({"t": make_task("t", created_at=number)}), lease)
    assert threading.active_count() > threads
    await store.close()
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads
    assert sorted(file.name for file in path.parent.iterdir()) == ["board.sqlite3", "board.sqlite3.lock"]


async def test_a_directory_that_cannot_be_made_is_named(tmp_path, clock) -> None:
    (tmp_path / "file").touch()
    store = SqliteStore(tmp_path / "file" / "board.sqlite3", sealer=PlainSealer(), clock=clock)
    with pytest.raises(StoreError, match=re.escape(str(tmp_path / "file"))):
        await store.open()


async def test_a_link_is_not_followed_for_the_lock(tmp_path, clock) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "board.sqlite3.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(StoreError, match=r"board\.sqlite3\.lock"):
        await SqliteStore(tmp_path / "board.sqlite3", sealer=PlainSealer(), clock=clock).open()
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to have a header " * 50, b"SQLite format 3\x00"]
)
async def test_what_is_no_database_is_refused_and_let_go(tmp_path, clock, content) -> None:
    path = tmp_path / "board.sqlite3"
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"not a database"):
            await SqliteStore(path, sealer=PlainSealer(), clock=clock).open()
    assert path.read_bytes() == content


# -- commits that fail -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{"created_at": 2**63}, {"result": "\ud800"}, {"rejection_count": -(2**63) - 1}],
    ids=["too big", "no text", "too small"],
)
async def test_what_cannot_be_stored_fails_its_batch_and_no_other(store, make_task, load_all, fields) -> None:
    lease = await store.acquire("a", 15)
    kept = make_task("kept")
    await store.commit(whole_batch({"kept": kept}), lease)
    bad = whole_batch({"new": make_task("new"), "bad": make_task("bad", **fields)}, removed={"kept"}, domains={"d": 1})
    with pytest.raises(StoreError):
        await store.commit(bad, lease)
    assert await load_all(store) == {"kept": kept}
    assert await store.load_domains() == {}
    del bad.tasks["bad"]
    bad.whole.remove("bad")
    await store.commit(bad, lease)
    assert await load_all(store) == bad.tasks


async def test_a_sealer_that_fails_writes_nothing(path, clock, make_task, load_all) -> None:
    class FailingSealer(PlainSealer):
        def seal(self, content: bytes) -> bytes:
            raise RuntimeError("no key")

    store = SqliteStore(path, sealer=FailingSealer(), clock=clock)
    await store.open()
    lease = await store.acquire("a", 15)
    with pytest.raises(RuntimeError):
        await store.commit(whole_batch({"t": make_task("t")}, domains={"d": 1}), lease)
    assert await store.load_domains() == {}
    await store.commit(Batch(domains={"d": 1}), lease)
    await store.close()


async def test_a_transaction_left_behind_is_rolled_back_first(store, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    store._connection.execute("BEGIN IMMEDIATE")
    store._connection.execute("INSERT INTO domains VALUES ('half', 1)")
    await store.commit(whole_batch({"t": make_task("t")}), lease)
    assert set(await load_all(store)) == {"t"}
    assert await store.load_domains() == {}


async def test_a_full_database_fails_the_batch_and_stays_usable(store, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    kept = {f"{number}": make_task(f"{number}", result="x" * 50_000) for number in range(20)}
    await store.commit(whole_batch(dict(kept)), lease)
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages + 20}")
    too_much = whole_batch({f"new-{number}": make_task(f"new-{number}", result="x" * 50_000) for number in range(5)})
    for _ in range(3):
        with pytest.raises(StoreError, match=r"full \(SQLITE_FULL\)"):
            await store.commit(too_much, lease)
        assert await load_all(store) == kept
    await store.renew(lease, 15)
    await store.commit(Batch(removed={"0", "1", "2", "3", "4"}), lease)
    await store.commit(too_much, lease)
    assert len(await load_all(store)) == 20


async def test_a_file_that_may_not_grow_fails_the_batch_and_stays_usable(store, path, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    kept = make_task("kept")
    await store.commit(whole_batch({"kept": kept}), lease)
    too_much = whole_batch({f"new-{number}": make_task(f"new-{number}", result="x" * 50_000) for number in range(50)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        for _ in range(2):
            with pytest.raises(StoreError, match=r"SQLITE_(FULL|IOERR)"):
                await store.commit(too_much, lease)
        assert await load_all(store) == {"kept": kept}
        await store.commit(Batch(domains={"d": 1}), lease)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    await store.commit(too_much, lease)
    assert await load_all(store) == {"kept": kept} | too_much.tasks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    require_root()
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
    yield disk
    # Lazily: a test that failed may have left its store open.
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.system
async def test_a_full_disk_fails_commits_until_there_is_room(small_disk, clock, make_task, load_all) -> None:
    store = SqliteStore(small_disk / "board.sqlite3", sealer=PlainSealer(), clock=clock, log_pages=20)
    await store.open()
    lease = await store.acquire("a", 15)
    (small_disk / "ballast").write_bytes(bytes(400_000))
    stored = {}
    error = None
    while error is None:
        task = make_task(f"{len(stored)}", result="x" * 50_000)
        try:
            await store.commit(whole_batch({task.guid: task}), lease)
        except StoreError as raised:
            error = str(raised)
        else:
            stored[task.guid] = task
    assert re.search(r"SQLITE_(FULL|IOERR)", error)
    assert await load_all(store) == stored
    (small_disk / "ballast").unlink()
    task = make_task("after", result="x" * 1000)
    await store.commit(whole_batch({"after": task}), lease)
    assert await load_all(store) == stored | {"after": task}
    # Closing moves the log into the database, for which there is no room; nothing is lost by that.
    await store.close()
    remount = await asyncio.create_subprocess_exec("mount", "-o", "remount,size=16m", small_disk)
    assert await remount.wait() == 0
    await store.open()
    assert await load_all(store) == stored | {"after": task}
    await store.close()


# -- pruning -----------------------------------------------------------------------------------------------------


async def test_pruning_many_bytes_lets_the_loop_go_on(store) -> None:
    lease = await store.acquire("a", 15)
    await store.commit(Batch(outputs=[Output(f"{number}", bytes(250_000), 1) for number in range(100)]), lease)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    await store.prune_outputs(2, 0)
    counting.cancel()
    assert turns >= 25_000_000 // (5 * 1024 * 1024)
    assert await store.output("99") is None


# -- damaged rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("definition = x'ff00'", "plaintext header 02 00"),
        ("definition = x''", "plaintext header 02 00"),
        ("definition = x'0200ff'", "the definition is no protobuf message of its kind"),
        ("definition = x'0200' || x'0a02c328'", "definition"),
        ("definition = 7", "no value of the right type in definition"),
        ("state = 9", "9 is not a valid TaskState"),
        ("state = 'Pending'", "no value of the right type in state"),
        ("result = CAST(x'ff' AS TEXT)", "no value of the right type in result"),
        ("domain = x'61', created_at = 1.5", "no value of the right type in domain, created_at"),
    ],
)
async def test_a_damaged_row_is_told_and_the_others_load(store, path, make_task, load_all, damage, reason) -> None:
    lease = await store.acquire("a", 15)
    tasks = {f"{number}": make_task(f"{number}") for number in range(5)}
    await store.commit(whole_batch(dict(tasks)), lease)
    run_sql(path, f"UPDATE tasks SET {damage} WHERE guid = '2'")
    rows = await load_all(store)
    broken = rows.pop("2")
    assert isinstance(broken, BrokenRow)
    assert reason in broken.reason
    del tasks["2"]
    assert rows == tasks
    await store.commit(Batch(removed={"2"}), lease)
    assert await load_all(store) == tasks


async def test_a_damaged_row_can_be_overwritten(store, path, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    task = make_task("t")
    await store.commit(whole_batch({"t": task}), lease)
    run_sql(path, "UPDATE tasks SET definition = x'00'")
    await store.commit(whole_batch({"t": task}), lease)
    assert await load_all(store) == {"t": task}


async def test_the_reason_tells_nothing_of_the_row(store, path, make_task, make_definition, load_all) -> None:
    lease = await store.acquire("a", 15)
    secret = make_definition(image_password="hunter2hunter2")
    await store.commit(
        whole_batch({guid: make_task(guid, definition=secret, result="hunter2") for guid in "abc"}), lease
    )
    run_sql(path, "UPDATE tasks SET definition = x'ff' || substr(definition, 2) WHERE guid = 'a'")
    run_sql(path, "UPDATE tasks SET definition = definition || x'ff' WHERE guid = 'b'")
    run_sql(path, "UPDATE tasks SET result = CAST(CAST(result AS BLOB) || x'ff' AS TEXT) WHERE guid = 'c'")
    for row in (await load_all(store)).values():
        assert isinstance(row, BrokenRow)
        assert "hunter2" not in row.reason


async def test_a_guid_that_is_no_text_is_told_readably(store, path, make_task) -> None:
    lease = await store.acquire("a", 15)
    await store.commit(whole_batch({"t": make_task("t"), "u": make_task("u")}), lease)
    run_sql(path, "UPDATE tasks SET guid = CAST(x'74ff' AS TEXT) WHERE guid = 't'")
    rows = [row async for chunk in store.load() for row in chunk]
    assert {row.guid for row in rows} == {"t\\xff", "u"}


async def test_a_damaged_domain_keeps_no_board_from_starting(store, path) -> None:
    lease = await store.acquire("a", 15)
    await store.commit(Batch(domains={"d": 1, "e": 2}), lease)
    run_sql(path, "UPDATE domains SET domain = CAST(x'ff' AS TEXT) WHERE domain = 'd'")
    assert await store.load_domains() == {"e": 2}


async def test_a_damaged_file_is_a_store_error(path, clock, make_task, load_all) -> None:
    store = SqliteStore(path, sealer=PlainSealer(), clock=clock)
    await store.open()
    lease = await store.acquire("a", 15)
    await store.commit(whole_batch({f"{number}": make_task(f"{number}") for number in range(500)}), lease)
    await store.close()
    half = path.stat().st_size // 2
    with path.open("r+b") as file:
        file.seek(half)
        file.write(b"\xff" * half)
    # Schema and lease stand at the beginning.
    await store.open()
    with pytest.raises(StoreError, match=r"SQLITE_CORRUPT"):
        await load_all(store)
    await store.close()


# -- durability --------------------------------------------------------------------------------------------------


async def test_what_was_reported_survives_kill_9_and_batches_are_whole(path, clock, load_all) -> None:
    last = -1
    for lines in (1, 40, 150):
        child = start_child(path, last + 1)
        assert child.stdout is not None
        reported = [int(child.stdout.readline()) for _ in range(lines)]
        reported += kill_child(child)
        assert reported == list(range(last + 1, last + 1 + len(reported)))
        store = SqliteStore(path, sealer=PlainSealer(), clock=clock)
        await store.open()
        last = assert_batches_are_whole(await load_all(store), reported[-1])
        await store.close()


async def test_death_releases_the_file_at_once(path, clock, make_task) -> None:
    child = start_child(path, 0)
    assert child.stdout is not None
    child.stdout.readline()
    store = SqliteStore(path, sealer=PlainSealer(), clock=clock)
    with pytest.raises(LeaseHeld, match=f"process {child.pid}"):
        await store.open()
    kill_child(child)
    await store.open()
    # Its lease of an hour died with it.
    await store.commit(whole_batch({"t": make_task("t")}), await store.acquire("next", 15))
    await store.close()


@pytest.mark.system
@needs_command("strace")
def test_every_commit_is_synced_before_it_returns(path, tmp_path) -> None:
    child = [sys.executable, str(CHILD), str(path), "0", "30"]
    # A file for each thread, so that no line is split by another thread's.
    strace = ["strace", "-ff", "-y", "-e", "trace=fdatasync,fsync,write", "-o", tmp_path / "trace"]
    subprocess.run([*strace, *child], check=True, stdout=subprocess.PIPE)
    (trace,) = [text for text in map(Path.read_text, tmp_path.glob("trace.*")) if "write(1<" in text]
    synced = reports = 0
    for line in trace.splitlines():
        if re.search(r"(fsync|fdatasync)\(\d+<.*-wal>\) += 0", line):
            synced += 1
        elif re.search(r"write\(1<.*\d+\\n", line):
            assert synced > 0, f"reported without a sync before it: {line}"
            reports += 1
            synced = 0
    assert reports == 30


# -- starting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_new", [True, False])
async def test_opening_what_is_new_or_up_to_date_imports_nothing_heavy(path, clock, is_new) -> None:
    if not is_new:
        store = SqliteStore(path, sealer=PlainSealer(), clock=clock)
        await store.open()
        await store.close()
    program = """
import asyncio, sys
from bulletin.seams import SystemClock
from bulletin.store import PlainSealer, make_store
store = make_store(sys.argv[1], sealer=PlainSealer(), clock=SystemClock())
asyncio.run(store.open())
asyncio.run(store.close())
print([name for name in ("sqlalchemy", "alembic") if name in sys.modules])
"""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", program, path, stdout=subprocess.PIPE)
    assert await child.communicate() == (b"[]\n", None)


async def test_outputs_and_tasks_may_share_a_transaction(store, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    task = make_task("t")
    store._connection.execute("CREATE TRIGGER no_output BEFORE INSERT ON outputs BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(StoreError, match="no"):
        await store.commit(whole_batch({"t": task}, outputs=[Output("t", b"x", 1)]), lease)
    assert await load_all(store) == {}
    store._connection.execute("DROP TRIGGER no_output")
    await store.commit(whole_batch({"t": dataclasses.replace(task, result="r")}, outputs=[Output("t", b"x", 1)]), lease)
    assert await store.output("t") == b"x"
