"""What every store keeps of ``store.api``: one suite over all of them."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.batches import whole_batch

from bulletin.core.model import CallbackAttempt, Task, TaskState
from bulletin.store.api import Batch, Lease, LeaseHeld, LeaseLost, Output, StoreError
from bulletin.wire.proto.bbs_pb2 import TaskDefinition
from bulletin.wire.tasks import summarise

NEVER = 2**63 - 1

# -- the lease ---------------------------------------------------------------------------------------------------


async def test_a_lease_keeps_others_out_until_it_has_run_out(store, clock) -> None:
    lease = await store.acquire("a", 15)
    assert lease.owner == "a"
    with pytest.raises(LeaseHeld):
        await store.acquire("b", 15)
    clock.advance(14)
    with pytest.raises(LeaseHeld):
        await store.acquire("b", 15)
    clock.advance(1)
    assert (await store.acquire("b", 15)).epoch > lease.epoch


async def test_a_refused_acquire_leaves_the_owner_alone(store, make_task) -> None:
    lease = await store.acquire("a", 15)
    with pytest.raises(LeaseHeld):
        await store.acquire("b", 15)
    await store.renew(lease, 15)
    await store.commit(whole_batch({"t": make_task("t")}), lease)


async def test_a_renewed_lease_lasts_from_the_renewal(store, clock) -> None:
    lease = await store.acquire("a", 15)
    clock.advance(10)
    await store.renew(lease, 15)
    clock.advance(14)
    with pytest.raises(LeaseHeld):
        await store.acquire("b", 15)
    clock.advance(1)
    await store.acquire("b", 15)


async def test_a_lease_taken_over_cannot_be_renewed(store, clock) -> None:
    lease = await store.acquire("a", 15)
    clock.advance(15)
    taken = await store.acquire("b", 15)
    with pytest.raises(LeaseLost):
        await store.renew(lease, 1000)
    clock.advance(15)
    assert (await store.acquire("c", 15)).epoch > taken.epoch


async def test_a_lease_that_ran_out_is_kept_while_nobody_takes_it(store, clock, make_task) -> None:
    lease = await store.acquire("a", 15)
    clock.advance(60)
    await store.commit(whole_batch({"t": make_task("t")}), lease)
    await store.renew(lease, 15)
    with pytest.raises(LeaseHeld):
        await store.acquire("b", 15)


async def test_the_owner_may_acquire_again_and_its_older_lease_is_over(store, make_task) -> None:
    older = await store.acquire("a", 15)
    newer = await store.acquire("a", 15)
    assert newer.epoch > older.epoch
    with pytest.raises(LeaseLost):
        await store.renew(older, 15)
    with pytest.raises(LeaseLost):
        await store.commit(whole_batch({"t": make_task("t")}), older)
    await store.commit(whole_batch({"t": make_task("t")}), newer)


async def test_a_released_lease_is_free_at_once_and_writes_no_more(store, make_task, load_all) -> None:
    lease = await store.acquire("a", 1000)
    await store.release(lease)
    with pytest.raises(LeaseLost):
        await store.commit(whole_batch({"t": make_task("t")}), lease)
    with pytest.raises(LeaseLost):
        await store.renew(lease, 15)
    assert await load_all(store) == {}
    assert (await store.acquire("b", 15)).epoch > lease.epoch


async def test_releasing_a_lost_lease_changes_nothing(store, clock, make_task) -> None:
    lost = await store.acquire("a", 15)
    clock.advance(15)
    lease = await store.acquire("b", 15)
    await store.release(lost)
    await store.release(lost)
    with pytest.raises(LeaseHeld):
        await store.acquire("c", 15)
    await store.commit(whole_batch({"t": make_task("t")}), lease)


async def test_epochs_only_grow(reopen, clock) -> None:
    store = await reopen()
    epochs = []
    for number in range(12):
        lease = await store.acquire(f"board-{number % 3}", 15)
        epochs.append(lease.epoch)
        match number % 4:
            case 0:
                await store.release(lease)
            case 1:
                clock.advance(15)
            case 2:
                await store.release(lease)
                store = await reopen()
            case 3:
                clock.advance(3600)
    assert epochs == sorted(set(epochs))


async def test_a_stale_epoch_never_writes(store, clock, make_task, load_all) -> None:
    stale = await store.acquire("a", 15)
    kept = make_task("kept")
    await store.commit(
        whole_batch({"kept": kept}, domains={"d": 1}, outputs=[Output("kept", b"old", NEVER)]),
        stale,
    )
    clock.advance(15)
    await store.acquire("b", 15)
    for batch in (
        whole_batch({"new": make_task("new")}),
        whole_batch({"kept": dataclasses.replace(kept, domain="changed")}),
        Batch(removed={"kept"}),
        Batch(domains={"d": 2, "e": 3}),
        Batch(removed_domains={"d", "nobody's"}),
        Batch(outputs=[Output("kept", b"new", NEVER)]),
        Batch(),
    ):
        with pytest.raises(LeaseLost):
            await store.commit(batch, stale)
    assert await load_all(store) == {"kept": kept}
    assert await store.load_domains() == {"d": 1}
    assert await store.output("kept") == b"old"


async def test_an_epoch_counts_only_with_its_owner(store, make_task) -> None:
    lease = await store.acquire("a", 15)
    for forged in (Lease("b", lease.epoch), Lease("a", lease.epoch + 1), Lease("", lease.epoch)):
        with pytest.raises(LeaseLost):
            await store.commit(whole_batch({"t": make_task("t")}), forged)
        with pytest.raises(LeaseLost):
            await store.renew(forged, 15)


# -- commits -----------------------------------------------------------------------------------------------------


async def test_a_commit_inserts_overwrites_and_removes(reopen, make_task, load_all) -> None:
    store = await reopen()
    lease = await store.acquire("a", 15)
    a, b, c = (make_task(guid) for guid in "abc")
    await store.commit(whole_batch({"a": a, "b": b}), lease)
    assert await load_all(store) == {"a": a, "b": b}
    changed = dataclasses.replace(b, state=TaskState.RUNNING, cell_id="cell", updated_at=7)
    await store.commit(whole_batch({"b": changed, "c": c}, removed={"a"}), lease)
    assert await load_all(store) == {"b": changed, "c": c}
    await store.commit(Batch(removed={"b", "c"}), lease)
    assert await load_all(store) == {}


async def test_a_guid_can_be_used_again_for_another_task(store, make_task, make_definition, load_all) -> None:
    lease = await store.acquire("a", 15)
    await store.commit(whole_batch({"t": make_task("t", result="old", failed=True, cell_id="c")}), lease)
    other = make_task("t", domain="other", definition=make_definition(root_fs="preloaded:x", annotation="n"))
    await store.commit(whole_batch({"t": other}), lease)
    assert await load_all(store) == {"t": other}


async def test_a_change_keeps_what_a_task_has_for_life(store, make_task, make_definition, load_all) -> None:
    lease = await store.acquire("a", 15)
    tasks = {guid: make_task(guid) for guid in "abc"}
    await store.commit(whole_batch(tasks), lease)
    attempts = (CallbackAttempt(1, 2, 503, "no"),)
    ended = {"state": TaskState.COMPLETED, "updated_at": 9, "first_completed_at": 9, "failed": True, "delivered_at": 3}
    texts = {"cell_id": "c", "failure_reason": "f", "rejection_reason": "r", "result": "x", "attempts": attempts}
    changed = dataclasses.replace(tasks["a"], **ended, **texts, rejection_count=4)
    forged = dataclasses.replace(changed, domain="other", created_at=1, definition=make_definition(annotation="n"))
    overwritten = dataclasses.replace(forged, guid="b")
    batch = Batch({"a": forged, "b": overwritten, "d": make_task("d")}, {"b", "d"}, {"c"})
    for _ in range(2):
        await store.commit(batch, lease)
        assert await load_all(store) == {"a": changed, "b": overwritten, "d": batch.tasks["d"]}


async def test_a_change_of_a_row_that_is_not_there_is_an_error(store, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    kept = make_task("kept")
    await store.commit(whole_batch([kept]), lease)
    batch = Batch({"kept": kept, "gone": make_task("gone")})
    with pytest.raises(StoreError, match="not there"):
        await store.commit(batch, lease)
    assert "gone" not in await load_all(store)
    batch.whole.add("gone")
    await store.commit(batch, lease)
    assert await load_all(store) == batch.tasks


async def test_configurations_are_upserted_and_outlive_the_store(reopen) -> None:
    store = await reopen()
    assert await store.load_configurations() == {}
    lease = await store.acquire("a", 15)
    await store.commit(Batch(configurations={"k": "1", "ü": ""}), lease)
    await store.commit(Batch(configurations={"k": "2"}), lease)
    await store.release(lease)
    with pytest.raises(LeaseLost):
        await store.commit(Batch(configurations={"k": "3"}), lease)
    store = await reopen()
    assert await store.load_configurations() == {"k": "2", "ü": ""}


async def test_removing_what_is_not_there_is_no_error(store, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    task = make_task("t")
    await store.commit(whole_batch({"t": task}, removed={"never"}), lease)
    await store.commit(Batch(removed={"never"}), lease)
    assert await load_all(store) == {"t": task}


async def test_an_empty_batch_is_no_error(store, load_all) -> None:
    lease = await store.acquire("a", 15)
    await store.commit(Batch(), lease)
    assert await load_all(store) == {}


async def test_the_same_batch_again_is_harmless(store, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    task = make_task("t")
    await store.commit(whole_batch({"gone": make_task("gone")}), lease)
    batch = whole_batch({"t": task}, removed={"gone"}, domains={"d": 1}, outputs=[Output("t", b"x", NEVER)])
    for _ in range(3):
        await store.commit(batch, lease)
    assert await load_all(store) == {"t": task}
    assert await store.load_domains() == {"d": 1}
    assert await store.output("t") == b"x"


async def test_a_batch_of_a_thousand(store, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    tasks = {f"guid-{number}": make_task(f"guid-{number}", created_at=number) for number in range(1000)}
    await store.commit(whole_batch(tasks), lease)
    assert await load_all(store) == tasks
    changed = {guid: dataclasses.replace(task, state=TaskState.COMPLETED) for guid, task in tasks.items()}
    await store.commit(whole_batch(changed), lease)
    assert await load_all(store) == changed
    await store.commit(Batch(removed=set(tasks)), lease)
    assert await load_all(store) == {}


async def test_a_contradictory_batch_is_refused_whole(store, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    with pytest.raises(AssertionError):
        await store.commit(whole_batch({"t": make_task("t"), "u": make_task("u")}, removed={"t"}), lease)
    with pytest.raises(AssertionError):
        await store.commit(whole_batch({"u": make_task("u"), "t": make_task("another")}), lease)
    with pytest.raises(AssertionError):
        await store.commit(Batch({"u": make_task("u")}, {"u", "t"}), lease)
    assert await load_all(store) == {}


async def test_everything_is_there_after_opening_again(reopen, make_task, load_all) -> None:
    store = await reopen()
    lease = await store.acquire("a", 15)
    task = make_task("t")
    await store.commit(
        whole_batch({"t": task}, domains={"d": NEVER}, outputs=[Output("t", b"\x00\xff", NEVER)]),
        lease,
    )
    await store.release(lease)
    store = await reopen()
    assert await load_all(store) == {"t": task}
    assert await store.load_domains() == {"d": NEVER}
    assert await store.output("t") == b"\x00\xff"


async def test_domains_are_upserted_and_removed(store) -> None:
    lease = await store.acquire("a", 15)
    await store.commit(Batch(domains={"d": 1, "e": 2}), lease)
    await store.commit(Batch(domains={"e": 3, "f": 4}, removed_domains={"d", "nobody's"}), lease)
    assert await store.load_domains() == {"e": 3, "f": 4}


# -- loading -----------------------------------------------------------------------------------------------------


async def test_an_empty_store_loads_nothing(store) -> None:
    assert [chunk async for chunk in store.load()] == []
    assert await store.load_domains() == {}


async def test_chunks_are_bounded_and_the_loop_goes_on_between_them(store, make_task) -> None:
    lease = await store.acquire("a", 15)
    await store.commit(whole_batch({f"{number}": make_task(f"{number}") for number in range(1200)}), lease)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    sizes = [len(chunk) async for chunk in store.load()]
    counting.cancel()
    assert sum(sizes) == 1200
    assert max(sizes) <= 500
    assert turns >= len(sizes) - 1 >= 2


async def test_loading_may_be_given_up_and_begun_again(store, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    tasks = {f"{number}": make_task(f"{number}") for number in range(600)}
    await store.commit(whole_batch(tasks), lease)
    loading = store.load()
    await anext(loading)
    await loading.aclose()
    assert await load_all(store) == tasks


async def test_a_commit_while_loading_harms_neither(store, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    tasks = {f"{number:04}": make_task(f"{number:04}") for number in range(900)}
    await store.commit(whole_batch(tasks), lease)
    loading = store.load()
    seen = [row.guid for row in await anext(loading)]
    changed = {guid: dataclasses.replace(tasks[guid], state=TaskState.RUNNING) for guid in tasks}
    await store.commit(whole_batch(changed), lease)
    seen += [row.guid async for chunk in loading for row in chunk]
    assert sorted(seen) == sorted(tasks)
    assert await load_all(store) == changed


FULL_TASK = {
    "guid": "guid-ü-火-🧨",
    "domain": "domäne",
    "state": TaskState.RESOLVING,
    "created_at": 1,
    "updated_at": NEVER,
    "first_completed_at": 2**53 + 1,
    "cell_id": "zelle-é",
    "result": "résultat\n\t\x01\x7f\u2028",
    "failed": True,
    "failure_reason": "raison ☠",
    "rejection_count": 2**31 - 1,
    "rejection_reason": "Grund",
    "delivered_at": 1_790_000_000_123_456_789,
    "attempts": (
        CallbackAttempt(1_790_000_000_123_456_788, NEVER, 0, 'refusé: "\n\x00\u2028🧨'),
        CallbackAttempt(1_790_000_000_123_456_789, 0, 204),
    ),
}


def test_the_full_task_sets_every_field() -> None:
    assert {*FULL_TASK, "definition"} == {field.name for field in dataclasses.fields(Task)}
    for field in dataclasses.fields(Task):
        if field.default is not dataclasses.MISSING:
            assert FULL_TASK[field.name] != field.default


async def test_every_field_comes_back(store, make_definition, load_all) -> None:
    lease = await store.acquire("a", 15)
    definition = make_definition(
        root_fs="preloaded:cflinuxfs4",
        memory_mb=1,
        disk_mb=2**31 - 1,
        max_pids=3,
        placement_tags=["b", "a", "b", "ü"],
        volume_mounts=[{"driver": "nfs"}, {"driver": ""}, {"driver": "nfs"}],
        completion_callback_url="https://example.com/?q=ü",
        image_password="secret",
        annotation="a" * 10_240,
    )
    task = Task(definition=definition, **FULL_TASK)
    await store.commit(whole_batch({task.guid: task}), lease)
    (loaded,) = (await load_all(store)).values()
    assert loaded == task
    assert [type(getattr(loaded, field.name)) for field in dataclasses.fields(Task)] == [
        type(getattr(task, field.name)) for field in dataclasses.fields(Task)
    ]


async def test_empty_long_and_huge_values_come_back(store, make_task, make_definition, load_all) -> None:
    lease = await store.acquire("a", 15)
    bare = Task("bare", "", summarise(TaskDefinition()), TaskState.INVALID, 0, 0)
    long = make_task("long", result="é" * 25_600, failure_reason="x" * 1024)
    huge = make_task("huge", definition=make_definition(annotation="h" * 8_000_000))
    tasks = {task.guid: task for task in (bare, long, huge)}
    await store.commit(whole_batch(tasks), lease)
    assert await load_all(store) == tasks


# Surrogates are no text anywhere on the wire, and the board refuses U+0000 (board-api.md 4.3); everything else is text.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
times = st.integers(0, NEVER)
definitions = st.builds(
    lambda **fields: summarise(TaskDefinition(**fields)),
    root_fs=texts,
    memory_mb=st.integers(-(2**31), 2**31 - 1),
    disk_mb=st.integers(-(2**31), 2**31 - 1),
    max_pids=st.integers(-(2**31), 2**31 - 1),
    placement_tags=st.lists(texts, max_size=3),
    completion_callback_url=texts,
    annotation=texts,
    volume_mounts=st.lists(st.builds(lambda driver: {"driver": driver}, texts), max_size=3),
)
GUIDS = ["", "a", "A", "b", "ä", "a ", "0", "\x01"]
tasks_of = st.builds(
    Task,
    guid=st.sampled_from(GUIDS),
    domain=texts,
    definition=definitions,
    state=st.sampled_from(TaskState),
    created_at=times,
    updated_at=times,
    first_completed_at=times,
    cell_id=texts,
    result=texts,
    failed=st.booleans(),
    failure_reason=texts,
    rejection_count=st.integers(0, 2**31 - 1),
    rejection_reason=texts,
    delivered_at=times,
    attempts=st.lists(st.builds(CallbackAttempt, times, times, st.integers(0, 999), texts), max_size=3).map(tuple),
)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    tasks = {task.guid: task for task in draw(st.lists(tasks_of, max_size=4))}
    removed = draw(st.sets(st.sampled_from(GUIDS))) - tasks.keys()
    domains = draw(st.dictionaries(texts, times, max_size=2))
    outputs = [
        Output(guid, draw(st.binary(max_size=50)), draw(st.integers(0, NEVER - 1)))
        for guid in draw(st.sets(st.sampled_from(GUIDS)))
    ]
    configurations = draw(st.dictionaries(st.sampled_from("abc"), texts, max_size=2))
    return whole_batch(tasks, removed=removed, domains=domains, outputs=outputs, configurations=configurations)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(batches(), max_size=5))
async def test_any_history_of_batches_leaves_what_a_dict_would_hold(store, load_all, history: list[Batch]) -> None:
    lease = await store.acquire("a", 15)
    await store.commit(Batch(removed=set(GUIDS)), lease)
    await store.prune_outputs(NEVER, 0)
    tasks: dict[str, Any] = {}
    domains = await store.load_domains()
    outputs: dict[str, bytes] = {}
    configurations = await store.load_configurations()
    for batch in history:
        await store.commit(batch, lease)
        tasks = {guid: task for guid, task in tasks.items() if guid not in batch.removed} | batch.tasks
        domains |= batch.domains
        outputs |= {output.guid: output.lines for output in batch.outputs}
        configurations |= batch.configurations
    assert await load_all(store) == tasks
    assert await store.load_domains() == domains
    assert await store.load_configurations() == configurations
    assert {guid: await store.output(guid) for guid in GUIDS} == {guid: outputs.get(guid) for guid in GUIDS}


# -- domains and outputs -----------------------------------------------------------------------------------------


async def test_domains_are_kept_with_their_end(store) -> None:
    lease = await store.acquire("a", 15)
    await store.commit(Batch(domains={"d": 5, "ü": NEVER}), lease)
    await store.commit(Batch(domains={"d": 9}), lease)
    assert await store.load_domains() == {"d": 9, "ü": NEVER}


async def test_outputs_are_kept_apart_from_tasks(store, make_task) -> None:
    lease = await store.acquire("a", 15)
    assert await store.output("t") is None
    await store.commit(whole_batch({"t": make_task("t")}, outputs=[Output("t", b"first", NEVER)]), lease)
    await store.commit(Batch(removed={"t"}), lease)
    assert await store.output("t") == b"first"
    await store.commit(Batch(outputs=[Output("t", b"", NEVER), Output("t", b"last", NEVER)]), lease)
    assert await store.output("t") == b"last"
    await store.commit(Batch(outputs=[Output("t", b"", NEVER)]), lease)
    assert await store.output("t") == b""


async def kept(store: Any, guids: str) -> str:
    return "".join([guid for guid in guids if await store.output(guid) is not None])


async def test_pruning_drops_what_expired_before_now(store) -> None:
    lease = await store.acquire("a", 15)
    await store.prune_outputs(100, 1000)
    await store.commit(
        Batch(outputs=[Output(guid, b"x", at) for guid, at in zip("abc", (99, 100, 101), strict=True)]), lease
    )
    await store.prune_outputs(99, 1000)
    assert await kept(store, "abc") == "abc"
    await store.prune_outputs(100, 1000)
    assert await kept(store, "abc") == "bc"


async def test_pruning_drops_the_oldest_until_the_rest_fits(store) -> None:
    lease = await store.acquire("a", 15)
    # Not committed in the order of age, so that only the end of the retention can tell it.
    await store.commit(Batch(outputs=[Output(g, bytes(10), ord(g)) for g in "cafedb"]), lease)
    await store.prune_outputs(0, 60)
    assert await kept(store, "abcdef") == "abcdef"
    await store.prune_outputs(0, 59)
    assert await kept(store, "abcdef") == "bcdef"
    await store.prune_outputs(0, 31)
    assert await kept(store, "abcdef") == "def"
    await store.prune_outputs(ord("e"), 31)
    assert await kept(store, "abcdef") == "ef"
    await store.prune_outputs(0, 9)
    assert await kept(store, "abcdef") == ""


async def test_pruning_counts_an_overwritten_output_once(store) -> None:
    lease = await store.acquire("a", 15)
    await store.commit(Batch(outputs=[Output("a", bytes(50), 1), Output("b", bytes(10), 2)]), lease)
    await store.commit(Batch(outputs=[Output("a", bytes(10), 3)]), lease)
    await store.prune_outputs(0, 20)
    assert await kept(store, "ab") == "ab"
    await store.prune_outputs(0, 19)
    assert await kept(store, "ab") == "a"


async def test_pruning_a_great_deal(store) -> None:
    lease = await store.acquire("a", 15)
    for first in range(0, 600, 200):
        outputs = [Output(f"{number}", bytes(20_000), number) for number in range(first, first + 200)]
        await store.commit(Batch(outputs=outputs), lease)
    await store.prune_outputs(100, 20_000 * 50)
    assert [number for number in range(600) if await store.output(f"{number}") is not None] == list(range(550, 600))


# -- opening and closing -----------------------------------------------------------------------------------------


async def test_closing_is_idempotent(store) -> None:
    await store.close()
    await store.close()


async def test_a_closed_store_refuses_everything(store, make_task) -> None:
    lease = await store.acquire("a", 15)
    await store.close()
    for call in (
        store.acquire("a", 15),
        store.renew(lease, 15),
        store.release(lease),
        store.load_domains(),
        store.load_configurations(),
        store.commit(whole_batch({"t": make_task("t")}), lease),
        store.output("t"),
        store.prune_outputs(0, 0),
        anext(store.load()),
    ):
        with pytest.raises(StoreError):
            await call


async def test_a_closed_store_can_be_opened_again(store, make_task, load_all) -> None:
    lease = await store.acquire("a", 15)
    task = make_task("t")
    await store.commit(whole_batch({"t": task}), lease)
    await store.release(lease)
    await store.close()
    await store.open()
    assert await load_all(store) == {"t": task}
    await store.commit(Batch(removed={"t"}), await store.acquire("b", 15))
