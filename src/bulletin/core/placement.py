"""Which cell gets a task (cell.md section 7, design section 6).

``plan(cells, pending, policy)`` takes a snapshot of the present cells and the tasks that want one, and returns who goes
where, who is refused with which text, and who waits. It changes nothing: a driver acts on the plan.

Rules: a task goes to the cell with the lowest score among those that match and have room, the first given among
equals; what it takes is subtracted at once, so the next task of the batch sees it, and no cell is promised more than it
has (promise S9). Bigger tasks choose first. Zones play no part for tasks.

Within one plan room only shrinks. Three things rest on that and keep a batch of thousands cheap: cells are kept sorted
by the part of the score that no task changes, so that a search ends as soon as no later cell can win; a cell that
cannot hold even the smallest request of the batch is put aside; a request that found no room is not searched again.

Where we leave the reference: a resource a cell has none of (total 0) counts as unused for a task that wants none of
it. Diego's score becomes NaN there, the cell never wins, and under ``when_full="wait"`` the task would wait for ever.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import inf
from typing import Literal, TypeAlias

from bulletin.core.model import CellState, Resources, Task

__all__ = [
    "IN_FLIGHT_LIMIT",
    "NO_CELLS",
    "NO_ROOTFS",
    "NO_VOLUME_DRIVERS",
    "Pending",
    "Plan",
    "Policy",
    "plan",
    "score",
    "split_rootfs",
]

#: Refusals of cell.md 7.6; clients match parts of them.
NO_CELLS = "unable to communicate to compatible cells"
NO_ROOTFS = "found no compatible cell for required rootfs"
NO_VOLUME_DRIVERS = "found no compatible cell with required volume drivers"
IN_FLIGHT_LIMIT = "waiting to start instance: reached in-flight start limit"
_NO_TAGS = "found no compatible cell with"
_INSUFFICIENT = "insufficient resources"

#: One task more on a cell outweighs any difference in load (cell.md 7.5).
_TASK_WEIGHT = 1000.0


@dataclass(frozen=True, slots=True)
class Pending:
    """What placement has to know of a task that wants a cell. Amounts are not negative (board-api.md 5.2)."""

    guid: str
    #: The URL as desired, scheme included.
    rootfs: str
    resources: Resources
    #: In the order desired, which is the order refusals list them in; compared as a set.
    placement_tags: tuple[str, ...] = ()
    volume_drivers: tuple[str, ...] = ()

    @classmethod
    def of(cls, task: Task) -> Pending:
        """The request of ``task``."""
        wanted = task.definition
        return cls(task.guid, wanted.rootfs, wanted.resources, wanted.placement_tags, wanted.volume_drivers)


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator may set of placement."""

    #: ``wait``: a task that fits an empty cell waits for room. ``reject``: it is refused, as in Diego (design 6).
    when_full: Literal["wait", "reject"] = "wait"
    #: Score of one container that is being made; higher spreads creation wider (cell.md 7.5).
    starting_container_weight: float = 0.25
    #: Containers being made on all cells together before nothing more is placed; 0 or less is no limit.
    starting_container_count_maximum: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The outcome for every guid of the batch: each stands in exactly one of the three."""

    #: (guid, cell_id) in the order decided.
    placements: tuple[tuple[str, str], ...] = ()
    #: (guid, rejection reason).
    refusals: tuple[tuple[str, str], ...] = ()
    #: Guids that a present cell could hold when empty, but none can now; only with ``when_full="wait"``.
    waiting: tuple[str, ...] = ()


def plan(cells: Sequence[CellState], pending: Iterable[Pending], policy: Policy) -> Plan:
    """Decide about every task of ``pending`` given the state of ``cells``.

    A guid given twice counts once, as it stood first. The same arguments bring the same plan. Evacuating cells take
    nothing. The cost is about ``len(pending) + len(cells)`` while cells are alike, and ``len(pending) * len(cells)``
    for a few hundred nanoseconds each at worst.
    """
    first: dict[str, Pending] = {}
    for each in pending:
        first.setdefault(each.guid, each)
    batch = sorted(first.values(), key=lambda each: -each.resources.memory_mb)
    usable = [cell for cell in cells if not cell.evacuating]
    if not usable:
        return Plan(refusals=tuple((each.guid, NO_CELLS) for each in batch))
    if not batch:
        return Plan()
    return _Auction(usable, batch, policy).run()


def score(cell: CellState, wanted: Resources, policy: Policy) -> float:
    """The score of ``cell`` for a task that takes ``wanted``: lowest wins (cell.md 7.5)."""
    room = _Room(cell, 0)
    return room.load(policy.starting_container_weight) + room.cost(wanted.memory_mb, wanted.disk_mb)


def split_rootfs(rootfs: str) -> tuple[str, str]:
    """The scheme of a rootfs URL in lower case, and its opaque part: ``preloaded:x?y`` is ("preloaded", "x").

    The opaque part is empty when a path or host follows the scheme (``docker:///busybox``), as in Go's net/url.
    """
    scheme, _, rest = rootfs.partition(":")
    opaque = "" if rest.startswith("/") else rest.partition("#")[0].partition("?")[0]
    return scheme.lower(), opaque


class _Room:
    """The working copy of a cell: what is left of it as the plan grows."""

    __slots__ = (
        "cell_id",
        "containers",
        "disk_mb",
        "index",
        "memory_mb",
        "per_container",
        "per_disk_mb",
        "per_memory_mb",
        "starting",
        "tasks",
        "total",
    )

    def __init__(self, cell: CellState, index: int) -> None:
        self.cell_id = cell.cell_id
        self.index = index
        self.total = cell.total
        self.memory_mb = cell.available.memory_mb
        self.disk_mb = cell.available.disk_mb
        self.containers = cell.available.containers
        self.per_memory_mb = _share(cell.total.memory_mb)
        self.per_disk_mb = _share(cell.total.disk_mb)
        self.per_container = _share(cell.total.containers)
        self.starting = cell.starting_count
        self.tasks = cell.task_count

    def load(self, starting_weight: float) -> float:
        """The part of the score that no task changes."""
        used = (
            (self.total.memory_mb - self.memory_mb) * self.per_memory_mb
            + (self.total.disk_mb - self.disk_mb) * self.per_disk_mb
            + (self.total.containers - self.containers) * self.per_container
        )
        return used / 3 + starting_weight * self.starting + _TASK_WEIGHT * self.tasks

    def cost(self, memory_mb: int, disk_mb: int) -> float:
        """What a task that takes so much adds to the score."""
        return (memory_mb * self.per_memory_mb + disk_mb * self.per_disk_mb + self.per_container) / 3

    def holds(self, memory_mb: int, disk_mb: int) -> bool:
        """Whether a task that takes so much fits now."""
        return self.memory_mb >= memory_mb and self.disk_mb >= disk_mb and self.containers >= 1

    def take(self, wanted: Resources) -> None:
        """Promise ``wanted`` to one more task, which is starting."""
        self.memory_mb -= wanted.memory_mb
        self.disk_mb -= wanted.disk_mb
        self.containers -= 1
        self.starting += 1
        self.tasks += 1
        assert min(self.memory_mb, self.disk_mb, self.containers) >= 0, "a cell was promised more than it has (S9)"


def _share(total: int) -> float:
    """What one unit is of ``total``; of nothing, nothing is used (see the module's docstring)."""
    return 1 / total if total > 0 else 0.0


#: What eligibility looks at in a cell; cells that agree in it stand in one pool.
_Profile: TypeAlias = tuple[
    frozenset[str], frozenset[tuple[str, frozenset[str]]], frozenset[str], frozenset[str], frozenset[str]
]


def _profile(cell: CellState) -> _Profile:
    return (
        cell.arbitrary_rootfs,
        frozenset(cell.fixed_rootfs.items()),
        cell.volume_drivers,
        cell.placement_tags,
        cell.optional_placement_tags,
    )


class _Pool:
    """The cells that no constraint tells apart, least loaded first."""

    __slots__ = ("_stale", "most", "open", "per_container", "per_disk_mb", "per_memory_mb", "rooms", "sample")

    def __init__(self, sample: CellState) -> None:
        #: Any cell of the pool: its constraints are those of all.
        self.sample = sample
        self.rooms: list[_Room] = []
        #: (load, index, room) of those worth looking at, sorted; indices differ, so rooms are never compared.
        self.open: list[tuple[float, int, _Room]] = []
        self._stale = True

    def settle(self) -> None:
        """Take note of the largest cells, which add the least to a score, once all are in."""
        self.per_memory_mb = min(room.per_memory_mb for room in self.rooms)
        self.per_disk_mb = min(room.per_disk_mb for room in self.rooms)
        self.per_container = min(room.per_container for room in self.rooms)
        self.open.sort()
        self.measure()

    def measure(self) -> None:
        """Bring ``most`` up to date: the most of each resource any one cell has left.

        In between it is an upper bound, as room only shrinks, and good enough to skip a search.
        """
        if self._stale:
            self.most = Resources(
                max([room.memory_mb for room in self.rooms]),
                max([room.disk_mb for room in self.rooms]),
                max([room.containers for room in self.rooms]),
            )
            self._stale = False

    def cost_min(self, memory_mb: int, disk_mb: int) -> float:
        """A lower bound of ``_Room.cost`` over the pool; the same operations in the same order keep it one."""
        return (memory_mb * self.per_memory_mb + disk_mb * self.per_disk_mb + self.per_container) / 3

    def award(self, position: int, wanted: Resources, smallest: Resources, starting_weight: float) -> _Room:
        """Promise ``wanted`` to the cell at ``position`` of ``open``, and put the cell where it belongs from now on."""
        _, index, room = self.open.pop(position)
        room.take(wanted)
        self._stale = True
        if room.holds(smallest.memory_mb, smallest.disk_mb):
            insort(self.open, (room.load(starting_weight), index, room))
        return room


def _most(amounts: Iterable[Resources]) -> Resources:
    """The largest of each resource, from whichever amount has it."""
    return reduce(
        lambda a, b: Resources(
            max(a.memory_mb, b.memory_mb), max(a.disk_mb, b.disk_mb), max(a.containers, b.containers)
        ),
        amounts,
    )


@dataclass(slots=True)
class _Constraint:
    """A combination of rootfs, drivers and tags: the pools that match, or the text when none does."""

    pools: list[_Pool]
    refusal: str = ""
    #: Requests, as (memory_mb, disk_mb), that found no room; they never will within this plan.
    full: set[tuple[int, int]] = field(default_factory=set)
    #: Request to whether some cell could hold it when empty.
    _holdable: dict[Resources, bool] = field(default_factory=dict)
    _most_when_empty: Resources | None = None

    def measure(self) -> None:
        """Bring every pool's ``most`` up to date."""
        for pool in self.pools:
            pool.measure()

    def most_when_empty(self) -> Resources:
        """The most of each resource any matching cell has in all."""
        if self._most_when_empty is None:
            self._most_when_empty = _most(room.total for pool in self.pools for room in pool.rooms)
        return self._most_when_empty

    def most_left(self) -> Resources:
        """The most of each resource any matching cell has left."""
        self.measure()
        return _most(pool.most for pool in self.pools)

    def is_holdable(self, wanted: Resources) -> bool:
        """Whether some matching cell could hold it when empty."""
        known = self._holdable.get(wanted)
        if known is None:
            # One large cell may have the memory and another the disk, so passing the first test is not enough.
            known = self.most_when_empty().covers(wanted) and any(
                room.total.covers(wanted) for pool in self.pools for room in pool.rooms
            )
            self._holdable[wanted] = known
        return known


class _Auction:
    """One plan in the making."""

    def __init__(self, cells: Sequence[CellState], batch: Sequence[Pending], policy: Policy) -> None:
        self._batch = batch
        self._policy = policy
        self._weight = policy.starting_container_weight
        self._starting = sum(cell.starting_count for cell in cells)
        self._smallest = Resources(
            min(each.resources.memory_mb for each in batch), min(each.resources.disk_mb for each in batch)
        )
        self._fixed_schemes = frozenset(scheme for cell in cells for scheme in cell.fixed_rootfs)
        self._constraints: dict[tuple[str, str, tuple[str, ...], tuple[str, ...]], _Constraint] = {}
        self._placements: list[tuple[str, str]] = []
        self._pools = self._fill_pools(cells)

    def run(self) -> Plan:
        """Decide about each task in turn."""
        waits = self._policy.when_full == "wait"
        refusals: list[tuple[str, str]] = []
        waiting: list[str] = []
        for each in self._batch:
            saturated = self._is_saturated()
            if saturated and not waits:
                refusals.append((each.guid, IN_FLIGHT_LIMIT))
                continue
            constraint = self._constraint(each)
            if constraint.refusal:
                refusals.append((each.guid, constraint.refusal))
                continue
            if not saturated and self._place(each, constraint):
                continue
            if waits and constraint.is_holdable(each.resources):
                waiting.append(each.guid)
            else:
                most = constraint.most_when_empty() if waits else constraint.most_left()
                refusals.append((each.guid, _lacking_text(most, each.resources)))
        return Plan(tuple(self._placements), tuple(refusals), tuple(waiting))

    def _fill_pools(self, cells: Sequence[CellState]) -> list[_Pool]:
        pools: dict[_Profile, _Pool] = {}
        for index, cell in enumerate(cells):
            profile = _profile(cell)
            pool = pools.get(profile)
            if pool is None:
                pool = pools[profile] = _Pool(cell)
            room = _Room(cell, index)
            pool.rooms.append(room)
            if room.holds(self._smallest.memory_mb, self._smallest.disk_mb):
                pool.open.append((room.load(self._weight), index, room))
        for pool in pools.values():
            pool.settle()
        return list(pools.values())

    def _is_saturated(self) -> bool:
        maximum = self._policy.starting_container_count_maximum
        return maximum > 0 and self._starting >= maximum

    def _constraint(self, each: Pending) -> _Constraint:
        scheme, opaque = split_rootfs(each.rootfs)
        if scheme not in self._fixed_schemes:
            opaque = ""  # A thousand docker images are one constraint.
        key = (scheme, opaque, each.placement_tags, each.volume_drivers)
        known = self._constraints.get(key)
        if known is None:
            known = self._constraints[key] = _match(self._pools, scheme, opaque, each)
        return known

    def _place(self, each: Pending, constraint: _Constraint) -> bool:
        memory_mb, disk_mb = each.resources.memory_mb, each.resources.disk_mb
        if (memory_mb, disk_mb) in constraint.full:
            return False
        winner: tuple[_Pool, int] | None = None
        best, best_index = inf, 0
        for pool in constraint.pools:
            if memory_mb > pool.most.memory_mb or disk_mb > pool.most.disk_mb:
                continue
            cost_min = pool.cost_min(memory_mb, disk_mb)
            for position, (load, index, room) in enumerate(pool.open):
                bound = load + cost_min
                # Loads only grow from here on, and so does the index among equal ones.
                if bound > best or (bound == best and index > best_index):
                    break
                if not room.holds(memory_mb, disk_mb):
                    continue
                points = load + room.cost(memory_mb, disk_mb)
                if points < best or (points == best and index < best_index):
                    winner, best, best_index = (pool, position), points, index
        if winner is None:
            constraint.full.add((memory_mb, disk_mb))
            constraint.measure()
            return False
        pool, position = winner
        room = pool.award(position, each.resources, self._smallest, self._weight)
        self._starting += 1
        self._placements.append((each.guid, room.cell_id))
        return True


def _match(pools: Sequence[_Pool], scheme: str, opaque: str, each: Pending) -> _Constraint:
    """Sort out the pools that match; when none does, the most advanced check any of them reached tells the text."""
    tags, drivers = frozenset(each.placement_tags), frozenset(each.volume_drivers)
    with_rootfs = [pool for pool in pools if _has_rootfs(pool.sample, scheme, opaque)]
    if not with_rootfs:
        return _Constraint([], NO_ROOTFS)
    with_drivers = [pool for pool in with_rootfs if drivers <= pool.sample.volume_drivers]
    if not with_drivers:
        return _Constraint([], NO_VOLUME_DRIVERS)
    matching = [pool for pool in with_drivers if _suits_tags(pool.sample, tags)]
    return _Constraint(matching, "" if matching else _tags_text(each.placement_tags))


def _has_rootfs(cell: CellState, scheme: str, opaque: str) -> bool:
    return scheme in cell.arbitrary_rootfs or opaque in cell.fixed_rootfs.get(scheme, ())


def _suits_tags(cell: CellState, tags: frozenset[str]) -> bool:
    return cell.placement_tags <= tags <= cell.placement_tags | cell.optional_placement_tags


def _tags_text(tags: Sequence[str]) -> str:
    quoted = [f'"{tag}"' for tag in tags]
    if not quoted:
        return f"{_NO_TAGS} no placement tags"
    if len(quoted) == 1:
        return f"{_NO_TAGS} placement tag {quoted[0]}"
    return f"{_NO_TAGS} placement tags {', '.join(quoted[:-1])} and {quoted[-1]}"


def _lacking_text(most: Resources, wanted: Resources) -> str:
    """What is lacking on every cell, given the most any of them has: alphabetical, or nothing in particular."""
    lacking = (
        ("containers", most.containers < wanted.containers),
        ("disk", most.disk_mb < wanted.disk_mb),
        ("memory", most.memory_mb < wanted.memory_mb),
    )
    names = ", ".join(name for name, everywhere in lacking if everywhere)
    return f"{_INSUFFICIENT}: {names}" if names else _INSUFFICIENT
