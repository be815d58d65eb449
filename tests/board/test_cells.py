"""Cells on their links: who holds what, who may start, what a reconnect brings, what a silent cell costs."""

from __future__ import annotations

import pytest

from bulletin.board.cells import CONTAINER_MISSING, Cells, LinkRefused
from bulletin.board.settings import BoardSettings
from bulletin.core.model import Resources, TaskState
from bulletin.core.operations import Cancel, Complete, Delete, Desire, Resolving, Start
from bulletin.store.broken import fail_always
from bulletin.wire import link as wire_link
from bulletin.wire.proto import bbs_pb2, link_pb2

Held = link_pb2.Held


class Listener:
    def __init__(self) -> None:
        self.rooms = 0
        self.arrivals = 0
        self.offered: list[str] = []

    def room(self) -> None:
        self.rooms += 1

    def offer_all_pending(self) -> None:
        self.arrivals += 1

    def offer(self, guid: str) -> None:
        self.offered.append(guid)


@pytest.fixture
def cells(desk, clock):
    made = Cells(desk.writer, clock, BoardSettings(), board_name="board")
    made.listener = Listener()
    return made


def asked(desk, guid) -> link_pb2.Start:
    return link_pb2.Start(task_guid=guid, created_at=desk.writer.tasks[guid].created_at)


def hello(
    cell_id="a", *, incarnation="1", held=(), draining=False, created_at=1_000_000 * 10**9, **capacity
) -> link_pb2.Hello:
    return link_pb2.Hello(
        presence=bbs_pb2.CellPresence(
            cell_id=cell_id,
            rep_address="http://127.0.0.1",
            zone="z",
            capacity=bbs_pb2.CellCapacity(**{"memory_mb": 100, "disk_mb": 100, "containers": 10, **capacity}),
            rootfs_providers=[bbs_pb2.Provider(name="docker")],
        ),
        arbitrary_rootfs=["docker"],
        held=[Held(task_guid=guid, phase=phase, memory_mb=mb, created_at=created_at) for guid, phase, mb in held],
        draining=draining,
        incarnation=incarnation,
        protocol=wire_link.PROTOCOL,
    )


async def frames(outbox) -> list[tuple[str, object]]:
    """Everything queued for the cell, as (kind, message)."""
    out = []
    while outbox._frames:
        frame = wire_link.decode_frame(await outbox.take())
        kind = frame.WhichOneof("body")
        out.append((kind, getattr(frame, kind)))
    return out


def frame(**body) -> link_pb2.Frame:
    return link_pb2.Frame(**body)


async def desired(desk, definition, guid="g", **fields):
    await desk.writer.apply(Desire(guid, "d", definition(**fields)))
    return desk.writer.tasks[guid]


async def test_a_cell_is_welcomed_and_its_presence_shown(cells):
    cell_id, outbox = cells.connect(hello())
    assert cell_id == "a"
    assert [kind for kind, _ in await frames(outbox)] == ["welcome"]
    assert [presence.cell_id for presence in cells.presences()] == ["a"]
    assert cells.listener.arrivals == 1
    (state,) = cells.states()
    assert (state.total, state.available) == (Resources(100, 100, 10), Resources(100, 100, 10))


async def test_a_whole_life_counts_what_the_cell_holds(cells, desk, definition):
    task = await desired(desk, definition, memory_mb=30, disk_mb=5)
    _, outbox = cells.connect(hello())
    assert cells.assign("a", task)
    assert cells.holder("g") == "a"
    (state,) = cells.states()
    assert (state.available, state.task_count, state.starting_count) == (Resources(70, 95, 9), 1, 1)
    await cells.handle("a", outbox, frame(start=asked(desk, "g")))
    assert desk.writer.tasks["g"].cell_id == "a"
    assert cells.states()[0].starting_count == 0
    completed = link_pb2.Completed(task_guid="g", result="r", output=[wire_link.log_line(1, "LOG", "hi")])
    await cells.handle("a", outbox, frame(completed=completed))
    task = desk.writer.tasks["g"]
    assert (task.state, task.result, task.failed) == (TaskState.COMPLETED, "r", False)
    kept = link_pb2.Output.FromString(await desk.memory.output("g"))
    assert [line.text for line in kept.lines] == ["hi"]
    assert cells.states()[0].available == Resources(70, 95, 9), "the container is still there"
    await cells.handle("a", outbox, frame(gone=link_pb2.Gone(task_guid="g")))
    assert cells.states()[0].available == Resources(100, 100, 10)
    assert cells.listener.rooms == 1
    said = await frames(outbox)
    assert [kind for kind, _ in said] == ["welcome", "assign", "started", "acknowledged"]
    assert said[2][1].should_start


