"""The cells: who is here, what each holds, and what is said on their links (design section 4, "the link").

The board promises a cell only what fits (S9): what a cell holds or was given counts until the cell says the container
is gone. A cell whose link breaks keeps its place for ``presence_ttl``; what it was given and had not started is free
for others at once, because only the row's owner may start it. Every decision about a task is the writer's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import structlog

from bulletin.board.metrics import BoardMetrics
from bulletin.board.settings import BoardSettings
from bulletin.board.writer import Writer
from bulletin.core import limits
from bulletin.core.errors import Blame, TaskError
from bulletin.core.model import CellState, Resources, Task, TaskState
from bulletin.core.operations import CellDisappeared, Complete, Reject, Start
from bulletin.seams import Clock
from bulletin.store.api import Output
from bulletin.wire import cells as wire_cells
from bulletin.wire import link as wire_link
from bulletin.wire.proto import bbs_pb2, link_pb2

__all__ = ["Cells", "LinkRefused", "Outbox"]

log = structlog.get_logger("bulletin.board.cells")

#: What the board says of a task that it has as running on a cell which does not have it (cell.md 1.3).
CONTAINER_MISSING: Final = "task container does not exist"
#: Frames that may wait for a cell to read them; a cell further behind is cut off and dials again.
_OUTBOX_FRAMES_MAX: Final = 10_000

Phase = link_pb2.Held.Phase


class Listener(Protocol):
    """Who wants to know of room: the scheduler."""

    def room(self) -> None:
        """A container is gone."""
        ...

    def offer_all_pending(self) -> None:
        """A cell has come, or come back, and takes work."""
        ...

    def offer(self, guid: str) -> None:
        """A pending task has lost its cell before it was started."""
        ...


class LinkRefused(Exception):
    """The board will not have this cell; the text goes to it."""


class Outbox:
    """Frames for one cell, in order; the link's sender takes them out."""

    def __init__(self, metrics: BoardMetrics | None = None) -> None:
        self._metrics = metrics or BoardMetrics()
        self._frames: deque[bytes] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._closed = False

    def put(self, frame: bytes) -> None:
        """Queue a frame; a full outbox closes itself, which ends the link."""
        if len(self._frames) >= _OUTBOX_FRAMES_MAX:
            self.close()
        if not self._closed:
            self._frames.append(frame)
            self._rouse()

    def close(self) -> None:
        """Nothing more will be said on this link."""
        self._closed = True
        self._rouse()

    async def take(self) -> bytes | None:
        """The next frame; None once the outbox is closed and empty."""
        while not self._frames:
            if self._closed:
                return None
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        self._metrics.frames_sent += 1
        return self._frames.popleft()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


@dataclass(slots=True)
class _Held:
    """A task a cell has, or was given."""

    resources: Resources
    phase: Phase
    #: Monotonic seconds when it was given and not started yet.
    since: float


@dataclass(slots=True)
class _Cell:
    """A cell that is here, or was until less than ``presence_ttl`` ago."""

    presence: bbs_pb2.CellPresence
    #: As it said of itself; ``available`` and the counts are worked out when asked for.
    state: CellState
    incarnation: str
    outbox: Outbox | None
    draining: bool = False
    held: dict[str, _Held] = field(default_factory=dict)
    taken: Resources = field(default_factory=lambda: Resources(0, 0, 0))
    #: Monotonic seconds; meaningful while ``outbox`` is None.
    lost_at: float = 0.0
    starting: int = 0


