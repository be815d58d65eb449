"""What only the PostgreSQL store promises: fences, broken connections, the server's death, secrets, plans."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support.batches import whole_batch
from support.committing import assert_batches_are_whole, kill_child, start_child
from support.cutting_proxy import Cut, CuttingProxy
from support.postgres import PostgresServer

from bulletin.core.model import TaskState
from bulletin.store import postgres_batch
from bulletin.store.api import Batch, BrokenRow, LeaseHeld, LeaseLost, Output, StoreError
from bulletin.store.postgres import PostgresStore
from bulletin.store.postgres_sql import PARTS, commit_statement
from bulletin.store.sealing import PlainSealer


@pytest.fixture
async def stores(postgres_url) -> AsyncIterator[Callable[..., Awaitable[PostgresStore]]]:
    """Opens stores over the test's database, or over ``url``; all are closed at the end."""
    opened: list[PostgresStore] = []

    async def open_store(url: str = postgres_url, **settings: Any) -> PostgresStore:
        store = PostgresStore(url, sealer=PlainSealer(), **settings)
        opened.append(store)
        await store.open()
        return store

    yield open_store
    for store in opened:
        await store.close()


@pytest.fixture
async def store(stores) -> PostgresStore:
    return await stores()


@pytest.fixture
async def admin(postgres_url) -> AsyncIterator[asyncpg.Connection]:
    """A connection of its own, as an operator has it."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
async def proxy(postgres_server) -> AsyncIterator[CuttingProxy]:
    async with CuttingProxy(postgres_server.port).serving() as proxy:
        yield proxy


async def until_waiting(admin: asyncpg.Connection, count: int = 1) -> None:
    """Until so many of the database's backends wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while await admin.fetchval(query) != count:
            await asyncio.sleep(0.005)


async def expire(admin: asyncpg.Connection) -> None:
    await admin.execute("UPDATE lease SET expires_at = 0")


async def insist(call: Callable[[], Awaitable[Any]]) -> Any:
    """As the board does it: a call that fails is made again."""
    for _ in range(5):
        try:
            return await call()
        except LeaseLost:
            raise
        except StoreError:
            continue
    return await call()


# -- the fence ---------------------------------------------------------------------------------------------------


async def test_the_lease_goes_by_the_databases_clock(store, stores, admin) -> None:
    lease = await store.acquire("a", 3600)
    query = "SELECT expires_at / 1e9 - extract(epoch FROM clock_timestamp()) FROM lease"
    assert 3590 < await admin.fetchval(query) <= 3600
    await store.renew(lease, 7200)
    assert 7190 < await admin.fetchval(query) <= 7200
    other = await stores()
    with pytest.raises(LeaseHeld, match="is leased to a$"):
        await other.acquire("b", 1)
    await admin.execute("UPDATE lease SET expires_at = (extract(epoch FROM clock_timestamp()) * 1e9)::bigint")
    assert (await other.acquire("b", 1)).epoch == lease.epoch + 1


async def test_of_many_who_want_a_free_lease_one_gets_it(stores, admin) -> None:
    boards = [await stores() for _ in range(6)]
    epochs = []
    for _ in range(5):
        results = await asyncio.gather(
            *(board.acquire(str(number), 60) for number, board in enumerate(boards)), return_exceptions=True
        )
        leases = [result for result in results if not isinstance(result, Exception)]
        assert len(leases) == 1
        assert sum(isinstance(result, LeaseHeld) for result in results) == 5
        epochs.append(leases[0].epoch)
        await expire(admin)
    assert epochs == [1, 2, 3, 4, 5]


async def test_a_commit_that_meets_a_takeover_waits_for_its_end_and_is_refused(store, admin, make_task, load_all):
    lease = await store.acquire("a", 60)
    await store.commit(whole_batch([make_task("kept")]), lease)
    takeover = admin.transaction()
    await takeover.start()
    await admin.execute("SELECT FROM lease FOR UPDATE")
    await admin.execute("UPDATE lease SET owner = 'b', epoch = epoch + 1")
    batch = Batch(
        {"new": make_task("new"), "kept": make_task("kept", result="changed")},
        {"new"},
        domains={"d": 1},
        outputs=[Output("kept", b"x", 1)],
        configurations={"k": "v"},
    )
    commit = asyncio.create_task(store.commit(batch, lease))
    # The transaction's own view of the activity is a snapshot, so another connection looks.
    await _until_the_commit_waits(store)
    await takeover.commit()
    with pytest.raises(LeaseLost):
        await commit
    assert await load_all(store) == {"kept": make_task("kept")}
    assert (await store.load_domains(), await store.load_configurations(), await store.output("kept")) == ({}, {}, None)