async def test_only_one_of_two_cells_may_start_a_task(cells, desk, definition):
    await desired(desk, definition)
    _, a = cells.connect(hello("a"))
    _, b = cells.connect(hello("b"))
    await cells.handle("a", a, frame(start=asked(desk, "g")))
    await cells.handle("b", b, frame(start=asked(desk, "g")))
    assert (await frames(a))[-1][1].should_start
    assert not (await frames(b))[-1][1].should_start


async def test_a_start_asked_again_by_the_same_cell_is_granted_again(cells, desk, definition):
    """The answer was lost on the way; the cell asks only for what it has not begun."""
    await desired(desk, definition)
    _, a = cells.connect(hello())
    for _ in range(2):
        await cells.handle("a", a, frame(start=asked(desk, "g")))
    assert [message.should_start for kind, message in await frames(a) if kind == "started"] == [True, True]


async def test_a_cancelled_task_is_stopped_on_its_cell_once(cells, desk, definition):
    task = await desired(desk, definition)
    _, outbox = cells.connect(hello())
    cells.assign("a", task)
    await cells.handle("a", outbox, frame(start=asked(desk, "g")))
    await desk.writer.apply(Cancel("g"))
    cells.stop("g")
    assert (await frames(outbox))[-1][0] == "stop"
    await cells.handle("a", outbox, frame(completed=link_pb2.Completed(task_guid="g", result="late")))
    assert (await frames(outbox))[-1][0] == "acknowledged", "not wanted any more, and the cell may forget it"
    assert desk.writer.tasks["g"].failure_reason == "task was cancelled"
    cells.stop("g")
    assert await frames(outbox) == []


async def test_a_rejection_by_the_cell_that_was_given_the_task_counts(cells, desk, definition):
    task = await desired(desk, definition)
    _, outbox = cells.connect(hello())
    cells.assign("a", task)
    await cells.handle("a", outbox, frame(rejected=link_pb2.Rejected(task_guid="g", reason="no image")))
    assert desk.writer.tasks["g"].rejection_reason == "no image"
    assert (await frames(outbox))[-1][0] == "acknowledged"


async def test_a_rejection_by_a_cell_that_has_nothing_to_do_with_it_changes_nothing(cells, desk, definition):
    """cell.md section 12, 32: the reference lets anybody reject a running task."""
    await desired(desk, definition)
    await desk.writer.apply(Start("g", "b"))
    _, outbox = cells.connect(hello("a"))
    await cells.handle("a", outbox, frame(rejected=link_pb2.Rejected(task_guid="g", reason="mine!")))
    assert desk.writer.tasks["g"].state is TaskState.RUNNING
    assert desk.writer.tasks["g"].rejection_count == 0


async def test_an_outcome_that_may_not_be_durable_is_not_acknowledged(cells, desk, definition):
    task = await desired(desk, definition)
    _, outbox = cells.connect(hello())
    cells.assign("a", task)
    await cells.handle("a", outbox, frame(start=asked(desk, "g")))
    desk.store.fail = fail_always("commit")
    await cells.handle("a", outbox, frame(completed=link_pb2.Completed(task_guid="g")))
    assert "acknowledged" not in [kind for kind, _ in await frames(outbox)]
    assert await outbox.take() is None, "the link ends, so that the cell says it again to the next reign"


async def test_what_a_lost_cell_had_not_started_is_free_at_once(cells, desk, definition):
    for guid in ("given", "running"):
        cells_task = await desired(desk, definition, guid, memory_mb=10)
        if guid == "given":
            given = cells_task
    _, outbox = cells.connect(hello())
    cells.assign("a", given)
    cells.assign("a", desk.writer.tasks["running"])
    await cells.handle("a", outbox, frame(start=asked(desk, "running")))
    cells.disconnect("a", outbox)
    assert cells.listener.offered == ["given"]
    assert cells.holder("given") is None
    assert cells.holder("running") == "a"
    assert cells.states() == []
    assert cells.present() >= {"a"}, "it may come back"


