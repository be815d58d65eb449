"""The sweep's driver: every row of board-api.md section 7 applied, in slices, with and without cells."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from bulletin.board.cells import Cells
from bulletin.board.converger import Converger
from bulletin.board.scheduler import Scheduler
from bulletin.board.settings import BoardSettings
from bulletin.core import placement
from bulletin.core.model import CallbackAttempt, TaskState
from bulletin.core.operations import Cancel, Deliver, Desire, RecordAttempts, Resolving, Start
from bulletin.store.api import Output


@pytest.fixture
def sweep(desk, clock):
    class Sweep:
        def __init__(self) -> None:
            settings = BoardSettings()
            self.cells = Cells(desk.writer, clock, settings, board_name="b")
            self.scheduler = Scheduler(desk.writer, self.cells, placement.Policy())
            self.cells.listener = self.scheduler
            self.called: list[str] = []
            self.held: set[str] = set()
            self.converger = Converger(desk.writer, desk.store, self.cells, self.scheduler, clock, settings, self)

        def submit(self, guid: str) -> None:
            self.called.append(guid)

        def holds(self, guid: str) -> bool:
            return guid in self.held

        async def after(self, seconds: float) -> None:
            clock.seconds += seconds
            await self.converger.converge()
            await desk.writer.settle()

    return Sweep()


async def desired(desk, definition, guid="g", **fields):
    await desk.writer.apply(Desire(guid, "d", definition(**fields)))


async def test_without_any_cell_a_pending_task_uses_up_a_try_a_sweep_and_then_fails(desk, definition, sweep):
    await desired(desk, definition)
    for count in range(1, 4):
        await sweep.after(30)
        assert desk.writer.tasks["g"].rejection_count == count
    await sweep.after(30)
    task = desk.writer.tasks["g"]
    assert (task.state, task.rejection_count) == (TaskState.COMPLETED, 4)
    assert task.failure_reason == "unable to communicate to compatible cells"


async def test_a_task_pending_for_too_long_expires(desk, definition, sweep):
    await desired(desk, definition)
    await sweep.after(1801)
    assert desk.writer.tasks["g"].failure_reason == "not started within time limit"


async def test_a_running_task_of_a_cell_that_is_not_there_fails(desk, definition, sweep):
    await desired(desk, definition)
    await desk.writer.apply(Start("g", "elsewhere"))
    await sweep.after(10)
    assert desk.writer.tasks["g"].state is TaskState.RUNNING, "a board this young cannot know"
    await sweep.after(10)
    assert desk.writer.tasks["g"].failure_reason == "cell disappeared before completion"


@pytest.mark.parametrize(
    ("attempts", "last"),
    [((), "never tried"), ((CallbackAttempt(1, 1, 0, "connection refused"),), "connection refused")],
)
async def test_a_callback_that_is_given_up_is_logged_as_an_error(desk, definition, sweep, attempts, last):
    await desired(desk, definition, completion_callback_url="http://hidden@x/hidden")
    await desired(desk, definition, "quiet")
    for guid in ("g", "quiet"):
        await desk.writer.apply(Cancel(guid))
    await desk.writer.apply(Resolving("g"))
    await desk.writer.apply(RecordAttempts("g", attempts))
    with capture_logs() as lines:
        await sweep.after(121)
    assert desk.writer.tasks == {}
    assert [line for line in lines if line["log_level"] == "error"] == [
        {"event": "callback.expired", "log_level": "error", "task_guid": "g", "attempts": len(attempts), "last": last}
    ]


async def test_a_forgotten_callback_is_found_again(desk, definition, sweep):
    await desired(desk, definition, completion_callback_url="http://x/")
    await desk.writer.apply(Cancel("g"))
    await sweep.after(31)
    assert sweep.called == ["g"]


async def test_a_resolver_that_died_loses_the_task_and_the_callback_is_tried_again(desk, definition, sweep):
    await desired(desk, definition, completion_callback_url="http://x/")
    await desk.writer.apply(Cancel("g"))
    await desk.writer.apply(Resolving("g"))
    await sweep.after(31)
    assert desk.writer.tasks["g"].state is TaskState.COMPLETED
    assert sweep.called == ["g"]


async def test_a_resolver_that_is_slow_and_ours_keeps_the_task(desk, definition, sweep):
    await desired(desk, definition, completion_callback_url="http://x/")
    await desk.writer.apply(Cancel("g"))
    await desk.writer.apply(Resolving("g"))
    sweep.held.add("g")
    await sweep.after(31)
    assert desk.writer.tasks["g"].state is TaskState.RESOLVING
    assert sweep.called == []


async def test_nobody_came_for_a_completed_task(desk, definition, sweep):
    await desired(desk, definition)
    await desk.writer.apply(Cancel("g"))
    await sweep.after(120)
    assert "g" in desk.writer.tasks
    await sweep.after(1)
    assert "g" not in desk.writer.tasks


async def test_a_delivered_task_is_not_told_again_but_removed(desk, definition, sweep):
    await desired(desk, definition, completion_callback_url="http://x/")
    for operation in (Cancel("g"), Resolving("g"), Deliver("g")):
        await desk.writer.apply(operation)
    await sweep.after(40)
    assert sweep.called == []
    assert "g" not in desk.writer.tasks


async def test_a_sweep_over_many_never_fills_the_writers_queue(desk, definition, sweep):
    made = definition()
    for n in range(3000):
        desk.writer.submit(Desire(f"g{n}", "d", made))
    await desk.writer.settle()
    commits = desk.store.calls["commit"]
    await sweep.after(30)
    assert all(task.rejection_count == 1 for task in desk.writer.tasks.values())
    assert desk.store.calls["commit"] - commits == 60, "fifty changes at a time, each durable before the next"


async def test_old_output_is_pruned(desk, definition, sweep, clock):
    await desired(desk, definition)
    await desk.writer.apply(Start("g", "c"), Output("g", b"x", clock.now_ns() + 10**9))
    await sweep.after(2)
    assert await desk.memory.output("g") is None


async def test_stale_domains_are_forgotten(desk, sweep, clock):
    await desk.writer.upsert_domain("stale", clock.now_ns() + 10**9)
    await desk.writer.upsert_domain("fresh", clock.now_ns() + 10**12)
    await sweep.after(2)
    assert set(desk.memory.contents.domains) == set(desk.writer.domains) == {"fresh"}