async def _until_the_commit_waits(store: PostgresStore) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while (await store._read(query))[0][0] != 1:
            await asyncio.sleep(0.005)


async def test_a_takeover_that_is_given_up_lets_the_commit_through(store, admin, make_task, load_all) -> None:
    lease = await store.acquire("a", 60)
    takeover = admin.transaction()
    await takeover.start()
    await admin.execute("SELECT FROM lease FOR UPDATE")
    await admin.execute("UPDATE lease SET owner = 'b', epoch = epoch + 1")
    commit = asyncio.create_task(store.commit(whole_batch([make_task("t")]), lease))
    await _until_the_commit_waits(store)
    await takeover.rollback()
    await commit
    assert set(await load_all(store)) == {"t"}


async def test_a_takeover_waits_for_the_commit_under_way_and_reads_it_and_no_renewal_does(
    store, stores, admin, postgres_url, make_task, load_all
) -> None:
    lease = await store.acquire("a", 60)
    task = make_task("t")
    await store.commit(whole_batch([task]), lease)
    other = await stores()
    blocker = admin.transaction()
    await blocker.start()
    await admin.execute("SELECT FROM tasks FOR UPDATE")
    changed = dataclasses.replace(task, state=TaskState.RUNNING)
    commit = asyncio.create_task(store.commit(Batch({"t": changed}), lease))
    await _until_the_commit_waits(store)
    # In its middle, holding the lease's row: the renewal passes, the takeover does not.
    await store.renew(lease, 60)
    await other._read("UPDATE lease SET expires_at = 0")
    takeover = asyncio.create_task(other.acquire("b", 60))
    watcher = await asyncpg.connect(postgres_url)
    await until_waiting(watcher, 2)
    await watcher.close()
    assert not takeover.done()
    await blocker.rollback()
    await commit
    taken = await takeover
    assert await load_all(other) == {"t": changed}
    with pytest.raises(LeaseLost):
        await store.commit(Batch({"t": task}), lease)
    with pytest.raises(LeaseLost):
        await store.renew(lease, 60)
    assert await load_all(other) == {"t": changed}
    await other.commit(Batch(removed={"t"}), taken)


async def test_a_takeover_that_meets_a_renewal_leaves_the_lease(store, stores, admin) -> None:
    lease = await store.acquire("a", 60)
    await expire(admin)
    other = await stores()
    renewal = admin.transaction()
    await renewal.start()
    await admin.execute("UPDATE lease SET expires_at = 9223372036854775807")
    takeover = asyncio.create_task(other.acquire("b", 60))
    await _until_the_commit_waits(store)
    await renewal.commit()
    with pytest.raises(LeaseHeld):
        await takeover
    await store.commit(Batch(domains={"d": 1}), lease)


async def test_a_commit_sent_before_a_takeover_and_delivered_after_it_writes_nothing(
    proxy, postgres_url, stores, admin, make_task, load_all
) -> None:
    late = await stores(proxy.url(postgres_url))
    lease = await late.acquire("a", 60)
    task = make_task("t", result="in time")
    # The statement is prepared with it: the next request is the whole of its second use.
    await late.commit(whole_batch([task]), lease)
    count = proxy.requests + 1
    proxy.decide = lambda number: Cut.LATE if number == count else None
    with pytest.raises(StoreError):
        await late.commit(whole_batch([make_task("t", result="late")]), lease)
    await expire(admin)
    other = await stores()
    await other.acquire("b", 60)
    await proxy.deliver()
    assert await load_all(other) == {"t": task}


async def test_a_commit_that_was_given_up_never_overtakes_a_later_one(
    proxy, postgres_url, stores, make_task, load_all
) -> None:
    """The same lease, another connection: what is still on its way by the first must not come in between."""
    store = await stores(proxy.url(postgres_url))
    lease = await store.acquire("a", 60)
    task = make_task("t")
    await store.commit(whole_batch([task]), lease)
    first = Batch({"t": dataclasses.replace(task, state=TaskState.RUNNING, cell_id="c")})
    second = Batch({"t": dataclasses.replace(task, state=TaskState.COMPLETED)})
    await store.commit(first, lease)
    count = proxy.requests + 1
    proxy.decide = lambda number: Cut.LATE if number == count else None
    with pytest.raises(StoreError):
        await store.commit(first, lease)
    assert proxy.cuts == 1
    await store.commit(first, lease)
    await store.commit(second, lease)
    await proxy.deliver()
    assert await load_all(store) == second.tasks


