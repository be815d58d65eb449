"""The cell's agent: keeps a link to the board and a ``TaskWork`` for every task (design section 4).

The link is dialled for ever, with growing pauses; of several boards the next one is asked when one fails. Whenever it
is up again the cell says what it holds and everything that has no answer yet once more; the board reconciles. Tasks do
not notice that the link is down until they need an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from aiohttp import ClientError, ClientSession, ClientTimeout, ClientWSTimeout, TCPConnector

from bulletin.cell.dialling import Boards, explain, follow
from bulletin.cell.journal import Journal
from bulletin.cell.link import Link
from bulletin.cell.runtime.api import Runtime
from bulletin.cell.settings import CellSettings
from bulletin.cell.work import TaskWork, Tools
from bulletin.core import cellwork, limits, steps
from bulletin.core.cellwork import Phase
from bulletin.core.errors import TaskError
from bulletin.core.model import CellState, Resources
from bulletin.seams import Clock, Ids
from bulletin.wire import cells as wire_cells
from bulletin.wire import link as wire_link
from bulletin.wire.proto import bbs_pb2, link_pb2
from bulletin.wire.tasks import decode_definition

__all__ = ["Agent"]

log = structlog.get_logger("bulletin.cell.agent")

#: Why a cell does not take a task it was given (cell.md 1.2 step 1); the board counts as well, so it hardly happens.
NO_ROOM: Final = "insufficient resources available"
_FIRST_PAUSE_SECONDS: Final = 0.05
#: What a drain adds to the time the steps may take: killing, destroying.
_DRAIN_SECONDS: Final = 10.0


class LinkFailed(Exception):
    """The board cannot be reached, or will not have this cell; the text says why."""


class Agent:
    """The agent of one cell.

    Args:
        settings: checked.
        capacity: what the cell offers.
        runtime: open; the caller closes it.
        journal: open; the caller closes it.
        rng: spreads the dialling of many cells.
        welcomed: called once, when the board first lets the cell in.

    Raises:
        TrustError: the cell's certificates cannot be used.
    """

    def __init__(
        self,
        settings: CellSettings,
        capacity: Resources,
        runtime: Runtime,
        journal: Journal,
        clock: Clock,
        ids: Ids,
        rng: random.Random,
        welcomed: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._capacity = capacity
        self._rng = rng
        self._welcomed: Callable[[], None] | None = welcomed
        self._incarnation = ids.new()
        policy = steps.Policy(graceful_shutdown_seconds=settings.graceful_shutdown_seconds)
        self._tools = Tools(settings.cell_id, runtime, journal, self, clock, policy)
        self._tasks: dict[str, TaskWork] = {}
        #: Tasks that wait for an older one of the same guid to be gone; the newest of each guid.
        self._next: dict[str, bbs_pb2.Task] = {}
        self._used = Resources(0, 0, 0)
        self._draining = False
        self._link_number = 0
        self._link: Link | None = None
        self._boards = Boards(settings.board_urls)
        self._contexts = follow(settings.tls, clock) if settings.tls is not None and settings.needs_tls else None
        for guid, outcome in journal.owed.items():
            work = TaskWork(self._tools, guid, self._gone)
            work.owe(outcome)
            self._tasks[guid] = work
        for guid in journal.lost:
            log.warning("task.lost", task_guid=guid)

    # -- the way to the board, as tasks see it ----------------------------------------------------------------------

    @property
    def link(self) -> int:
        """See ``work.Board``."""
        return 0 if self._link is None else self._link_number

    def send(self, frame: bytes) -> None:
        """See ``work.Board``."""
        if self._link is not None:
            self._link.send(frame)

    # -- the cell's life ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the link up until cancelled; the tasks go on."""
        connector = TCPConnector(force_close=True)
        timeout = ClientTimeout(total=None, sock_connect=limits.LINK_OPEN_SECONDS_MAX)
        pause_seconds = _FIRST_PAUSE_SECONDS
        failures = 0
        async with ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
            while True:
                try:
                    await self._live(session)
                    pause_seconds, failures = _FIRST_PAUSE_SECONDS, 0
                except LinkFailed as error:
                    log.warning("link.failed", board=self._boards.present, error=str(error))
                    self._boards.go_on()
                    failures += 1
                    if failures % self._boards.count:
                        continue  # another board may have taken over: it is asked at once
                await asyncio.sleep(pause_seconds * (0.5 + self._rng.random() / 2))
                pause_seconds = min(2 * pause_seconds, limits.LINK_PAUSE_SECONDS_MAX)

    async def drain(self) -> None:
        """Take no more work, stop every task, and wait, within a bound, until their containers are gone."""
        self._draining = True
        self._next.clear()
        self.send(wire_link.draining())
        works = list(self._tasks.values())
        for work in works:
            work.hear(cellwork.CellStopping())
        leaving = [asyncio.create_task(work.ended()) for work in works if work.phase is not Phase.GONE]
        if leaving:
            bound = self._settings.graceful_shutdown_seconds + _DRAIN_SECONDS
            _, late = await asyncio.wait(leaving, timeout=bound)
            if late:
                log.error("drain.late", tasks=len(late), seconds=bound)
            for task in late:
                task.cancel()
        for work in list(self._tasks.values()):
            work.abandon()
            await work.ended()

    # -- the link ----------------------------------------------------------------------------------------------------

    async def _live(self, session: ClientSession) -> None:
        """Dial, introduce the cell, and take frames until the link ends.

        Raises:
            LinkFailed: the board cannot be reached or refuses the cell.
        """
        link = await self._dial(session)
        try:
            link.send(wire_link.hello(self._hello()))
            # From here on frames follow the Hello in order, so that nothing that happens meanwhile goes unsaid.
            self._link_number += 1
            self._link = link
            async with contextlib.aclosing(link.frames()) as frames:
                async with asyncio.timeout(limits.LINK_OPEN_SECONDS_MAX):
                    first = await anext(frames, None)
                self._admit(first)
                async for frame in frames:
                    self._take(frame)
            log.warning("link.ended")
        except TimeoutError as error:
            raise LinkFailed("the board does not answer") from error
        except TaskError as error:
            raise LinkFailed(f"the board sent {error.message}") from error
        finally:
            self._link = None
            await link.close()

    async def _dial(self, session: ClientSession) -> Link:
        try:
            async with asyncio.timeout(self._boards.open_seconds):
                socket = await session.ws_connect(
                    f"{self._boards.present}/v1/link",
                    ssl=True if self._contexts is None else self._contexts.get(),
                    heartbeat=self._settings.link_heartbeat_seconds,
                    timeout=ClientWSTimeout(ws_close=1.0),
                    max_msg_size=limits.LINK_FRAME_BYTES_MAX,
                    compress=0,
                )
        except (ClientError, OSError) as error:
            raise LinkFailed(explain(error)) from error
        return Link(socket)

    def _admit(self, first: link_pb2.Frame | None) -> None:
        if first is None:
            raise LinkFailed("the board closed the link")
        kind = first.WhichOneof("body")
        if kind == "refused":
            raise LinkFailed(f"the board refuses this cell: {first.refused.reason}")
        if kind != "welcome":
            raise LinkFailed(f"the board began with {kind}")
        if first.welcome.protocol != wire_link.PROTOCOL:
            raise LinkFailed(f"the board speaks protocol {first.welcome.protocol}, this cell {wire_link.PROTOCOL}")
        log.info("link.up", board=first.welcome.board, tasks=len(self._tasks))
        if self._welcomed is not None:
            self._welcomed()
            self._welcomed = None
        for work in list(self._tasks.values()):
            work.hear(cellwork.LinkRestored())

    def _take(self, frame: link_pb2.Frame) -> None:
        match frame.WhichOneof("body"):
            case "assign":
                self._assign(frame.assign.task)
            case "started":
                answer = cellwork.StartGranted() if frame.started.should_start else cellwork.StartRefused()
                self._tell(frame.started.task_guid, answer)
            case "acknowledged":
                self._tell(frame.acknowledged.task_guid, cellwork.Acknowledged())
            case "stop":
                self._next.pop(frame.stop.task_guid, None)
                self._tell(frame.stop.task_guid, cellwork.StopRequested())
            case "refused":
                raise LinkFailed(f"the board refuses this cell: {frame.refused.reason}")
            case body:
                raise LinkFailed(f"a board does not send {body}")

    def _tell(self, guid: str, event: cellwork.Event) -> None:
        work = self._tasks.get(guid)
        if work is not None:
            work.hear(event)
        elif not isinstance(event, cellwork.StartGranted):
            # The board thinks the cell has it; whatever it took is free.
            self.send(wire_link.gone(guid))

    def _hello(self) -> link_pb2.Hello:
        settings = self._settings
        state = CellState(
            cell_id=settings.cell_id,
            zone=settings.zone,
            total=self._capacity,
            available=self._capacity,
            arbitrary_rootfs=frozenset({"docker"}),
            fixed_rootfs={"preloaded": frozenset(settings.preloaded_rootfs)} if settings.preloaded_rootfs else {},
            placement_tags=settings.placement_tags,
            optional_placement_tags=settings.optional_placement_tags,
            evacuating=self._draining,
        )
        held = [work.held() for work in self._tasks.values()]
        return wire_cells.encode_hello(state, incarnation=self._incarnation, held=held)

    # -- tasks -------------------------------------------------------------------------------------------------------

    def _assign(self, task: bbs_pb2.Task) -> None:
        guid = task.task_guid
        if self._draining:
            return  # the link ends soon, and the board gives it to another cell
        old = self._tasks.get(guid)
        if old is None:
            self._begin(task)
        elif old.created_at != task.created_at:
            # A new task under an old name: the old one has to be gone first.
            self._next[guid] = task
            old.hear(cellwork.StopRequested())
        elif old.phase in {Phase.WITHDRAWN, Phase.STOPPING, Phase.LEAVING}:
            # The same task came back here, after a rejection for example.
            self._next[guid] = task
        else:
            log.info("task.assigned.again", task_guid=guid, phase=old.phase.value)

    def _begin(self, task: bbs_pb2.Task) -> None:
        guid = task.task_guid
        try:
            definition = decode_definition(task.task_definition)
        except TaskError as error:
            self._refuse(guid, f"failed to create container: {error.message}")
            return
        work = TaskWork(self._tools, guid, self._gone, created_at=task.created_at, definition=definition)
        used = self._used + work.resources
        if not self._capacity.covers(used) or len(self._tasks) >= limits.CELL_TASKS_MAX:
            self._refuse(guid, NO_ROOM)
            return
        log.debug("task.assigned", task_guid=guid)
        self._used = used
        self._tasks[guid] = work
        work.begin()

    def _refuse(self, guid: str, reason: str) -> None:
        log.warning("task.refused", task_guid=guid, reason=reason)
        work = TaskWork(self._tools, guid, self._gone)
        self._tasks[guid] = work
        work.owe(cellwork.Rejection(reason))
        work.hear(cellwork.LinkRestored())

    def _gone(self, work: TaskWork) -> None:
        del self._tasks[work.guid]
        self._used -= work.resources
        log.debug("task.gone", task_guid=work.guid)
        task = self._next.pop(work.guid, None)
        if task is None:
            self.send(wire_link.gone(work.guid))
        else:
            # The board counts the new one under this name already; Gone would free it.
            self._begin(task)

    @property
    def tasks(self) -> Mapping[str, TaskWork]:
        """What the cell has, by guid; for looking at."""
        return self._tasks
