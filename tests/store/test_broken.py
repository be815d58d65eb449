"""The store that fails on order does so exactly as ordered."""

from __future__ import annotations

import asyncio

import pytest
from support.batches import whole_batch

from bulletin.store.api import Batch, LeaseLost, Output, StoreError
from bulletin.store.broken import BrokenStore, Failure, fail_always, fail_at
from bulletin.store.memory import MemoryStore


@pytest.fixture
async def store(clock) -> BrokenStore:
    store = BrokenStore(MemoryStore(clock=clock))
    await store.open()
    return store


async def test_a_failure_before_writes_nothing(store, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    store.fail = fail_at("commit", 2)
    await store.commit(whole_batch({"1": make_task("1")}), lease)
    with pytest.raises(StoreError, match="before commit 2") as raised:
        await store.commit(whole_batch({"2": make_task("2")}), lease)
    assert type(raised.value) is StoreError
    await store.commit(whole_batch({"3": make_task("3")}), lease)
    assert set(await load_all(store)) == {"1", "3"}


async def test_a_failure_after_has_written(store, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    store.fail = fail_at("commit", 1, Failure.AFTER)
    batch = whole_batch({"1": make_task("1")})
    with pytest.raises(StoreError, match="after commit 1"):
        await store.commit(batch, lease)
    assert await load_all(store) == batch.tasks
    await store.commit(batch, lease)


async def test_a_lost_lease_writes_nothing(store, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    store.fail = fail_always("commit", Failure.LEASE_LOST, since=2)
    await store.commit(whole_batch({"1": make_task("1")}), lease)
    for _ in range(2):
        with pytest.raises(LeaseLost):
            await store.commit(whole_batch({"2": make_task("2")}), lease)
    assert set(await load_all(store)) == {"1"}


async def test_every_method_fails_on_order_and_recovers(store, make_task) -> None:
    lease = await store.acquire("a", 15)
    await store.commit(whole_batch({"t": make_task("t")}, outputs=[Output("t", b"x", 2**62)]), lease)

    async def load() -> None:
        async for _ in store.load():
            pass

    calls = {
        "open": store.open,
        "acquire": lambda: store.acquire("a", 15),
        "renew": lambda: store.renew(lease, 15),
        "load": load,
        "load_domains": store.load_domains,
        "load_configurations": store.load_configurations,
        "commit": lambda: store.commit(Batch(), lease),
        "output": lambda: store.output("t"),
        "prune_outputs": lambda: store.prune_outputs(0, 1000),
        "release": lambda: store.release(lease),
    }
    for name, call in calls.items():
        lease = await store.acquire("a", 15)
        for failure in Failure:
            before = store.calls[name]
            store.fail = fail_always(name, failure)
            with pytest.raises(LeaseLost if failure is Failure.LEASE_LOST else StoreError):
                await call()
            assert store.calls[name] == before + 1
        store.fail = lambda _method, _call: None
        lease = await store.acquire("a", 15)
        await call()


async def test_held_commits_wait_and_go_on_in_order(store, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    store.hold_commits()
    commits = [asyncio.create_task(store.commit(whole_batch({guid: make_task(guid)}), lease)) for guid in "abc"]
    await asyncio.sleep(0)
    assert store.calls["commit"] == 3
    assert await load_all(store) == {}
    store.release_commits()
    await asyncio.gather(*commits)
    assert list(await load_all(store)) == ["a", "b", "c"]