async def test_boards_that_lose_the_lease_at_any_moment_lose_no_commit(stores, admin, make_task, load_all) -> None:
    """Each adds one to a counter it read under its lease: an addition of somebody without the lease would be lost."""
    rng = random.Random(7)
    start = await stores()
    lease = await start.acquire("start", 60)
    await start.commit(whole_batch([make_task("n", rejection_count=0)]), lease)
    await start.release(lease)
    sure = 0
    running = True

    async def board(name: str) -> None:
        nonlocal sure
        store = await stores()
        while running:
            try:
                lease = await store.acquire(name, 60)
                task = (await load_all(store))["n"]
                while running:
                    task = dataclasses.replace(task, rejection_count=task.rejection_count + 1)
                    await store.commit(Batch({"n": task}), lease)
                    sure += 1
            except LeaseHeld:
                await asyncio.sleep(0)
            except LeaseLost:
                pass

    boards = [asyncio.create_task(board(f"board-{number}")) for number in range(4)]
    for _ in range(60):
        await expire(admin)
        for _ in range(rng.randrange(60)):
            await asyncio.sleep(0)
    running = False
    await asyncio.gather(*boards)
    assert (await load_all(start))["n"].rejection_count == sure
    assert await admin.fetchval("SELECT epoch FROM lease") > 5


# -- connections that break --------------------------------------------------------------------------------------


async def _work(store: PostgresStore, make_task: Any) -> None:
    """Every kind of call, each made again when it fails."""
    lease = await insist(lambda: store.acquire("a", 60))
    task = make_task("t")
    await insist(lambda: store.commit(whole_batch([task, make_task("u")]), lease))
    await insist(lambda: store.renew(lease, 60))
    ended = dataclasses.replace(task, state=TaskState.COMPLETED, result="r")
    batch = Batch(
        {"t": ended, "v": make_task("v", result="v")}, {"v"}, {"u"}, domains={"d": 1}, configurations={"k": "v"}
    )
    batch.outputs.append(Output("t", b"x", 9))
    await insist(lambda: store.commit(batch, lease))
    assert await insist(lambda: store.output("t")) == b"x"
    await insist(lambda: store.prune_outputs(0, 100))

    async def load() -> dict[str, Any]:
        return {row.guid: row async for chunk in store.load() for row in chunk}

    assert await insist(load) == {"t": ended, "v": batch.tasks["v"]}
    assert await insist(store.load_domains) == {"d": 1}
    assert await insist(store.load_configurations) == {"k": "v"}
    await insist(lambda: store.prune_outputs(10, 0))
    assert await insist(lambda: store.output("t")) is None
    await insist(lambda: store.release(lease))
    with pytest.raises(LeaseLost):
        await insist(lambda: store.commit(Batch(removed={"t"}), lease))


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
async def test_a_connection_that_breaks_at_any_request_harms_nothing(
    proxy, postgres_url, admin, make_task, cut
) -> None:
    opening = 0
    number = 0
    while True:
        if number <= opening:
            await admin.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        else:
            await admin.execute("DELETE FROM tasks; DELETE FROM domains; DELETE FROM configurations")
        number += 1
        proxy.requests = proxy.cuts = 0
        proxy.decide = lambda request, number=number: cut if request == number else None
        store = PostgresStore(proxy.url(postgres_url), sealer=PlainSealer())
        await insist(store.open)
        opening = max(opening, proxy.requests)
        await _work(store, make_task)
        await store.close()
        if not proxy.cuts:
            break
    assert number > 30


async def test_a_server_that_says_nothing_is_given_up(proxy, postgres_url, stores, make_task, load_all) -> None:
    store = await stores(proxy.url(postgres_url), call_seconds=0.5)
    lease = await store.acquire("a", 60)
    count = proxy.requests + 1
    proxy.decide = lambda number: Cut.SILENCE if number == count else None
    with pytest.raises(StoreError, match="no answer in time"):
        await store.commit(whole_batch([make_task("t")]), lease)
    await store.commit(whole_batch([make_task("t")]), lease)
    assert set(await load_all(store)) == {"t"}