async def test_a_cell_gone_for_longer_than_its_presence_fails_its_tasks(cells, desk, definition, clock):
    task = await desired(desk, definition)
    _, outbox = cells.connect(hello())
    cells.assign("a", task)
    await cells.handle("a", outbox, frame(start=asked(desk, "g")))
    cells.disconnect("a", outbox)
    clock.seconds += 14
    cells.sweep()
    assert desk.writer.tasks["g"].state is TaskState.RUNNING
    clock.seconds += 2
    cells.sweep()
    task = desk.writer.tasks["g"]
    assert (task.state, task.failure_reason) == (TaskState.COMPLETED, "cell disappeared before completion")
    assert cells.presences() == []
    assert cells.holder("g") is None


async def test_a_young_board_presumes_the_cells_of_running_tasks_alive(cells, desk, definition, clock):
    await desired(desk, definition)
    await desk.writer.apply(Start("g", "elsewhere"))
    assert cells.present() == {"elsewhere"}
    clock.seconds += 16
    assert cells.present() == set()


async def test_a_task_given_and_never_claimed_is_taken_back(cells, desk, definition, clock):
    task = await desired(desk, definition, memory_mb=40)
    _, outbox = cells.connect(hello())
    cells.assign("a", task)
    clock.seconds += 46
    cells.sweep()
    assert cells.listener.offered == ["g"]
    assert cells.holder("g") is None
    assert (await frames(outbox))[-1][0] == "stop"
    assert cells.states()[0].available.memory_mb == 60, "what it may still hold is not promised again"
    cells.sweep()
    assert cells.listener.offered == ["g"]


async def test_a_restarted_cell_that_lost_its_containers_fails_their_tasks(cells, desk, definition):
    task = await desired(desk, definition)
    _, outbox = cells.connect(hello(incarnation="1"))
    cells.assign("a", task)
    await cells.handle("a", outbox, frame(start=asked(desk, "g")))
    cells.disconnect("a", outbox)
    cells.connect(hello(incarnation="2"))
    await desk.writer.settle()
    task = desk.writer.tasks["g"]
    assert (task.state, task.failed, task.failure_reason) == (TaskState.COMPLETED, True, CONTAINER_MISSING)
    assert cells.states()[0].available == Resources(100, 100, 10)


async def test_a_reconnected_cell_keeps_what_is_its_own_and_stops_what_is_not(cells, desk, definition):
    for guid in ("mine", "cancelled", "others", "waiting"):
        await desired(desk, definition, guid)
    await desk.writer.apply(Start("mine", "a"))
    await desk.writer.apply(Start("cancelled", "a"))
    await desk.writer.apply(Cancel("cancelled"))
    await desk.writer.apply(Start("others", "b"))
    held = [
        ("mine", Held.RUNNING, 1),
        ("cancelled", Held.RUNNING, 2),
        ("others", Held.STARTING, 4),
        ("waiting", Held.STARTING, 8),
        ("leaving", Held.LEAVING, 16),
    ]
    _, outbox = cells.connect(hello(held=held))
    stopped = {message.task_guid for kind, message in await frames(outbox) if kind == "stop"}
    assert stopped == {"cancelled", "others"}
    assert cells.holder("mine") == "a"
    assert cells.holder("waiting") == "a", "it asks to start it in a moment"
    assert cells.holder("others") is None
    (state,) = cells.states()
    assert state.available.memory_mb == 100 - 31, "all of it is there until it is gone"
    assert state.task_count == 5


async def test_an_outcome_kept_in_the_journal_is_not_overwritten_by_the_reconnect(cells, desk, definition):
    await desired(desk, definition)
    await desk.writer.apply(Start("g", "a"))
    _, outbox = cells.connect(hello(incarnation="2", held=[("g", Held.REPORTING, 0)]))
    await cells.handle("a", outbox, frame(completed=link_pb2.Completed(task_guid="g", result="kept")))
    assert desk.writer.tasks["g"].result == "kept"


async def test_the_same_cell_on_a_new_link_replaces_the_old_one(cells, desk, definition):
    task = await desired(desk, definition, memory_mb=10)
    _, old = cells.connect(hello())
    cells.assign("a", task)
    _, new = cells.connect(hello(held=[("g", Held.STARTING, 10)]))
    await frames(old)
    assert await old.take() is None
    cells.disconnect("a", old)  # the old link's reader notices late
    assert len(cells.states()) == 1
    assert cells.states()[0].available.memory_mb == 90
    await cells.handle("a", old, frame(gone=link_pb2.Gone(task_guid="g")))
    assert cells.states()[0].available.memory_mb == 90, "a frame of the old link means nothing any more"
    await cells.handle("a", new, frame(gone=link_pb2.Gone(task_guid="g")))
    assert cells.states()[0].available.memory_mb == 100