class Cells:
    """All cells of the board; see the module. ``listener`` is told of room; it is set before any cell connects."""

    listener: Listener

    def __init__(
        self,
        writer: Writer,
        clock: Clock,
        settings: BoardSettings,
        *,
        board_name: str,
        metrics: BoardMetrics | None = None,
    ) -> None:
        self._writer = writer
        self._clock = clock
        self._settings = settings
        self._board_name = board_name
        self._metrics = metrics or BoardMetrics()
        self._cells: dict[str, _Cell] = {}
        self._holders: dict[str, str] = {}
        self._opened_at = clock.monotonic()
        self._closed = False

    # -- for placement, convergence and the API --------------------------------------------------------------------

    def states(self) -> list[CellState]:
        """The cells with a link that take work, with what is left of each."""
        return [
            replace(
                cell.state,
                available=cell.state.total - cell.taken,
                task_count=len(cell.held),
                starting_count=cell.starting,
            )
            for cell in self._cells.values()
            if cell.outbox is not None and not cell.draining
        ]

    def present(self) -> set[str]:
        """The ids of the cells that are here; those of running tasks too while a board is younger than the TTL."""
        present = set(self._cells)
        if self._clock.monotonic() - self._opened_at < self._settings.presence_ttl_seconds:
            present.update(task.cell_id for task in self._writer.tasks.values() if task.state is TaskState.RUNNING)
        return present

    @property
    def present_count(self) -> int:
        """How many cells are here, or were until less than ``presence_ttl`` ago."""
        return len(self._cells)

    @property
    def connected_count(self) -> int:
        """How many cells have a link."""
        return sum(cell.outbox is not None for cell in self._cells.values())

    def presences(self) -> list[bbs_pb2.CellPresence]:
        """What ``/v1/cells/list.r1`` answers."""
        return [cell.presence for cell in self._cells.values()]

    def holder(self, guid: str) -> str | None:
        """The cell that has the task, or was given it."""
        return self._holders.get(guid)

    def assign(self, cell_id: str, task: Task) -> bool:
        """Give a cell a task; False when the cell has gone meanwhile."""
        cell = self._cells.get(cell_id)
        if cell is None or cell.outbox is None:
            return False
        self._hold(cell_id, cell, task.guid, task.definition.resources, link_pb2.Held.STARTING)
        cell.outbox.put(wire_link.assign(task))
        return True

    def stop(self, guid: str) -> None:
        """Nobody wants the task's container any more: tell the cell that has it, unless it is leaving already."""
        cell_id = self._holders.get(guid)
        if cell_id is None:
            return
        cell = self._cells[cell_id]
        if cell.held[guid].phase != link_pb2.Held.LEAVING and cell.outbox is not None:
            cell.outbox.put(wire_link.stop(guid))

    def sweep(self) -> None:
        """Give up cells gone for too long, and take back what a cell was given and never asked to start (L2, L3)."""
        now = self._clock.monotonic()
        for cell_id, cell in list(self._cells.items()):
            if cell.outbox is None and now - cell.lost_at > self._settings.presence_ttl_seconds:
                log.warning("cell.gone", cell_id=cell_id, tasks=len(cell.held))
                self._forget(cell_id, cell)
                self._fail_running_on(cell_id)
                continue
            for guid, held in list(cell.held.items()):
                task = self._writer.tasks.get(guid)
                unclaimed = held.phase == link_pb2.Held.STARTING and (task is None or task.state is TaskState.PENDING)
                if unclaimed and cell.outbox is not None and now - held.since > self._settings.claim_seconds:
                    log.warning("task.unclaimed", task_guid=guid, cell_id=cell_id)
                    cell.outbox.put(wire_link.stop(guid))
                    self._leave(cell, guid)  # its room is the cell's until the cell says Gone
                    del self._holders[guid]
                    self.listener.offer(guid)

    def close(self) -> None:
        """End every link; the cells dial again."""
        self._closed = True
        for cell in self._cells.values():
            if cell.outbox is not None:
                cell.outbox.close()

    # -- the link ------------------------------------------------------------------------------------------------

    def connect(self, hello: link_pb2.Hello) -> tuple[str, Outbox]:
        """A cell has come: reconcile what it holds with what the board knows.

        Returns:
            Its id and the outbox of its link.

        Raises:
            LinkRefused: bad presence, another cell of that name, too many cells.
        """
        if self._closed:
            raise LinkRefused("the board is stopping; dial again")
        try:
            state = wire_cells.decode_hello(hello)
        except wire_cells.InvalidHello as error:
            raise LinkRefused(str(error)) from error
        cell_id = state.cell_id
        old = self._cells.get(cell_id)
        if old is None and len(self._cells) >= limits.CELLS_MAX:
            raise LinkRefused(f"the board has {limits.CELLS_MAX} cells, its limit")
        if old is not None and old.outbox is not None:
            if old.incarnation != hello.incarnation:
                raise LinkRefused(f"another cell named {cell_id} is connected; give each cell an --id of its own")
            old.outbox.close()
        if old is not None:
            self._forget(cell_id, old)
        outbox = Outbox(self._metrics)
        cell = _Cell(hello.presence, state, hello.incarnation, outbox, draining=hello.draining)
        self._cells[cell_id] = cell
        outbox.put(wire_link.welcome(self._board_name))
        self._reconcile(cell_id, cell, hello)
        log.info("cell.connected", cell_id=cell_id, held=len(hello.held), again=old is not None)
        self.listener.offer_all_pending()
        return cell_id, outbox

    def disconnect(self, cell_id: str, outbox: Outbox) -> None:
        """A link has ended; what the cell had not started yet is free for others."""
        outbox.close()
        cell = self._cells.get(cell_id)
        if cell is None or cell.outbox is not outbox:
            return
        cell.outbox = None
        cell.lost_at = self._clock.monotonic()
        log.warning("cell.disconnected", cell_id=cell_id, held=len(cell.held))
        for guid, held in list(cell.held.items()):
            task = self._writer.tasks.get(guid)
            if held.phase == link_pb2.Held.STARTING and task is not None and task.state is TaskState.PENDING:
                self._holders.pop(guid, None)
                self._leave(cell, guid)
                self.listener.offer(guid)

    async def handle(self, cell_id: str, outbox: Outbox, frame: link_pb2.Frame) -> None:
        """Do what a frame of the cell asks for. Frames of one cell may be handled side by side.

        Raises:
            LinkRefused: a frame no cell sends.
        """
        self._metrics.frames_received += 1
        cell = self._cells.get(cell_id)
        if cell is None or cell.outbox is not outbox:
            return  # the link was replaced while this frame was on its way; the cell says it again on the new one
        match frame.WhichOneof("body"):
            case "start":
                await self._start(cell_id, cell, outbox, frame.start)
            case "completed":
                await self._completed(cell_id, cell, outbox, frame.completed)
            case "rejected":
                await self._rejected(cell_id, cell, outbox, frame.rejected)
            case "gone":
                self._gone(cell_id, cell, frame.gone.task_guid)
            case "draining":
                cell.draining = True
            case "output":
                pass  # nobody follows output yet
            case body:
                raise LinkRefused(f"a cell does not send {body}")

    async def _start(self, cell_id: str, cell: _Cell, outbox: Outbox, message: link_pb2.Start) -> None:
        guid = message.task_guid
        task = self._writer.tasks.get(guid)
        if task is not None and task.created_at != message.created_at:
            # Cancelled, deleted and desired again while the question was on its way: it was about the old one.
            outbox.put(wire_link.started(guid, False))
            return
        granted = await self._apply(cell_id, outbox, Start(guid, cell_id))
        if not granted:
            if granted is not None:
                outbox.put(wire_link.started(guid, False))
            return
        # A Start repeated by the same cell is granted too: it asks only for what it has not begun, so the answer
        # to the first one was lost.
        held = cell.held.get(guid)
        if held is not None:
            self._holders[guid] = cell_id
            if held.phase == link_pb2.Held.STARTING:
                held.phase = link_pb2.Held.RUNNING
                cell.starting -= 1
        outbox.put(wire_link.started(guid, True))

    async def _completed(self, cell_id: str, cell: _Cell, outbox: Outbox, message: link_pb2.Completed) -> None:
        guid = message.task_guid
        self._leave(cell, guid)
        output = None
        if message.output:
            expires_at = self._clock.now_ns() + int(self._settings.output_retention_seconds * 1e9)
            output = Output(guid, link_pb2.Output(lines=message.output).SerializeToString(), expires_at)
        reason, result = _storable(message.failure_reason), _storable(message.result)
        operation = Complete(guid, cell_id, message.failed, reason, result)
        if await self._apply(cell_id, outbox, operation, output) is not None:
            outbox.put(wire_link.acknowledged(guid))

    async def _rejected(self, cell_id: str, cell: _Cell, outbox: Outbox, message: link_pb2.Rejected) -> None:
        guid = message.task_guid
        self._leave(cell, guid)
        task = self._writer.tasks.get(guid)
        # A cell rejects only its own: what it runs, or what it was given and nobody else has (cell.md 12, 32).
        own = task is not None and (
            task.cell_id == cell_id if task.state is TaskState.RUNNING else self._holders.get(guid) == cell_id
        )
        if not own or await self._apply(cell_id, outbox, Reject(guid, _storable(message.reason))) is not None:
            outbox.put(wire_link.acknowledged(guid))

    async def _apply(
        self, cell_id: str, outbox: Outbox, operation: Start | Complete | Reject, output: Output | None = None
    ) -> bool | None:
        """Do what a cell asks for: True when it is durable, False when it is refused.

        None when nobody knows: the link is closed then, so that the cell dials again and says it again.
        """
        try:
            await self._writer.apply(operation, output)
        except TaskError as error:
            if error.blame is not Blame.CALLER:
                outbox.close()
                return None
            event = f"task.{type(operation).__name__.lower()}.refused"
            log.info(event, task_guid=operation.guid, cell_id=cell_id, error=error.message)
            return False
        return True

    def _gone(self, cell_id: str, cell: _Cell, guid: str) -> None:
        if guid in cell.held:
            self._release(cell_id, cell, guid)
            self.listener.room()
            task = self._writer.tasks.get(guid)
            if task is not None and task.state is TaskState.PENDING and guid not in self._holders:
                self.listener.offer(guid)

    # -- keeping count -----------------------------------------------------------------------------------------------

    def _reconcile(self, cell_id: str, cell: _Cell, hello: link_pb2.Hello) -> None:
        for held in hello.held:
            guid = held.task_guid
            resources = Resources(held.memory_mb, held.disk_mb, 1)
            task = self._writer.tasks.get(guid)
            same = task is not None and task.created_at == held.created_at
            mine = same and task is not None and task.state is TaskState.RUNNING and task.cell_id == cell_id
            free = same and task is not None and task.state is TaskState.PENDING and guid not in self._holders
            wanted = mine or (free and held.phase == link_pb2.Held.STARTING)
            self._hold(cell_id, cell, guid, resources, held.phase, owner=wanted)
            if not wanted and held.phase in (link_pb2.Held.STARTING, link_pb2.Held.RUNNING):
                assert cell.outbox is not None
                cell.outbox.put(wire_link.stop(guid))
        for guid in self._running_on(cell_id):
            if guid not in cell.held:
                self._submit(Complete(guid, cell_id, True, CONTAINER_MISSING, CONTAINER_MISSING))

    def _fail_running_on(self, cell_id: str) -> None:
        for guid in self._running_on(cell_id):
            self._submit(CellDisappeared(guid))

    def _running_on(self, cell_id: str) -> list[str]:
        return [
            guid
            for guid, task in self._writer.tasks.items()
            if task.state is TaskState.RUNNING and task.cell_id == cell_id
        ]

    def _submit(self, operation: Complete | CellDisappeared) -> None:
        try:
            self._writer.submit(operation)
        except TaskError as error:
            # The next sweep or the next hello finds it again.
            log.warning("task.fail.refused", task_guid=operation.guid, error=error.message)

    def _hold(
        self, cell_id: str, cell: _Cell, guid: str, resources: Resources, phase: Phase, *, owner: bool = True
    ) -> None:
        if guid in cell.held:
            # The guid was desired again while its forerunner's container is still going. The cell makes the new one
            # when the old one is gone and says Gone once, for both; until then the larger of the two is there.
            old = cell.held[guid].resources
            self._release(cell_id, cell, guid)
            resources = Resources(max(old.memory_mb, resources.memory_mb), max(old.disk_mb, resources.disk_mb), 1)
        cell.held[guid] = _Held(resources, phase, self._clock.monotonic())
        cell.taken = cell.taken + resources
        cell.starting += phase == link_pb2.Held.STARTING
        if owner:
            self._holders[guid] = cell_id

    def _leave(self, cell: _Cell, guid: str) -> None:
        held = cell.held.get(guid)
        if held is not None:
            cell.starting -= held.phase == link_pb2.Held.STARTING
            held.phase = link_pb2.Held.LEAVING

    def _release(self, cell_id: str, cell: _Cell, guid: str) -> None:
        held = cell.held.pop(guid)
        cell.taken = cell.taken - held.resources
        cell.starting -= held.phase == link_pb2.Held.STARTING
        if self._holders.get(guid) == cell_id:
            del self._holders[guid]

    def _forget(self, cell_id: str, cell: _Cell) -> None:
        for guid in list(cell.held):
            self._release(cell_id, cell, guid)
        del self._cells[cell_id]


def _storable(text: str) -> str:
    """``text`` without U+0000: what a task wrote may hold it, and a refused outcome would be lost."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