async def test_who_waits_behind_a_silent_call_is_given_up_as_well_and_the_other_connection_works(
    proxy, postgres_url, stores, make_task
) -> None:
    store = await stores(proxy.url(postgres_url), call_seconds=0.5)
    lease = await store.acquire("a", 60)
    count = proxy.requests + 1
    proxy.decide = lambda number: Cut.SILENCE if number == count else None
    commits = [asyncio.create_task(store.commit(whole_batch([make_task(guid)]), lease)) for guid in "abc"]
    await asyncio.sleep(0)
    await store.renew(lease, 60)
    for result in await asyncio.gather(*commits, return_exceptions=True):
        assert isinstance(result, StoreError)


async def test_a_statement_that_waits_too_long_is_ended_by_the_server(stores, admin, make_task, load_all) -> None:
    store = await stores(call_seconds=1.0)
    lease = await store.acquire("a", 60)
    await store.commit(whole_batch([make_task("t")]), lease)
    async with admin.transaction():
        await admin.execute("SELECT FROM tasks FOR UPDATE")
        with pytest.raises(StoreError, match=r"timeout \((57014|55P03)\)"):
            await store.commit(Batch(removed={"t"}), lease)
    await store.commit(Batch(removed={"t"}), lease)
    assert await load_all(store) == {}


async def test_a_cancelled_call_leaves_the_store_usable(stores, admin, make_task, load_all) -> None:
    store = await stores()
    lease = await store.acquire("a", 60)
    await store.commit(whole_batch([make_task("t")]), lease)
    async with admin.transaction():
        await admin.execute("SELECT FROM tasks FOR UPDATE")
        commit = asyncio.create_task(store.commit(Batch(removed={"t"}), lease))
        await _until_the_commit_waits(store)
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
    await store.commit(whole_batch([make_task("u")]), lease)
    assert "u" in await load_all(store)


async def test_closing_ends_a_call_under_way(stores, admin, make_task) -> None:
    store = await stores()
    lease = await store.acquire("a", 60)
    await store.commit(whole_batch([make_task("t")]), lease)
    async with admin.transaction():
        await admin.execute("SELECT FROM tasks FOR UPDATE")
        commit = asyncio.create_task(store.commit(Batch(removed={"t"}), lease))
        await _until_the_commit_waits(store)
        await store.close()
        with pytest.raises(StoreError):
            await commit
    with pytest.raises(StoreError, match="not open"):
        await store.commit(Batch(), lease)


async def test_a_backend_ended_while_idle_is_not_even_noticed(store, admin, make_task) -> None:
    lease = await store.acquire("a", 60)
    ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'bulletin board'"
    for guid in "abc":
        assert await admin.fetchval(f"{ended} AND datname = current_database()") >= 1
        # The end of the connections is on its way to the loop.
        while not store._rest._connection.is_closed():
            await asyncio.sleep(0.001)
        await insist(lambda guid=guid: store.commit(whole_batch([make_task(guid)]), lease))
        await store.renew(lease, 60)


async def test_closing_leaves_nothing_open(postgres_url, admin, make_task) -> None:
    gc.collect()
    descriptors = set(os.listdir("/proc/self/fd"))
    store = PostgresStore(postgres_url, sealer=PlainSealer())
    await store.open()
    await store.commit(whole_batch([make_task("t")]), await store.acquire("a", 60))
    await store.close()
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert asyncio.all_tasks() == {asyncio.current_task()}


# -- the server's death ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mortal_server() -> Iterator[PostgresServer]:
    """A server of this module's own, to be killed."""
    with tempfile.TemporaryDirectory(prefix="bulletin-postgres-") as directory:
        Path(directory).chmod(0o755)
        server = PostgresServer(Path(directory) / "server")
        server.start()
        try:
            yield server
        finally:
            server.stop()


async def test_what_was_committed_survives_the_servers_death(mortal_server, stores, make_task, load_all) -> None:
    store = await stores(mortal_server.create_database())
    lease = await store.acquire("a", 3600)
    sure: dict[str, Any] = {}
    for _ in range(2):

        async def commit_on() -> None:
            while True:
                task = make_task(f"{len(sure)}", result="x" * 500)
                await store.commit(whole_batch([task]), lease)
                sure[task.guid] = task

        committing = asyncio.create_task(commit_on())
        known = len(sure)
        while len(sure) < known + 50:
            await asyncio.sleep(0.001)
        mortal_server.kill()
        with pytest.raises(StoreError):
            await committing
        for call in (store.renew(lease, 60), store.load_domains(), store.commit(Batch(), lease)):
            with pytest.raises(StoreError):
                await call
        mortal_server.start()
        # The lease outlives the server: nobody else took it.
        await store.renew(lease, 3600)
        found = await load_all(store)
        # One commit may have been done without an answer.
        assert sure.items() <= found.items()
        assert len(found) <= len(sure) + 1
        sure.update(found)


