"""The gate: durability before answers, order, group commit, and what happens when the store fails."""

from __future__ import annotations

import asyncio

import pytest

from bulletin.board.writer import WriterEnded
from bulletin.core import limits
from bulletin.core.errors import ErrorType, TaskError
from bulletin.core.model import TaskState
from bulletin.core.operations import (
    Cancel,
    Complete,
    Delete,
    Deliver,
    Desire,
    Place,
    Resolving,
    Start,
    Stop,
    TaskChanged,
    TaskCreated,
    TaskRemoved,
)
from bulletin.store.api import Batch, BrokenRow, Output
from bulletin.store.broken import Failure, fail_always, fail_at


async def turns(count: int = 5) -> None:
    """Let everything that can run, run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_an_answer_comes_after_the_commit_and_memory_before(desk, definition):
    desk.store.hold_commits()
    answer = asyncio.create_task(desk.writer.apply(Desire("g", "d", definition())))
    await turns()
    assert desk.writer.tasks["g"].state is TaskState.PENDING
    assert not answer.done()
    assert desk.events == []
    assert desk.effects == []
    assert desk.memory.contents.tasks == {}
    desk.store.release_commits()
    step = await answer
    assert step.task == desk.memory.contents.tasks["g"]
    assert desk.events == [TaskCreated(step.task)]
    assert desk.effects == [Place("g")]


async def test_what_gathers_behind_a_commit_goes_in_one(desk, definition):
    desk.store.hold_commits()
    first = asyncio.create_task(desk.writer.apply(Desire("g0", "d", definition())))
    await turns()
    others = [asyncio.create_task(desk.writer.apply(Desire(f"g{n}", "d", definition()))) for n in range(1, 50)]
    await turns()
    desk.store.release_commits()
    await asyncio.gather(first, *others)
    assert desk.store.calls["commit"] == 2
    assert len(desk.memory.contents.tasks) == 50
    assert [event.task.guid for event in desk.events] == [f"g{n}" for n in range(50)]


async def test_a_group_is_bounded(desk, definition):
    desk.store.hold_commits()
    count = limits.COMMIT_CHANGES_MAX * 2 + 1
    made = definition()
    for n in range(count):
        desk.writer.submit(Desire(f"g{n}", "d", made))
    desk.store.release_commits()
    await desk.writer.settle()
    assert desk.store.calls["commit"] == 3
    assert len(desk.memory.contents.tasks) == count


async def test_changes_that_wait_are_bounded(desk, definition, monkeypatch):
    monkeypatch.setattr(limits, "UNCOMMITTED_CHANGES_MAX", 3)
    desk.store.hold_commits()
    for n in range(3):
        desk.writer.submit(Desire(f"g{n}", "d", definition()))
    with pytest.raises(TaskError, match="too many changes") as refused:
        desk.writer.submit(Desire("g3", "d", definition()))
    assert refused.value.type is ErrorType.UNKNOWN_ERROR
    desk.store.release_commits()
    await desk.writer.settle()
    await desk.writer.apply(Desire("g3", "d", definition()))
    assert len(desk.memory.contents.tasks) == 4


async def test_live_tasks_are_bounded(desk, definition, monkeypatch):
    monkeypatch.setattr(limits, "TASKS_MAX", 1)
    await desk.writer.apply(Desire("g0", "d", definition()))
    with pytest.raises(TaskError, match="its limit"):
        await desk.writer.apply(Desire("g1", "d", definition()))
    await desk.writer.apply(Cancel("g0"))  # what is there goes on


async def test_a_refused_operation_changes_nothing(desk, definition):
    with pytest.raises(TaskError) as refused:
        await desk.writer.apply(Cancel("nobody"))
    assert refused.value.type is ErrorType.RESOURCE_NOT_FOUND
    await desk.writer.settle()
    assert desk.store.calls["commit"] == 0


async def test_a_reader_waits_for_the_commit_of_what_it_would_show(desk, definition):
    desk.store.hold_commits()
    desk.writer.submit(Desire("g", "d", definition()))
    reading = asyncio.create_task(desk.writer.read("g"))
    listing = asyncio.create_task(desk.writer.snapshot())
    await turns()
    assert not reading.done()
    assert not listing.done()
    desk.store.release_commits()
    assert (await reading).guid == "g"
    assert [task.guid for task in await listing] == ["g"]


async def test_a_reader_of_something_else_does_not_wait(desk, definition):
    await desk.writer.apply(Desire("old", "d", definition()))
    desk.store.hold_commits()
    desk.writer.submit(Desire("new", "d", definition()))
    assert (await desk.writer.read("old")).guid == "old"
    assert await desk.writer.read("nobody") is None


async def test_a_removal_is_shown_only_when_durable(desk, definition):
    for operation in (Desire("g", "d", definition()), Cancel("g"), Resolving("g")):
        await desk.writer.apply(operation)
    desk.store.hold_commits()
    desk.writer.submit(Delete("g"))
    reading = asyncio.create_task(desk.writer.read("g"))
    await turns()
    assert not reading.done()
    desk.store.release_commits()
    assert await reading is None
    assert isinstance(desk.events[-1], TaskRemoved)


async def test_a_guid_desired_again_within_the_group_of_its_removal_stays(desk, definition):
    for operation in (Desire("g", "d", definition()), Cancel("g"), Resolving("g")):
        await desk.writer.apply(operation)
    desk.store.hold_commits()
    desk.writer.submit(Delete("g"))
    desk.writer.submit(Desire("g", "again", definition()))
    desk.store.release_commits()
    await desk.writer.settle()
    assert desk.memory.contents.tasks["g"].domain == "again"
    assert [type(event) for event in desk.events[-2:]] == [TaskRemoved, TaskCreated]


async def test_a_repeated_start_is_answered_after_the_first_is_durable(desk, definition):
    await desk.writer.apply(Desire("g", "d", definition()))
    desk.store.hold_commits()
    first = asyncio.create_task(desk.writer.apply(Start("g", "c")))
    again = asyncio.create_task(desk.writer.apply(Start("g", "c")))
    await turns()
    assert not again.done()
    desk.store.release_commits()
    assert (await first).should_start
    assert not (await again).should_start
    assert [type(event) for event in desk.events] == [TaskCreated, TaskChanged]


async def test_output_is_kept_with_the_outcome(desk, definition):
    await desk.writer.apply(Desire("g", "d", definition()))
    await desk.writer.apply(Start("g", "c"))
    await desk.writer.apply(Complete("g", "c", False, "", "r"), Output("g", b"lines", 2**60))
    assert await desk.memory.output("g") == b"lines"
    assert desk.effects[-1] == Stop("g", "c")


async def test_a_commit_that_fails_once_is_tried_again(open_desk, definition):
    async with open_desk(retry_seconds=5.0) as desk:
        desk.store.fail = fail_at("commit", 1)
        await desk.writer.apply(Desire("g", "d", definition()))
        assert desk.store.calls["commit"] == 2
        assert "g" in desk.memory.contents.tasks


async def test_a_commit_that_succeeded_and_said_it_did_not_is_harmless(open_desk, definition):
    async with open_desk(retry_seconds=5.0) as desk:
        desk.store.fail = fail_at("commit", 1, Failure.AFTER)
        await desk.writer.apply(Desire("g", "d", definition()), Output("g", b"x", 2**60))
        assert len(desk.events) == 1
        assert list(desk.memory.contents.tasks) == ["g"]


@pytest.mark.parametrize("failure", list(Failure))
async def test_a_lost_commit_ends_the_writer_and_tells_everybody(desk, definition, failure):
    desk.store.fail = fail_always("commit", failure)
    desk.store.hold_commits()
    answer = asyncio.create_task(desk.writer.apply(Desire("g", "d", definition())))
    await turns()
    behind = asyncio.create_task(desk.writer.apply(Desire("h", "d", definition())))
    reading = asyncio.create_task(desk.writer.read("h"))
    await turns()
    desk.store.release_commits()
    for waiting in (answer, behind, reading):
        with pytest.raises(TaskError) as told:
            await waiting
        assert told.value.type is ErrorType.UNKNOWN_ERROR
    with pytest.raises(WriterEnded):
        await desk.running
    with pytest.raises(TaskError, match="the store failed"):
        desk.writer.submit(Desire("i", "d", definition()))
    assert desk.events == []
    assert desk.effects == []


async def test_a_cancelled_caller_does_not_cancel_its_neighbours(desk, definition):
    desk.store.hold_commits()
    leaving = asyncio.create_task(desk.writer.apply(Desire("g", "d", definition())))
    staying = asyncio.create_task(desk.writer.apply(Desire("h", "d", definition())))
    await turns()
    leaving.cancel()
    await turns()
    desk.store.release_commits()
    assert (await staying).task.guid == "h"
    assert set(desk.memory.contents.tasks) == {"g", "h"}, "what was stepped is committed though nobody waits"


async def test_stop_lets_what_was_applied_become_durable(desk, definition):
    desk.store.hold_commits()
    desk.writer.submit(Desire("g", "d", definition()))
    desk.writer.stop()
    await turns()
    desk.store.release_commits()
    await desk.running
    assert "g" in desk.memory.contents.tasks
    with pytest.raises(TaskError, match="stopping"):
        desk.writer.submit(Desire("h", "d", definition()))


async def test_a_new_writer_finds_everything(desk, open_desk, definition):
    await desk.writer.apply(Desire("g", "d", definition(memory_mb=7)))
    await desk.writer.apply(Start("g", "c"))
    await desk.writer.upsert_domain("dom", 99)
    before = desk.writer.tasks["g"]
    async with open_desk(memory=desk.memory) as again:
        assert again.writer.tasks == {"g": before}
        assert again.writer.domains == {"dom": 99}


async def test_a_broken_row_is_told_apart_and_discarded_on_order(desk, open_desk, definition):
    await desk.writer.apply(Desire("good", "d", definition()))
    desk.memory.contents.broken["bad"] = BrokenRow("bad", "not a definition")
    async with open_desk(memory=desk.memory) as again:
        assert (await again.writer.read("good")).guid == "good"
        with pytest.raises(TaskError) as told:
            await again.writer.read("bad")
        assert told.value.type is ErrorType.DESERIALIZE
        with pytest.raises(TaskError):
            again.writer.submit(Desire("bad", "d", definition()))
        assert again.writer.discard_broken() == 1
        await again.writer.settle()
        assert desk.memory.contents.broken == {}
        await again.writer.apply(Desire("bad", "d", definition()))


async def test_what_is_desired_is_written_whole_and_what_changes_is_not(desk, definition):
    batches = watch_batches(desk)
    await desk.writer.apply(Desire("g", "d", definition()))
    await desk.writer.apply(Start("g", "c"))
    assert [(set(batch.tasks), batch.whole) for batch in batches] == [({"g"}, {"g"}), ({"g"}, set())]


async def test_a_change_in_the_group_of_its_desire_is_part_of_the_whole(desk, definition):
    batches = watch_batches(desk)
    desk.writer.submit(Desire("g", "d", definition()))
    desk.writer.submit(Start("g", "c"))
    await desk.writer.settle()
    (batch,) = batches
    assert batch.whole == {"g"}
    assert batch.tasks["g"].state is TaskState.RUNNING


async def test_a_guid_removed_and_desired_again_is_written_whole(desk, definition):
    for operation in (Desire("g", "d", definition()), Cancel("g"), Resolving("g")):
        await desk.writer.apply(operation)
    batches = watch_batches(desk)
    desk.writer.submit(Delete("g"))
    desk.writer.submit(Desire("g", "again", definition()))
    await desk.writer.settle()
    assert [(batch.whole, batch.removed) for batch in batches] == [({"g"}, set())]


async def test_a_guid_desired_and_removed_again_leaves_no_row_to_write(desk, definition):
    batches = watch_batches(desk)
    for operation in (Desire("g", "d", definition()), Cancel("g"), Resolving("g"), Delete("g")):
        desk.writer.submit(operation)
    await desk.writer.settle()
    assert [(batch.tasks, batch.whole, batch.removed) for batch in batches] == [({}, set(), {"g"})]


async def test_a_delivered_task_desired_anew_is_written_whole(desk, definition):
    for operation in (Desire("g", "old", definition()), Cancel("g"), Resolving("g"), Deliver("g")):
        await desk.writer.apply(operation)
    batches = watch_batches(desk)
    await desk.writer.apply(Desire("g", "new", definition()))
    assert [batch.whole for batch in batches] == [{"g"}]
    assert desk.memory.contents.tasks["g"].domain == "new"


async def test_rewriting_writes_what_is_there_whole_and_changes_nothing(desk, definition):
    await desk.writer.apply(Desire("g", "d", definition()))
    await desk.writer.apply(Desire("h", "d", definition()))
    events, batches = len(desk.events), watch_batches(desk)
    before = dict(desk.writer.tasks)
    assert await desk.writer.rewrite(["g", "nobody", "h"]) == 2
    assert await desk.writer.rewrite(["nobody"]) == 0
    assert [(set(batch.tasks), batch.whole) for batch in batches] == [({"g", "h"}, {"g", "h"})]
    assert desk.writer.tasks == before
    assert len(desk.events) == events


async def test_rewriting_is_refused_when_too_many_changes_wait(desk, definition, monkeypatch):
    await desk.writer.apply(Desire("g", "d", definition()))
    monkeypatch.setattr(limits, "UNCOMMITTED_CHANGES_MAX", 0)
    with pytest.raises(TaskError, match="too many changes"):
        await desk.writer.rewrite(["g"])


async def test_facts_are_kept_with_the_same_commit_or_not_at_all(desk):
    await desk.writer.configure({"a": "1", "b": "2"})
    assert desk.memory.contents.configurations == {"a": "1", "b": "2"}
    desk.store.fail = fail_always("commit")
    with pytest.raises(TaskError, match="the store failed"):
        await desk.writer.configure({"a": "3"})
    assert desk.memory.contents.configurations == {"a": "1", "b": "2"}


async def test_ending_while_a_commit_is_under_way_publishes_nothing_of_it(desk, definition):
    desk.store.hold_commits()
    answer = asyncio.create_task(desk.writer.apply(Desire("g", "d", definition())))
    await turns()
    desk.writer.end("the lease was lost")
    with pytest.raises(TaskError, match="the lease was lost"):
        await answer
    desk.store.release_commits()
    with pytest.raises(WriterEnded, match="the lease was lost"):
        await desk.running
    assert desk.events == []
    assert desk.effects == []


async def test_ending_an_idle_writer_ends_its_run(desk):
    await turns()
    assert not desk.writer.has_ended
    desk.writer.end("the lease was lost")
    assert desk.writer.has_ended
    with pytest.raises(WriterEnded, match="the lease was lost"):
        await asyncio.wait_for(desk.running, 10)


def watch_batches(desk) -> list[Batch]:
    """Every batch that is committed from now on."""
    batches: list[Batch] = []
    commit = desk.memory.commit

    async def watched(batch, lease):
        batches.append(batch)
        await commit(batch, lease)

    desk.memory.commit = watched
    return batches
