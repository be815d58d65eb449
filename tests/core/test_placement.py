"""Which cell gets a task, against cell.md section 7 and design section 6."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.core import placement
from bulletin.core.model import CellState, Definition, Resources, Task, TaskState
from bulletin.core.placement import Pending, Plan, Policy, plan, score, split_rootfs

WAIT, REJECT = Policy(when_full="wait"), Policy(when_full="reject")
HUNDRED = Resources(100, 100, 100)


def a_cell(cell_id: str = "c1", total: Resources = HUNDRED, available: Resources | None = None, **fields) -> CellState:
    usual = {"zone": "z1", "arbitrary_rootfs": frozenset({"docker"}), "fixed_rootfs": {"preloaded": frozenset({"x"})}}
    return CellState(cell_id=cell_id, total=total, available=available or total, **(usual | fields))


def a_task(guid: str = "g", memory_mb: int = 10, disk_mb: int = 10, rootfs: str = "preloaded:x", **fields) -> Pending:
    return Pending(guid, rootfs, Resources(memory_mb, disk_mb), **fields)


def some_tasks(count: int, memory_mb: int = 1, disk_mb: int = 0, prefix: str = "g") -> list[Pending]:
    return [a_task(f"{prefix}{number}", memory_mb, disk_mb) for number in range(count)]


def tasks_by_cell(cells: list[CellState], made: Plan) -> dict[str, int]:
    counts = {cell.cell_id: cell.task_count for cell in cells}
    for _, cell_id in made.placements:
        counts[cell_id] += 1
    return counts


def refusal(cells: list[CellState], task: Pending, policy: Policy = WAIT) -> str:
    made = plan(cells, [task], policy)
    assert not made.placements
    assert not made.waiting
    [(guid, text)] = made.refusals
    assert guid == task.guid
    return text


# -- requests ----------------------------------------------------------------------------------------------------


def test_a_request_is_made_from_a_task():
    wanted = Definition(b"", "docker:///b", 5, 6, 7, ("t",), ("drv",), "http://h")
    task = Task("g", "d", wanted, TaskState.PENDING, 1, 1)
    assert Pending.of(task) == Pending("g", "docker:///b", Resources(5, 6, 1), ("t",), ("drv",))


@pytest.mark.parametrize(
    ("rootfs", "parts"),
    [
        ("preloaded:cflinuxfs4", ("preloaded", "cflinuxfs4")),
        ("preloaded+layer:cflinuxfs4?layer=http://h/l.tgz&layer_path=/", ("preloaded+layer", "cflinuxfs4")),
        ("preloaded:x#fragment?no-query", ("preloaded", "x")),
        ("PreLoaded:X", ("preloaded", "X")),
        ("docker:///busybox", ("docker", "")),
        ("docker://host:5000/a/b#tag", ("docker", "")),
        ("preloaded:/x", ("preloaded", "")),
        ("x:", ("x", "")),
        ("x:a:b", ("x", "a:b")),
        ("no-scheme", ("no-scheme", "")),
    ],
)
def test_a_rootfs_is_split_as_go_splits_a_url(rootfs, parts):
    assert split_rootfs(rootfs) == parts


# -- eligibility and texts (7.4, 7.6) ----------------------------------------------------------------------------

NO_CELLS = "unable to communicate to compatible cells"
NO_ROOTFS = "found no compatible cell for required rootfs"
NO_DRIVERS = "found no compatible cell with required volume drivers"
NO_TAGS = "found no compatible cell with no placement tags"


@pytest.mark.parametrize("policy", [WAIT, REJECT])
@pytest.mark.parametrize("cells", [[], [a_cell(evacuating=True), a_cell("c2", evacuating=True)]])
def test_without_a_usable_cell_all_are_refused(cells, policy):
    made = plan(cells, some_tasks(3), policy)
    assert made == Plan(refusals=tuple((f"g{number}", NO_CELLS) for number in range(3)))


def test_an_evacuating_cell_takes_nothing():
    assert plan([a_cell(evacuating=True), a_cell("c2")], some_tasks(2), WAIT).placements == (("g0", "c2"), ("g1", "c2"))


def test_nothing_to_place_is_an_empty_plan():
    assert plan([a_cell()], [], WAIT) == Plan()


@pytest.mark.parametrize(
    ("rootfs", "matches"),
    [
        ("docker:///anything", True),
        ("DOCKER:///anything", True),
        ("docker:opaque", True),
        ("preloaded:x", True),
        ("preloaded:x?layer=y", True),
        ("preloaded:y", False),
        ("preloaded:X", False),
        ("preloaded:", False),
        ("preloaded:/x", False),
        ("preloaded+layer:x", False),
        ("oci:///x", False),
        ("x", False),
    ],
)
def test_rootfs(rootfs, matches):
    task = a_task(rootfs=rootfs)
    if matches:
        assert plan([a_cell()], [task], WAIT).placements == (("g", "c1"),)
    else:
        assert refusal([a_cell()], task) == NO_ROOTFS


def test_one_scheme_may_be_arbitrary_here_and_fixed_there():
    cells = [a_cell("fixed", arbitrary_rootfs=frozenset()), a_cell("any", arbitrary_rootfs=frozenset({"preloaded"}))]
    tasks = [a_task("g1", rootfs="preloaded:y"), a_task("g2", rootfs="preloaded:x"), a_task("g3", rootfs="preloaded:y")]
    assert dict(plan(cells, tasks, WAIT).placements) == {"g1": "any", "g2": "fixed", "g3": "any"}


@pytest.mark.parametrize(
    ("offered", "wanted", "matches"),
    [
        (set(), (), True),
        ({"a"}, (), True),
        ({"a", "b"}, ("b",), True),
        ({"a", "b"}, ("b", "b", "a"), True),
        ({"a"}, ("a", "b"), False),
        (set(), ("a",), False),
    ],
)
def test_volume_drivers(offered, wanted, matches):
    cell, task = a_cell(volume_drivers=frozenset(offered)), a_task(volume_drivers=wanted)
    if matches:
        assert plan([cell], [task], WAIT).placements
    else:
        assert refusal([cell], task) == NO_DRIVERS


@pytest.mark.parametrize(
    ("required", "optional", "tags", "matches"),
    [
        (set(), set(), (), True),
        (set(), {"o"}, (), True),
        (set(), {"o"}, ("o",), True),
        ({"r"}, set(), ("r",), True),
        ({"r"}, {"o"}, ("o", "r", "o"), True),
        ({"r", "q"}, {"o"}, ("r", "q"), True),
        ({"r"}, set(), (), False),
        ({"r"}, {"o"}, ("o",), False),
        ({"r", "q"}, {"o"}, ("r", "o"), False),
        (set(), set(), ("t",), False),
        ({"r"}, {"o"}, ("r", "t"), False),
    ],
)
def test_placement_tags(required, optional, tags, matches):
    cell = a_cell(placement_tags=frozenset(required), optional_placement_tags=frozenset(optional))
    made = plan([cell], [a_task(placement_tags=tags)], WAIT)
    assert bool(made.placements) == matches
    assert bool(made.refusals) != matches


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ((), "found no compatible cell with no placement tags"),
        (("a",), 'found no compatible cell with placement tag "a"'),
        (("b", "a"), 'found no compatible cell with placement tags "b" and "a"'),
        (("a", "b", "c"), 'found no compatible cell with placement tags "a", "b" and "c"'),
        (("a", "a"), 'found no compatible cell with placement tags "a" and "a"'),
        (("",), 'found no compatible cell with placement tag ""'),
    ],
)
def test_the_refused_tags_are_listed_as_desired(tags, text):
    assert refusal([a_cell(placement_tags=frozenset({"r"}))], a_task(placement_tags=tags)) == text


def test_the_order_of_tags_is_that_of_each_task():
    tasks = [a_task("g1", placement_tags=("a", "b")), a_task("g2", placement_tags=("b", "a"))]
    assert dict(plan([a_cell()], tasks, WAIT).refusals) == {
        "g1": 'found no compatible cell with placement tags "a" and "b"',
        "g2": 'found no compatible cell with placement tags "b" and "a"',
    }


WRONG_ROOTFS = a_cell("rootfs", fixed_rootfs={})
WRONG_DRIVERS = a_cell("drivers", zone="z2")
WRONG_TAGS = a_cell("tags", zone="z3", volume_drivers=frozenset({"drv"}), placement_tags=frozenset({"r"}))
FULL = a_cell("full", zone="z4", volume_drivers=frozenset({"drv"}), available=Resources(9, 100, 100))


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        ([WRONG_ROOTFS], NO_ROOTFS),
        ([WRONG_ROOTFS, WRONG_DRIVERS], NO_DRIVERS),
        ([WRONG_ROOTFS, WRONG_DRIVERS, WRONG_TAGS], NO_TAGS),
        ([WRONG_ROOTFS, WRONG_DRIVERS, WRONG_TAGS, FULL], "insufficient resources: memory"),
    ],
)
def test_the_most_advanced_check_wins_in_any_order_of_zones(cells, text):
    task = a_task(volume_drivers=("drv",))
    assert refusal(cells, task, REJECT) == text
    assert refusal(cells[::-1], task, REJECT) == text


# -- room (7.6, design section 6) --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "text"),
    [
        ([Resources(9, 100, 100)], "insufficient resources: memory"),
        ([Resources(100, 9, 100)], "insufficient resources: disk"),
        ([Resources(100, 100, 0)], "insufficient resources: containers"),
        ([Resources(9, 9, 100)], "insufficient resources: disk, memory"),
        ([Resources(9, 100, 0)], "insufficient resources: containers, memory"),
        ([Resources(100, 9, 0)], "insufficient resources: containers, disk"),
        ([Resources(0, 0, 0)], "insufficient resources: containers, disk, memory"),
        ([Resources(-5, 100, 1)], "insufficient resources: memory"),
        # Just enough is not lacking.
        ([Resources(9, 10, 1)], "insufficient resources: memory"),
        ([Resources(10, 9, 1)], "insufficient resources: disk"),
        ([Resources(10, 10, 0)], "insufficient resources: containers"),
        # Only what is lacking on every cell is named.
        ([Resources(9, 9, 1), Resources(9, 100, 1)], "insufficient resources: memory"),
        ([Resources(9, 100, 1), Resources(100, 9, 1)], "insufficient resources"),
        ([Resources(9, 100, 1), Resources(100, 9, 1), Resources(100, 100, 0)], "insufficient resources"),
    ],
)
def test_without_room_a_task_waits_or_is_rejected_with_what_is_lacking_everywhere(left, text):
    cells = [a_cell(f"c{number}", available=amount) for number, amount in enumerate(left)]
    # Cells of different constraints are searched apart and judged together.
    apart = [replace(cell, volume_drivers=frozenset({cell.cell_id})) for cell in cells]
    for present in (cells, apart):
        assert refusal(present, a_task(), REJECT) == text
        assert plan(present, [a_task()], WAIT) == Plan(waiting=("g",))


@pytest.mark.parametrize(
    ("totals", "text"),
    [
        ([Resources(9, 100, 100)], "insufficient resources: memory"),
        ([Resources(100, 9, 100)], "insufficient resources: disk"),
        ([Resources(100, 100, 0)], "insufficient resources: containers"),
        ([Resources(9, 9, 100), Resources(100, 9, 100)], "insufficient resources: disk"),
        ([Resources(9, 100, 100), Resources(100, 9, 100)], "insufficient resources"),
    ],
)
@pytest.mark.parametrize("policy", [WAIT, REJECT])
def test_what_no_cell_could_ever_hold_is_refused_under_both_policies(totals, text, policy):
    cells = [a_cell(f"c{number}", total=amount) for number, amount in enumerate(totals)]
    assert refusal(cells, a_task(), policy) == text


def test_when_waiting_the_text_tells_of_empty_cells_and_when_rejecting_of_the_cells_as_they_are():
    cell = a_cell(total=Resources(100, 5, 100), available=Resources(9, 5, 0))
    assert refusal([cell], a_task(), WAIT) == "insufficient resources: disk"
    assert refusal([cell], a_task(), REJECT) == "insufficient resources: containers, disk, memory"


def test_only_matching_cells_count_as_cells_that_could_hold_a_task():
    cells = [a_cell("small", total=Resources(5, 5, 5)), a_cell("big", fixed_rootfs={})]
    assert refusal(cells, a_task(), WAIT) == "insufficient resources: disk, memory"


def test_what_is_lacking_is_told_as_the_batch_left_it():
    cells = [a_cell(available=Resources(100, 100, 2))]
    tasks = [a_task("a", 90, 0), a_task("b", 20, 200), a_task("c", 10, 90), a_task("d", 10, 200), a_task("e", 10, 5)]
    made = plan(cells, tasks, REJECT)
    assert made.placements == (("a", "c1"), ("c", "c1"))
    assert made.refusals == (
        ("b", "insufficient resources: disk, memory"),
        ("d", "insufficient resources: containers, disk, memory"),
        ("e", "insufficient resources: containers, memory"),
    )


def test_the_same_request_is_told_anew_once_something_was_placed():
    tasks = [a_task("a", 20, 60), a_task("b", 20, 50), a_task("c", 20, 30), a_task("d", 20, 60)]
    made = plan([a_cell(available=Resources(40, 50, 2))], tasks, REJECT)
    assert made.placements == (("b", "c1"),)
    assert dict(made.refusals) == {
        "a": "insufficient resources: disk",
        "c": "insufficient resources: disk",
        "d": "insufficient resources: disk",
    }
    made = plan([a_cell(available=Resources(40, 50, 1))], [tasks[0], tasks[1], tasks[3]], REJECT)
    assert dict(made.refusals) == {
        "a": "insufficient resources: disk",
        "d": "insufficient resources: containers, disk",
    }


def test_a_cell_without_disk_holds_what_wants_none():
    diskless = a_cell(total=Resources(100, 0, 100))
    assert plan([diskless], [a_task(disk_mb=0)], WAIT).placements == (("g", "c1"),)
    assert refusal([diskless], a_task(disk_mb=1), WAIT) == "insufficient resources: disk"
    assert score(diskless, Resources(10, 0), WAIT) == pytest.approx((0.1 + 0.01) / 3)


def test_a_task_that_wants_nothing_still_takes_a_container():
    made = plan([a_cell(total=Resources(0, 0, 2))], some_tasks(3, 0), WAIT)
    assert (len(made.placements), len(made.refusals), made.waiting) == (2, 0, ("g2",))


@pytest.mark.parametrize(("maximum", "placed"), [(0, 5), (-1, 5), (4, 0), (5, 1), (7, 3), (20, 5)])
def test_the_in_flight_limit_counts_every_starting_container(maximum, placed):
    cells = [a_cell("c1", starting_count=3), a_cell("c2", starting_count=1), a_cell("c3", starting_count=9)]
    cells[2] = replace(cells[2], evacuating=True)
    rest = tuple(f"g{number}" for number in range(placed, 5))
    rejecting = plan(cells, some_tasks(5), replace(REJECT, starting_container_count_maximum=maximum))
    assert len(rejecting.placements) == placed
    text = "waiting to start instance: reached in-flight start limit"
    assert rejecting.refusals == tuple((guid, text) for guid in rest)
    waiting = plan(cells, some_tasks(5), replace(WAIT, starting_container_count_maximum=maximum))
    assert waiting == Plan(placements=rejecting.placements, waiting=rest)


def test_at_the_in_flight_limit_only_what_has_a_chance_waits():
    tasks = [a_task("ok"), a_task("big", 101), a_task("alien", rootfs="oci:x")]
    cells = [a_cell(starting_count=1)]
    made = plan(cells, tasks, replace(WAIT, starting_container_count_maximum=1))
    assert made.waiting == ("ok",)
    assert dict(made.refusals) == {"big": "insufficient resources: memory", "alien": NO_ROOTFS}
    made = plan(cells, tasks, replace(REJECT, starting_container_count_maximum=1))
    assert len(made.refusals) == 3
    assert {text for _, text in made.refusals} == {"waiting to start instance: reached in-flight start limit"}


# -- score and order (7.3, 7.5) ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "points"),
    [
        ({}, 0.07),
        ({"starting_count": 1}, 0.32),
        ({"task_count": 1}, 1000.07),
        ({"available": Resources(90, 90, 99)}, 0.14),
    ],
)
def test_the_scores_of_the_specification(fields, points):
    assert score(a_cell(**fields), Resources(10, 10), WAIT) == pytest.approx(points)


def test_the_smallest_of_cells_can_be_used_up():
    assert score(a_cell(total=Resources(1, 1, 1)), Resources(1, 1), WAIT) == pytest.approx(1)


def test_a_task_placed_is_one_more_that_starts():
    # The second task finds one task on each; c2 is fuller, but what is on c1 is still being made.
    cells = [a_cell("c1"), a_cell("c2", available=Resources(80, 80, 99), task_count=1)]
    made = plan(cells, [a_task("g1"), a_task("g2")], WAIT)
    assert made.placements == (("g1", "c1"), ("g2", "c2"))


def test_the_weight_of_starting_containers_is_the_operators():
    policy = Policy(starting_container_weight=0.33)
    assert score(a_cell(starting_count=2), Resources(10, 10), policy) == pytest.approx(0.73)
    # c1 is fuller by 0.3 and c2 has one starting container: 0.25 is less than that, 0.33 more.
    cells = [a_cell("c1", available=Resources(55, 55, 100)), a_cell("c2", starting_count=1)]
    assert plan(cells, [a_task()], Policy(starting_container_weight=0.25)).placements == (("g", "c2"),)
    assert plan(cells, [a_task()], Policy(starting_container_weight=0.33)).placements == (("g", "c1"),)


#: Never wins, but is so large that a task costs next to nothing on it, which makes a search look further.
CROWD = a_cell("crowd", total=Resources(10**6, 10**6, 10**6), task_count=99)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"available": Resources(50, 50, 50)}, {"task_count": 1}),
        ({"starting_count": 3}, {"task_count": 1}),
        ({"available": Resources(91, 100, 100)}, {"available": Resources(90, 100, 100)}),
        ({"available": Resources(100, 91, 100)}, {"available": Resources(100, 90, 100)}),
        ({"available": Resources(100, 100, 91)}, {"available": Resources(100, 100, 90)}),
    ],
)
def test_the_lower_score_wins_wherever_it_stands(better, worse):
    cells = [a_cell("better", **better), a_cell("worse", **worse)]
    for others in ([], [CROWD]):
        assert plan([*cells, *others], [a_task()], WAIT).placements == (("g", "better"),)
        assert plan([*others, *cells[::-1]], [a_task()], WAIT).placements == (("g", "better"),)


def test_the_first_given_wins_among_equals():
    cells = [a_cell("c1"), a_cell("c2"), a_cell("c3")]
    assert plan(cells, [a_task()], WAIT).placements == (("g", "c1"),)
    assert plan(cells[::-1], [a_task()], WAIT).placements == (("g", "c3"),)


def test_the_first_given_wins_among_equals_of_different_size():
    # Each uses up 1/2 of everything with the task on it, in numbers a float holds exactly.
    cells = [
        a_cell("small", Resources(64, 64, 4), Resources(64, 64, 3)),
        a_cell("large", Resources(128, 128, 8), Resources(96, 96, 5)),
    ]
    task = a_task(memory_mb=32, disk_mb=32)
    assert len({score(cell, task.resources, WAIT) for cell in cells}) == 1
    for others in ([], [CROWD]):
        assert plan([*cells, *others], [task], WAIT).placements == (("g", "small"),)
        assert plan([*others, *cells[::-1]], [task], WAIT).placements == (("g", "large"),)


def test_the_first_given_wins_among_equals_of_different_constraints():
    plain, tagged = a_cell("plain"), a_cell("tagged", optional_placement_tags=frozenset({"o"}))
    assert plan([plain, tagged, plain], [a_task()], WAIT).placements == (("g", "plain"),)
    assert plan([tagged, plain, tagged], [a_task()], WAIT).placements == (("g", "tagged"),)
    filler = a_cell("filler", optional_placement_tags=frozenset({"o"}), task_count=1)
    assert plan([filler, plain, tagged], [a_task()], WAIT).placements == (("g", "plain"),)


def test_a_bigger_cell_is_less_used_by_the_same_task():
    cells = [a_cell("small"), a_cell("big", total=Resources(1000, 1000, 1000))]
    assert plan(cells, [a_task()], WAIT).placements == (("g", "big"),)


def test_a_fuller_cell_may_win_by_its_size():
    big = Resources(1000, 1000, 1000)
    cells = [a_cell("small"), a_cell("big", big, available=Resources(990, 990, 990))]
    assert plan(cells, [a_task()], WAIT).placements == (("g", "big"),)
    assert plan(cells, [a_task(memory_mb=0, disk_mb=0)], WAIT).placements == (("g", "small"),)


def test_a_cell_without_room_does_not_stop_the_search():
    cells = [a_cell(f"c{number}", available=Resources(5, 100, 100)) for number in range(3)]
    made = plan([*cells, a_cell("last", task_count=9)], [a_task("big", 10), a_task("small", 5)], WAIT)
    assert made.placements == (("big", "last"), ("small", "c0"))


def test_bigger_tasks_choose_first_and_equals_in_the_order_given():
    tasks = [a_task("a", 1), a_task("b", 3, 1), a_task("c", 2), a_task("d", 3, 9), a_task("e", 3, 5)]
    assert [guid for guid, _ in plan([a_cell()], tasks, WAIT).placements] == ["b", "d", "e", "c", "a"]
    assert [guid for guid, _ in plan([], tasks, WAIT).refusals] == ["b", "d", "e", "c", "a"]
    full = [a_cell(available=Resources(0, 0, 0))]
    assert plan(full, tasks, WAIT).waiting == ("b", "d", "e", "c", "a")


def test_a_guid_given_twice_counts_once_as_it_stood_first():
    tasks = [a_task("a", 1), a_task("b", 50), a_task("a", 99)]
    assert plan([a_cell()], tasks, WAIT).placements == (("b", "c1"), ("a", "c1"))


def test_a_win_is_seen_by_the_next_task():
    cells = [a_cell("c1"), a_cell("c2", available=Resources(70, 70, 70))]
    made = plan(cells, some_tasks(4), WAIT)
    assert [cell_id for _, cell_id in made.placements] == ["c1", "c2", "c1", "c2"]


# -- the simulation suite in task form (7.9) ---------------------------------------------------------------------


def test_boulders_and_pebbles():
    pebbles, boulders = some_tasks(80, 1, prefix="pebble"), some_tasks(2, 50, prefix="boulder")
    made = plan([a_cell()], [*pebbles, *boulders], REJECT)
    # Processes are ordered by index first; tasks by size alone, so that both boulders go before every pebble.
    assert [guid for guid, _ in made.placements] == ["boulder0", "boulder1"]
    # With one pebble there before, the second boulder does not fit and pebbles fill the cell: 51 of 82 in all.
    with_one = a_cell(available=Resources(99, 100, 99), task_count=1)
    made = plan([with_one], [*pebbles[1:], *boulders], REJECT)
    assert [guid for guid, _ in made.placements] == ["boulder0", *(f"pebble{number}" for number in range(1, 50))]
    assert len(made.refusals) == 31
    assert {text for _, text in made.refusals} == {"insufficient resources: memory"}
    assert len(plan([with_one], [*pebbles[1:], *boulders], WAIT).waiting) == 31


@pytest.mark.parametrize(("cell_count", "task_count"), [(4, 8), (10, 40), (20, 200), (40, 800)])
@pytest.mark.parametrize("weight", [0, 0.25])
def test_small_cold_starts_spread_evenly(cell_count, task_count, weight):
    cells = [a_cell(f"c{number}", zone=f"Z{number % 2}") for number in range(cell_count)]
    made = plan(cells, some_tasks(task_count), Policy(starting_container_weight=weight))
    assert set(tasks_by_cell(cells, made).values()) == {task_count // cell_count}


@pytest.mark.parametrize("weight", [0, 0.25])
def test_a_large_cold_start_of_mixed_sizes_spreads_within_ten(weight):
    tasks = [*some_tasks(1800, 1, prefix="s"), *some_tasks(200, 2, prefix="m"), *some_tasks(50, 4, prefix="l")]
    random.Random(1).shuffle(tasks)
    cells = [a_cell(f"c{number}", zone=f"Z{number % 2}") for number in range(25)]
    made = plan(cells, tasks, Policy(starting_container_weight=weight))
    counts = tasks_by_cell(cells, made).values()
    assert sum(counts) == 2050
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("empty", "task_count"), [(5, 500), (1, 100)])
def test_an_imbalanced_deploy_fills_the_empty_cells_first(empty, task_count):
    used = [a_cell(f"u{number}", available=Resources(50, 100, 50), task_count=50) for number in range(100 - empty)]
    cells = [*used, *(a_cell(f"e{number}") for number in range(empty))]
    counts = tasks_by_cell(cells, plan(cells, some_tasks(50 * empty), WAIT))
    assert set(counts.values()) == {50}
    counts = tasks_by_cell(cells, plan(cells, some_tasks(task_count), WAIT))
    assert max(counts.values()) - min(counts.values()) <= 1


# -- properties --------------------------------------------------------------------------------------------------

amounts = st.builds(Resources, st.integers(0, 12), st.integers(0, 12), st.integers(0, 4))
few = st.frozensets(st.sampled_from(["a", "b"]))


@st.composite
def cells_strategy(draw) -> list[CellState]:
    made = []
    for number in range(draw(st.integers(0, 6))):
        total = draw(amounts)
        left = Resources(
            draw(st.integers(-1, total.memory_mb)),
            draw(st.integers(-1, total.disk_mb)),
            draw(st.integers(0, total.containers)),
        )
        made.append(
            CellState(
                f"c{number}",
                f"z{number % 2}",
                total,
                left,
                arbitrary_rootfs=draw(st.sampled_from([frozenset({"docker"}), frozenset()])),
                fixed_rootfs=draw(st.sampled_from([{}, {"preloaded": frozenset({"x"})}])),
                volume_drivers=draw(few),
                placement_tags=draw(st.sampled_from([frozenset(), frozenset(), frozenset({"a"})])),
                optional_placement_tags=draw(few),
                task_count=draw(st.integers(0, 3)),
                starting_count=draw(st.integers(0, 3)),
                evacuating=draw(st.sampled_from([False, False, False, True])),
            )
        )
    return made


tasks_strategy = st.lists(
    st.builds(
        Pending,
        st.integers(0, 30).map(str),
        st.sampled_from(["docker:///b", "docker:///c", "preloaded:x", "preloaded:y"]),
        st.builds(Resources, st.integers(0, 13), st.integers(0, 13), st.just(1)),
        st.sampled_from([(), (), ("a",), ("b", "a")]),
        st.sampled_from([(), (), ("a",)]),
    ),
    max_size=25,
)
policies = st.builds(Policy, st.sampled_from(["wait", "reject"]), st.sampled_from([0, 0.25, 0.5]), st.integers(0, 12))


@given(cells_strategy(), tasks_strategy, policies)
def test_every_task_lands_in_exactly_one_list_and_the_same_again(cells, tasks, policy):
    made = plan(cells, tasks, policy)
    guids = [guid for guid, _ in made.placements] + [guid for guid, _ in made.refusals] + list(made.waiting)
    assert sorted(guids) == sorted({task.guid for task in tasks})
    assert all(text for _, text in made.refusals)
    assert not (made.waiting and policy.when_full == "reject")
    assert plan(cells, iter(tasks), policy) == made


@given(cells_strategy(), tasks_strategy, policies)
def test_no_cell_is_promised_more_than_it_has(cells, tasks, policy):
    left = {cell.cell_id: cell.available for cell in cells}
    first = {task.guid: task for task in reversed(tasks)}
    for guid, cell_id in plan(cells, tasks, policy).placements:
        assert left[cell_id].covers(first[guid].resources)
        left[cell_id] -= first[guid].resources


def matches(cell: CellState, task: Pending) -> bool:
    scheme, opaque = task.rootfs.split(":")
    tags = set(task.placement_tags)
    return (
        not cell.evacuating
        and (scheme in cell.arbitrary_rootfs or opaque in cell.fixed_rootfs.get(scheme, ()))
        and set(task.volume_drivers) <= cell.volume_drivers
        and cell.placement_tags <= tags <= cell.placement_tags | cell.optional_placement_tags
    )


def exact_score(cell: CellState, task: Pending, policy: Policy) -> Fraction:
    """The formula of cell.md 7.5 word for word, without rounding; nothing of nothing is nothing."""

    def used(available: int, wanted: int, total: int) -> Fraction:
        return 1 - Fraction(available - wanted, total) if total else Fraction(0)

    left, total = cell.available, cell.total
    fractions = (
        used(left.memory_mb, task.resources.memory_mb, total.memory_mb)
        + used(left.disk_mb, task.resources.disk_mb, total.disk_mb)
        + used(left.containers, 1, total.containers)
    )
    return fractions / 3 + Fraction(policy.starting_container_weight) * cell.starting_count + 1000 * cell.task_count


@given(cells_strategy(), tasks_strategy, st.sampled_from([0, 0.25, 0.5]))
def test_the_winner_is_the_one_a_plain_search_finds(cells, tasks, weight):
    """An oracle with nothing clever in it: try each cell for each task, exactly."""
    policy = Policy(starting_container_weight=weight)
    made = plan(cells, tasks, policy)
    placed, waiting = dict(made.placements), set(made.waiting)
    present = {cell.cell_id: cell for cell in cells}
    first = {task.guid: task for task in reversed(tasks)}
    order = list(dict.fromkeys(task.guid for task in tasks))
    for guid in sorted(order, key=lambda guid: -first[guid].resources.memory_mb):
        task = first[guid]
        fitting = [cell for cell in present.values() if matches(cell, task) and cell.available.covers(task.resources)]
        assert (guid in placed) == bool(fitting)
        if fitting:
            best = min(exact_score(cell, task, policy) for cell in fitting)
            winner = present[placed[guid]]
            assert exact_score(winner, task, policy) - best < Fraction(1, 10**9)
            # Cells in the very same state tie exactly, and then the first given wins.
            twins = [each for each in fitting if replace(each, cell_id=winner.cell_id, zone=winner.zone) == winner]
            assert twins[0] is winner
            present[winner.cell_id] = replace(
                winner,
                available=winner.available - task.resources,
                task_count=winner.task_count + 1,
                starting_count=winner.starting_count + 1,
            )
        else:
            could = any(matches(cell, task) and cell.total.covers(task.resources) for cell in cells)
            assert (guid in waiting) == could


# -- bounded work; looks into a cell are counted, as time would say nothing certain ------------------------------


@pytest.fixture
def looks(monkeypatch) -> list[str]:
    """The ids of the cells looked into, one for each look."""
    looked: list[str] = []
    holds = placement._Room.holds

    def noted(room, memory_mb: int, disk_mb: int) -> bool:
        looked.append(room.cell_id)
        return holds(room, memory_mb, disk_mb)

    monkeypatch.setattr(placement._Room, "holds", noted)
    return looked


def test_one_task_does_not_search_cells_that_cannot_win(looks):
    cells = [a_cell(f"c{number}", available=Resources(90, 90, 90)) for number in range(50)]
    assert plan(cells, [a_task()], WAIT).placements == (("g", "c0"),)
    assert len(looks) <= len(cells) + 2  # One look each to begin with, one to find it, one after the award.


@pytest.mark.parametrize("policy", [WAIT, REJECT])
def test_thousands_of_alike_tasks_without_room_are_told_without_a_search_for_each(policy, looks):
    # Something small and something with a different constraint keep every cell worth looking at.
    cells = [a_cell(f"c{number}", available=Resources(50, 50, 100)) for number in range(20)]
    tasks = [*some_tasks(5_000, 60), a_task("small", 1, 1), a_task("other", 70, 1, rootfs="docker:///b")]
    made = plan(cells, tasks, policy)
    assert dict(made.placements) == {"small": "c0"}
    assert len(made.waiting) + len(made.refusals) == 5_001
    assert len(looks) <= 4 * len(cells)


@pytest.mark.parametrize("policy", [WAIT, REJECT])
def test_thousands_of_different_tasks_without_room_are_told_without_a_search_for_each(policy, looks):
    cells = [a_cell(f"c{number}", available=Resources(50, 50, 100)) for number in range(19)]
    cells.append(a_cell("roomy", Resources(100, 10_000, 100)))
    # The first takes the only room there was for the others, and the last keeps every cell worth looking at.
    tasks = [a_task("first", 90), *(a_task(f"g{disk_mb}", 60, disk_mb) for disk_mb in range(2_000)), a_task("last", 1)]
    made = plan(cells, tasks, policy)
    assert [guid for guid, _ in made.placements] == ["first", "last"]
    assert len(made.waiting) + len(made.refusals) == 2_000
    assert len(looks) <= 4 * len(cells)