async def test_what_was_reported_survives_kill_9_and_batches_are_whole(postgres_url, stores, admin, load_all) -> None:
    last = -1
    for lines in (1, 40, 150):
        child = start_child(postgres_url, last + 1)
        assert child.stdout is not None
        reported = [int(child.stdout.readline()) for _ in range(lines)]
        reported += kill_child(child)
        assert reported == list(range(last + 1, last + 1 + len(reported)))
        await expire(admin)
        store = await stores()
        # A statement may still be under way: who takes the lease waits for it.
        lease = await store.acquire("parent", 60)
        last = assert_batches_are_whole(await load_all(store), reported[-1])
        await store.release(lease)


# -- what cannot be stored ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{"created_at": 2**63}, {"result": "\ud800"}, {"rejection_count": 2**31}, {"result": "\0"}, {"domain": "a\0"}],
    ids=["too big", "no text", "too big for an integer", "U+0000", "U+0000 in a fresh task"],
)
async def test_what_cannot_be_stored_fails_its_batch_and_no_other(
    store, make_task, make_definition, load_all, fields
) -> None:
    lease = await store.acquire("a", 60)
    kept = make_task("kept")
    await store.commit(whole_batch([kept]), lease)
    secret = make_definition(image_password="hunter2hunter2")
    bad = whole_batch([make_task("new"), make_task("bad", definition=secret, **fields)], removed={"kept"})
    with pytest.raises(StoreError) as raised:
        await store.commit(bad, lease)
    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in str(raised.value.__cause__)
    assert await load_all(store) == {"kept": kept}
    del bad.tasks["bad"]
    bad.whole.remove("bad")
    await store.commit(bad, lease)
    assert await load_all(store) == bad.tasks


async def test_a_sealer_that_fails_writes_nothing(postgres_url, make_task) -> None:
    class FailingSealer(PlainSealer):
        def seal(self, content: bytes) -> bytes:
            raise RuntimeError("no key")

    store = PostgresStore(postgres_url, sealer=FailingSealer())
    await store.open()
    lease = await store.acquire("a", 15)
    with pytest.raises(RuntimeError):
        await store.commit(whole_batch([make_task("t")], domains={"d": 1}), lease)
    assert await store.load_domains() == {}
    await store.commit(Batch(domains={"d": 1}), lease)
    await store.close()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("definition = '\\xff00'", "plaintext header 02 00"),
        ("definition = '\\x0200ff'", "the definition is no protobuf message of its kind"),
        ("state = 9", "9 is not a valid TaskState"),
        ("attempts = '[1'", "the callback attempts are not readable"),
        ("attempts = '[[1,2,3,4]]'", "the callback attempts are not readable"),
        ("attempts = '[[1]]'", "the callback attempts are not readable"),
    ],
)
async def test_a_damaged_row_is_told_and_the_others_load(store, admin, make_task, load_all, damage, reason) -> None:
    lease = await store.acquire("a", 60)
    tasks = {f"{number}": make_task(f"{number}") for number in range(5)}
    await store.commit(whole_batch(tasks), lease)
    await admin.execute(f"UPDATE tasks SET {damage} WHERE guid = '2'")
    rows = await load_all(store)
    broken = rows.pop("2")
    assert isinstance(broken, BrokenRow)
    assert reason in broken.reason
    assert rows == {guid: task for guid, task in tasks.items() if guid != "2"}
    await store.commit(whole_batch([tasks["2"]]), lease)
    assert await load_all(store) == tasks


# -- large batches -----------------------------------------------------------------------------------------------


async def test_a_batch_too_large_for_a_statement_is_one_transaction_all_the_same(
    store, stores, monkeypatch, make_task, load_all
) -> None:
    monkeypatch.setattr(postgres_batch, "STATEMENT_BYTES_MAX", 1000)
    lease = await store.acquire("a", 60)
    await store.commit(whole_batch([make_task("gone"), make_task("t")]), lease)
    tasks = {f"{number}": make_task(f"{number}", result="x" * (number * 100)) for number in range(20)}
    outputs = [Output(f"{number}", bytes(300), 9) for number in range(10)]
    whole = set(tasks)
    tasks["t"] = make_task("t", result="changed")
    batch = Batch(tasks, whole, {"gone"}, {"d": 1}, outputs=outputs, configurations={"k": "v"})
    assert len(list(postgres_batch.slices(batch))) > 10
    with pytest.raises(LeaseLost):
        await store.commit(batch, dataclasses.replace(lease, epoch=7))
    batch.tasks["missing"] = make_task("missing", result="x" * 2000)
    with pytest.raises(StoreError, match="not there"):
        await store.commit(batch, lease)
    assert set(await load_all(store)) == {"gone", "t"}
    del batch.tasks["missing"]
    for _ in range(2):
        await store.commit(batch, lease)
    assert await load_all(store) == tasks
    assert await store.load_domains() == {"d": 1}
    assert await store.load_configurations() == {"k": "v"}
    assert [len(await store.output(f"{number}")) for number in range(10)] == [300] * 10


