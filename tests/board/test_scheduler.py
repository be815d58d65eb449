"""Pending tasks find room: fresh ones at once, parked ones when there is some, impossible ones a refusal."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from bulletin.board.scheduler import Scheduler
from bulletin.core import placement
from bulletin.core.model import CellState, Resources, TaskState
from bulletin.core.operations import Cancel, Desire


class FakePlaces:
    """Cells with memory to give; assigning takes, ``free`` gives back."""

    def __init__(self, **memory_mb: int) -> None:
        self.total = memory_mb
        self.given: dict[str, tuple[str, int]] = {}
        self.refusing: set[str] = set()

    def states(self) -> list[CellState]:
        return [
            CellState(
                cell_id=cell_id,
                zone="z",
                total=Resources(total, 1000, 1000),
                available=Resources(total - sum(mb for cell, mb in self.given.values() if cell == cell_id), 1000, 1000),
                arbitrary_rootfs=frozenset({"docker"}),
                task_count=sum(cell == cell_id for cell, _ in self.given.values()),
            )
            for cell_id, total in self.total.items()
        ]

    def holder(self, guid):
        return self.given[guid][0] if guid in self.given else None

    def assign(self, cell_id, task):
        if cell_id in self.refusing:
            return False
        self.given[task.guid] = (cell_id, task.definition.memory_mb)
        return True


@pytest.fixture
def running():
    @asynccontextmanager
    async def run(desk, places, **policy):
        scheduler = Scheduler(desk.writer, places, placement.Policy(**policy))
        task = asyncio.create_task(scheduler.run())
        try:
            yield scheduler
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return run


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_task_is_placed_as_soon_as_it_is_offered(desk, definition, running):
    places = FakePlaces(a=100)
    async with running(desk, places) as scheduler:
        await desk.writer.apply(Desire("g", "d", definition(memory_mb=10)))
        scheduler.offer("g")
        await settle()
        assert places.given == {"g": ("a", 10)}
        assert scheduler.waiting_count == 0


async def test_what_does_not_fit_now_waits_for_room_and_is_not_rejected(desk, definition, running):
    places = FakePlaces(a=10)
    async with running(desk, places) as scheduler:
        for guid in ("g0", "g1", "g2"):
            await desk.writer.apply(Desire(guid, "d", definition(memory_mb=10)))
            scheduler.offer(guid)
        await settle()
        assert set(places.given) == {"g0"}
        assert scheduler.waiting_count == 2
        del places.given["g0"]
        scheduler.room()
        await settle()
        assert set(places.given) == {"g1"}, "first come, first served"
        assert desk.writer.tasks["g2"].rejection_count == 0


async def test_what_no_cell_could_ever_hold_is_rejected_and_not_tried_again_here(desk, definition, running):
    places = FakePlaces(a=10)
    async with running(desk, places) as scheduler:
        await desk.writer.apply(Desire("g", "d", definition(memory_mb=11)))
        scheduler.offer("g")
        await settle()
        scheduler.room()
        await settle()
        task = desk.writer.tasks["g"]
        assert (task.state, task.rejection_count) == (TaskState.PENDING, 1)
        assert task.rejection_reason == "insufficient resources: memory"
        assert scheduler.waiting_count == 0


async def test_without_any_cell_a_task_waits_unharmed_and_a_new_cell_gets_it(desk, definition, running):
    places = FakePlaces()
    async with running(desk, places) as scheduler:
        await desk.writer.apply(Desire("g", "d", definition()))
        scheduler.offer("g")
        await settle()
        assert desk.writer.tasks["g"].rejection_count == 0
        places.total["a"] = 10
        scheduler.offer_all_pending()
        await settle()
        assert places.holder("g") == "a"


async def test_a_new_cell_gets_what_was_rejected_before_it_came(desk, definition, running):
    places = FakePlaces(a=10)
    async with running(desk, places) as scheduler:
        await desk.writer.apply(Desire("g", "d", definition(memory_mb=50)))
        scheduler.offer("g")
        await settle()
        places.total["b"] = 100
        scheduler.offer_all_pending()
        await settle()
        assert places.holder("g") == "b"


async def test_rejecting_when_full_is_a_setting(desk, definition, running):
    places = FakePlaces(a=10)
    async with running(desk, places, when_full="reject") as scheduler:
        for guid in ("g0", "g1"):
            await desk.writer.apply(Desire(guid, "d", definition(memory_mb=10)))
            scheduler.offer(guid)
        await settle()
        assert desk.writer.tasks["g1"].rejection_reason == "insufficient resources: memory"


async def test_a_cancelled_task_is_never_placed(desk, definition, running):
    places = FakePlaces(a=10)
    async with running(desk, places) as scheduler:
        for guid in ("g0", "g1"):
            await desk.writer.apply(Desire(guid, "d", definition(memory_mb=10)))
            scheduler.offer(guid)
        await settle()
        await desk.writer.apply(Cancel("g1"))
        del places.given["g0"]
        scheduler.room()
        await settle()
        assert "g1" not in places.given
        assert scheduler.waiting_count == 0, "nothing is kept of it either"


async def test_a_cell_that_left_between_plan_and_assignment_costs_the_task_nothing(desk, definition, running):
    places = FakePlaces(a=10)
    places.refusing.add("a")
    async with running(desk, places) as scheduler:
        await desk.writer.apply(Desire("g", "d", definition()))
        scheduler.offer("g")
        await settle()
        assert scheduler.waiting_count == 1
        places.refusing.clear()
        scheduler.room()
        await settle()
        assert places.holder("g") == "a"


async def test_many_waiting_tasks_fill_all_room_that_comes(desk, definition, running):
    places = FakePlaces(a=0)
    async with running(desk, places) as scheduler:
        places.total["a"] = 1
        made = definition(memory_mb=1)
        for n in range(1200):
            desk.writer.submit(Desire(f"g{n}", "d", made))
            scheduler.offer(f"g{n}")
        await desk.writer.settle()
        await settle()
        assert len(places.given) == 1
        places.total["a"] = 1000
        scheduler.room()
        for _ in range(50):
            await settle()
        assert len(places.given) == 1000
        assert scheduler.waiting_count == 200


async def test_many_that_find_no_room_do_not_hide_the_one_behind_them_that_does(desk, definition, running):
    places = FakePlaces(a=1000)
    places.given["occupant"] = ("a", 1000)
    async with running(desk, places) as scheduler:
        large, small = definition(memory_mb=900), definition(memory_mb=10)
        for n in range(600):
            desk.writer.submit(Desire(f"large{n}", "d", large))
            scheduler.offer(f"large{n}")
        desk.writer.submit(Desire("small", "d", small))
        scheduler.offer("small")
        await desk.writer.settle()
        await settle()
        assert scheduler.waiting_count == 601
        places.given["occupant"] = ("a", 950)
        scheduler.room()
        await settle()
        assert places.holder("small") == "a"


async def test_many_that_were_cancelled_do_not_hide_the_one_behind_them(desk, definition, running):
    places = FakePlaces()
    async with running(desk, places) as scheduler:
        made = definition()
        for n in range(600):
            desk.writer.submit(Desire(f"g{n}", "d", made))
            scheduler.offer(f"g{n}")
        for n in range(599):
            desk.writer.submit(Cancel(f"g{n}"))
        await desk.writer.settle()
        places.total["a"] = 10
        scheduler.room()
        await settle()
        assert set(places.given) == {"g599"}
