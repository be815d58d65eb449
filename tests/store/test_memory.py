"""Memory stores over the same contents are boards at the same database."""

from __future__ import annotations

import pytest
from support.batches import whole_batch

from bulletin.store.api import Batch, BrokenRow, LeaseHeld, LeaseLost
from bulletin.store.memory import Contents, MemoryStore


async def test_two_stores_fight_for_one_lease(clock, make_task, load_all) -> None:
    contents = Contents()
    one, two = MemoryStore(clock=clock, contents=contents), MemoryStore(clock=clock, contents=contents)
    await one.open()
    await two.open()
    lease = await one.acquire("one", 15)
    with pytest.raises(LeaseHeld):
        await two.acquire("two", 15)
    clock.advance(15)
    taken = await two.acquire("two", 15)
    with pytest.raises(LeaseLost):
        await one.commit(whole_batch({"t": make_task("t")}), lease)
    await one.close()
    await two.commit(whole_batch({"t": make_task("t")}), taken)
    assert set(await load_all(two)) == {"t"}


async def test_stores_share_nothing_by_default(clock, make_task, load_all) -> None:
    one, two = MemoryStore(clock=clock), MemoryStore(clock=clock)
    await one.open()
    await two.open()
    await one.commit(whole_batch({"t": make_task("t")}), await one.acquire("a", 15))
    assert await load_all(two) == {}


async def test_a_later_change_of_the_batch_changes_nothing_stored(clock, make_task, load_all) -> None:
    store = MemoryStore(clock=clock)
    await store.open()
    batch = whole_batch({"t": make_task("t")})
    await store.commit(batch, await store.acquire("a", 15))
    batch.tasks.clear()
    assert set(await load_all(store)) == {"t"}


@pytest.mark.parametrize("overwritten", [True, False])
async def test_a_broken_row_goes_as_any_other(clock, make_task, load_all, overwritten) -> None:
    broken = BrokenRow("bad", "damaged on order")
    store = MemoryStore(clock=clock, contents=Contents(broken={"bad": broken}))
    await store.open()
    lease = await store.acquire("a", 15)
    assert await load_all(store) == {"bad": broken}
    batch = whole_batch({"bad": make_task("bad")}) if overwritten else Batch(removed={"bad"})
    await store.commit(batch, lease)
    assert await load_all(store) == batch.tasks