# -- settings, plans, secrets ------------------------------------------------------------------------------------


async def test_every_wait_is_bounded_on_the_servers_side_too(stores) -> None:
    store = await stores(call_seconds=2.0)
    names = "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"
    for name in names:
        assert (await store._read(f"SHOW {name}"))[0][0] == "1600ms"
    for name in ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout"):
        assert (await store._read(f"SHOW {name}"))[0][0] not in {"0", ""}


async def test_what_a_database_is_set_to_weakens_no_promise(store, stores, admin) -> None:
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    fresh = await stores()
    assert (await fresh._read("SHOW synchronous_commit"))[0][0] == "on"
    assert (await fresh._read("SHOW transaction_isolation"))[0][0] == "read committed"
    await admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = remote_write")
    asking = await stores()
    assert (await asking._read("SHOW synchronous_commit"))[0][0] == "remote_write"


def _arguments(name: str, guids: list[str]) -> list[Any]:
    values: dict[str, Any] = {"text": guids, "bytea": [b""] * 3, "boolean": [False] * 3}
    return [values.get(type_, [0] * 3) for type_ in PARTS[name].types]


@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("name", ["removed", "fresh", "whole", "changed"])
async def test_no_commit_reads_a_table_from_end_to_end(store, make_task, name, is_full) -> None:
    lease = await store.acquire("a", 60)
    if is_full:
        await store.commit(whole_batch([make_task(f"{number}") for number in range(3000)]), lease)
        await store._read("ANALYZE tasks")
    arguments = [lease.owner, lease.epoch, store._session, *_arguments(name, ["1", "2", "3"])]
    rows = await store._read(f"EXPLAIN {commit_statement((name,))}", *arguments)
    plan = "\n".join(row[0] for row in rows)
    assert "Seq Scan on tasks" not in plan
    assert ("using pk_tasks" in plan) == (name in {"removed", "changed"})


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2@127.0.0.1:1/db",
        "postgresql://u:hunter2@127.0.0.1:port/db",
        "postgresql://u:hunter%32@127.0.0.1:1/db?sslmode=hunter2",
        "postgresql://u@127.0.0.1:1/db?password=hunter2&sslmode=x",
        "postgresql://u:hunter2@[::1/db",
        "postgresql://u:hunter2@no-such-host.invalid/db",
        "postgresql://u:hun%00ter2@127.0.0.1:1/db",
    ],
)
async def test_no_error_holds_the_password(url) -> None:
    store = PostgresStore(url, sealer=PlainSealer())
    with pytest.raises(StoreError) as raised:
        await store.open()
    error: BaseException | None = raised.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__cause__
    assert str(raised.value).startswith("postgresql://u@")
    assert "hunter2" not in repr(store)


async def test_the_servers_no_is_told_in_its_own_words(postgres_url) -> None:
    url = f"{postgres_url.rpartition('/')[0]}/no_such_database"
    with pytest.raises(StoreError, match=r'database "no_such_database" does not exist \(3D000\)'):
        await PostgresStore(url, sealer=PlainSealer()).open()


@pytest.mark.parametrize("is_new", [True, False])
async def test_opening_what_is_new_or_up_to_date_imports_nothing_heavy(postgres_url, stores, is_new) -> None:
    if not is_new:
        await stores()
    program = """
import asyncio, sys
from bulletin.seams import SystemClock
from bulletin.store import PlainSealer, make_store
async def main():
    store = make_store(sys.argv[1], sealer=PlainSealer(), clock=SystemClock())
    await store.open()
    await store.close()
asyncio.run(main())
print([name for name in ("sqlalchemy", "alembic", "cryptography") if name in sys.modules])
"""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", program, postgres_url, stdout=subprocess.PIPE)
    assert await child.communicate() == (b"[]\n", None)