async def test_another_process_with_the_same_name_is_refused(cells):
    cells.connect(hello(incarnation="1"))
    with pytest.raises(LinkRefused, match="--id"):
        cells.connect(hello(incarnation="2"))


async def test_bad_presence_is_refused_with_the_field(cells):
    with pytest.raises(LinkRefused, match="capacity.memory_mb"):
        cells.connect(hello(memory_mb=0))


async def test_a_draining_cell_gets_nothing_new(cells, desk, definition):
    task = await desired(desk, definition)
    _, outbox = cells.connect(hello())
    await cells.handle("a", outbox, frame(draining=link_pb2.Draining()))
    assert cells.states() == []
    assert len(cells.presences()) == 1
    assert cells.assign("gone-cell", task) is False


async def test_a_frame_that_only_a_board_sends_is_refused(cells):
    _, outbox = cells.connect(hello())
    with pytest.raises(LinkRefused, match="assign"):
        await cells.handle("a", outbox, frame(assign=link_pb2.Assign()))


async def test_nobody_else_can_complete(cells, desk, definition):
    await desired(desk, definition)
    await desk.writer.apply(Start("g", "b"))
    _, outbox = cells.connect(hello("a"))
    await cells.handle("a", outbox, frame(completed=link_pb2.Completed(task_guid="g", result="forged")))
    assert desk.writer.tasks["g"].state is TaskState.RUNNING
    await desk.writer.apply(Complete("g", "b", False, "", "true"))
    assert desk.writer.tasks["g"].result == "true"


async def test_an_outcome_that_no_store_could_hold_loses_a_character_and_not_the_outcome(cells, desk, definition):
    await desired(desk, definition)
    _, outbox = cells.connect(hello("a"))
    await desk.writer.apply(Start("g", "a"))
    message = link_pb2.Completed(task_guid="g", failed=True, failure_reason="no\0", result="\0a\0")
    await cells.handle("a", outbox, frame(completed=message))
    task = desk.writer.tasks["g"]
    assert (task.failure_reason, task.result) == ("no\ufffd", "\ufffda\ufffd")


async def test_a_closed_board_takes_no_cell(cells):
    _, outbox = cells.connect(hello())
    cells.close()
    await frames(outbox)
    assert await outbox.take() is None
    with pytest.raises(LinkRefused):
        cells.connect(hello("b"))


async def test_a_guid_given_again_while_its_forerunner_is_leaving_counts_once(cells, desk, definition):
    task = await desired(desk, definition, memory_mb=30)
    _, outbox = cells.connect(hello())
    cells.assign("a", task)
    await cells.handle("a", outbox, frame(start=asked(desk, "g")))
    await cells.handle("a", outbox, frame(completed=link_pb2.Completed(task_guid="g")))
    cells.assign("a", task)
    assert cells.states()[0].available == Resources(70, 100, 9)
    await cells.handle("a", outbox, frame(gone=link_pb2.Gone(task_guid="g")))
    assert cells.states()[0].available == Resources(100, 100, 10)


async def test_a_question_about_a_task_whose_guid_was_desired_again_is_refused(cells, desk, definition, clock):
    old = await desired(desk, definition)
    _, outbox = cells.connect(hello())
    cells.assign("a", old)
    question = asked(desk, "g")
    for operation in (Cancel("g"), Resolving("g"), Delete("g")):
        await desk.writer.apply(operation)
    clock.seconds += 1
    await desired(desk, definition)
    await cells.handle("a", outbox, frame(start=question))
    assert not (await frames(outbox))[-1][1].should_start
    assert desk.writer.tasks["g"].state is TaskState.PENDING


async def test_a_reconnected_cell_that_holds_a_forerunner_stops_it(cells, desk, definition):
    await desired(desk, definition)
    _, outbox = cells.connect(hello(held=[("g", Held.STARTING, 1)], created_at=7))
    assert [kind for kind, _ in await frames(outbox)] == ["welcome", "stop"]
    assert cells.holder("g") is None
