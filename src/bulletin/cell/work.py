"""One task on the cell: the driver of ``core.cellwork`` (design section 4).

``hear`` takes an event and carries out at once what needs no waiting: journal lines and frames. What has to be waited
for (making the container, the steps, the result file, destroying) is done one after another by the task's single
coroutine. It ends when the task is gone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog

from bulletin.cell.journal import Journal, JournalError
from bulletin.cell.logs import CellLines, TaskLog
from bulletin.cell.runtime.api import (
    Container,
    ContainerOrder,
    ContainerRefused,
    DestroyFailed,
    ResultUnreadable,
    Runtime,
)
from bulletin.cell.stepping import StepRun
from bulletin.core import cellwork, limits, steps
from bulletin.core.cellwork import Phase
from bulletin.core.definition import TaskDefinition
from bulletin.core.model import Resources
from bulletin.seams import Clock
from bulletin.wire import link as wire_link
from bulletin.wire.proto import link_pb2

__all__ = ["Board", "TaskWork", "Tools"]

log = structlog.get_logger("bulletin.cell.work")

_BROKEN: Final = "internal error of the cell"
_DESTROY_PAUSE_SECONDS: Final = 0.1


class Board(Protocol):
    """The way to the board."""

    @property
    def link(self) -> int:
        """The number of the link that is up, from 1; 0: there is none."""
        ...

    def send(self, frame: bytes) -> None:
        """Say something on the link; lost when there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What every task of a cell works with."""

    cell_id: str
    runtime: Runtime
    journal: Journal
    board: Board
    clock: Clock
    policy: steps.Policy
    #: Containers being made at once, and being destroyed.
    creating: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(limits.CONTAINER_OPERATIONS_MAX))
    destroying: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(limits.CONTAINER_OPERATIONS_MAX))


class TaskWork:
    """One task from its assignment until it is gone.

    Attributes:
        guid: the task's.
        created_at: the task's own, which tells two tasks of one guid apart; 0 for an outcome of an earlier process.
        resources: what it takes of the cell.
    """

    def __init__(
        self,
        tools: Tools,
        guid: str,
        gone: Callable[[TaskWork], None],
        *,
        created_at: int = 0,
        definition: TaskDefinition | None = None,
    ) -> None:
        self.guid = guid
        self.created_at = created_at
        self.resources = Resources(0, 0, 0)
        if definition is not None:
            self.resources = Resources(definition.memory_mb, definition.disk_mb, 1)
        self._definition = definition
        self._tools = tools
        self._gone = gone
        self._log = log.bind(task_guid=guid)
        rate = None if definition is None else definition.log_rate_limit_bytes_per_second
        self._output = TaskLog(tools.clock, bytes_per_second=rate)
        self._lines = CellLines(tools.cell_id, guid)
        self._source = (definition.log_source if definition is not None else "") or steps.DEFAULT_LOG_SOURCE
        self._work = cellwork.Work(Phase.GONE)
        self._events: deque[cellwork.Event] = deque()
        self._hearing = False
        #: What the coroutine does next; None: it waits for an event that says so.
        self._operation: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._runner: asyncio.Task[None] | None = None
        self._container: Container | None = None
        self._steps: StepRun | None = None
        self._result_path = ""
        self._prepare_bound: asyncio.Timeout | None = None
        self._withdrawn = False
        self._destroy_pause_seconds = 0.0
        self._answer_timer: asyncio.TimerHandle | None = None
        #: The links on which Start was asked and the outcome told.
        self._asked_on = 0
        self._told_on = 0

    def begin(self) -> None:
        """The task was assigned: start working on it."""
        assert self._definition is not None
        self._work, commands = cellwork.assign(self._definition.result_file)
        self._carry_out(commands)
        self._runner = asyncio.create_task(self._run())
        self._runner.add_done_callback(self._ended)

    def owe(self, outcome: cellwork.Outcome) -> None:
        """There is only an outcome to tell; LinkRestored tells it."""
        self._work = cellwork.owe(outcome)

    def hear(self, event: cellwork.Event) -> None:
        """Take an event; one that comes up meanwhile waits for its turn. Nothing is heard once it is gone."""
        self._events.append(event)
        if self._hearing:
            return
        self._hearing = True
        try:
            while self._events and self._work.phase is not Phase.GONE:
                self._work, commands = cellwork.step(self._work, self._events.popleft())
                self._carry_out(commands)
        finally:
            self._hearing = False

    def held(self) -> link_pb2.Held:
        """What Hello says of it."""
        phase = _HELD_PHASES[self._work.phase]
        if self._work.phase is Phase.WITHDRAWN and self._work.outcome is not None:
            phase = link_pb2.Held.REPORTING
        return link_pb2.Held(
            task_guid=self.guid,
            created_at=self.created_at,
            phase=phase,
            memory_mb=self.resources.memory_mb,
            disk_mb=self.resources.disk_mb,
        )

    @property
    def phase(self) -> Phase:
        """How far it is."""
        return self._work.phase

    async def ended(self) -> None:
        """Wait until it is gone; at once when it never had a container to make."""
        if self._runner is not None:
            await asyncio.wait([self._runner])

    def abandon(self) -> None:
        """Work on it no more: its bound is over, and the runtime's ``close`` takes what is left."""
        self._clear_answer_timer()
        if self._runner is not None:
            self._runner.cancel()

    def _ended(self, runner: asyncio.Task[None]) -> None:
        if not runner.cancelled() and runner.exception() is not None:
            # A defect of ours: what the task takes stays taken until the cell is started again.
            self._log.error("task.broken", phase=self._work.phase.value, exc_info=runner.exception())

    # -- commands -------------------------------------------------------------------------------------------------

    def _carry_out(self, commands: tuple[cellwork.Command, ...]) -> None:
        for command in commands:
            match command:
                case cellwork.AskStart():
                    self._ask_start()
                case cellwork.Prepare():
                    self._next(self._prepare)
                case cellwork.CancelPrepare():
                    self._cancel_prepare()
                case cellwork.RunSteps():
                    self._make_steps()
                case cellwork.InterruptSteps():
                    assert self._steps is not None
                    self._steps.interrupt()
                case cellwork.ReadResult(path):
                    self._result_path = path
                    self._next(self._read_result)
                case cellwork.Report(outcome):
                    self._report(outcome)
                case cellwork.Destroy() | cellwork.DestroyAgain():
                    self._next(self._destroy)
                case cellwork.Forget():
                    self._forget()
                case _:
                    self._write_journal(command)

    def _write_journal(self, command: cellwork.Command) -> None:
        journal = self._tools.journal
        try:
            match command:
                case cellwork.JournalAccepted():
                    journal.accepted(self.guid)
                case cellwork.JournalOutcome(outcome):
                    journal.outcome(self.guid, outcome)
                case _:
                    journal.settled(self.guid)
        except JournalError as error:
            # The outcome still reaches the board unless this process dies first; refusing to go on would lose it
            # for certain.
            self._log.error("journal.failed", error=str(error))

    def _ask_start(self) -> None:
        board = self._tools.board
        if self._answer_timer is None:
            # It runs on behind an answer: Expired changes nothing then, and clearing it costs as much.
            loop = asyncio.get_running_loop()
            self._answer_timer = loop.call_later(limits.START_ANSWER_SECONDS_MAX, self.hear, cellwork.Expired())
        if board.link != self._asked_on:
            self._asked_on = board.link
            board.send(wire_link.start(self.guid, self.created_at))

    def _clear_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _cancel_prepare(self) -> None:
        self._withdrawn = True
        if self._prepare_bound is not None and not self._prepare_bound.expired():
            self._prepare_bound.reschedule(asyncio.get_running_loop().time())

    def _make_steps(self) -> None:
        assert self._definition is not None
        assert self._container is not None
        self._steps = StepRun(self.guid, self._definition, self._container, self._output, self._tools.policy)
        self._next(self._run_steps)

    def _report(self, outcome: cellwork.Outcome) -> None:
        board = self._tools.board
        if board.link == self._told_on:
            return
        self._told_on = board.link
        if isinstance(outcome, cellwork.Rejection):
            board.send(wire_link.rejected(self.guid, outcome.reason))
            self._log.info("task.rejected")
            return
        lines = [
            wire_link.log_line(line.time_ns, line.source, line.text, error=line.stream == "err")
            for line in self._output.lines()
        ]
        board.send(
            wire_link.completed(
                self.guid,
                failed=outcome.failed,
                failure_reason=outcome.failure_reason,
                result=outcome.result,
                output=lines,
            )
        )
        self._log.info("task.completed", failed=outcome.failed)

    def _forget(self) -> None:
        self._clear_answer_timer()
        if self._work.outcome is None:
            self._write_journal(cellwork.JournalSettled())
        self._gone(self)
        self._rouse()

    # -- operations -----------------------------------------------------------------------------------------------

    def _next(self, operation: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self._operation is None, "one operation at a time"
        self._operation = operation
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _run(self) -> None:
        while self._work.phase is not Phase.GONE:
            if self._operation is None:
                # Bounded by the answer's timer while nothing has been granted; afterwards the outcome waits for the
                # board, however long that takes.
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake
                continue
            operation, self._operation = self._operation, None
            await operation()

    async def _prepare(self) -> None:
        event: cellwork.PrepareFailed
        try:
            async with asyncio.timeout(limits.PREPARE_SECONDS_MAX) as self._prepare_bound:
                self._container = await self._create()
        except _Unsupported as error:
            event = cellwork.PrepareFailed(str(error), error.stage)
        except ContainerRefused as error:
            event = cellwork.PrepareFailed(str(error))
        except TimeoutError:
            event = cellwork.PrepareFailed(f"not made within {limits.PREPARE_SECONDS_MAX:.0f} seconds")
        except Exception:  # noqa: BLE001 - the driver's edge: a defect below fails this task and no other (S13)
            self._log.exception("container.create.broken")
            event = cellwork.PrepareFailed(_BROKEN)
        else:
            self._say("out", self._lines.created)
            self.hear(cellwork.Prepared())
            return
        finally:
            self._prepare_bound = None
        if not self._withdrawn:
            self._log.warning("container.refused", error=event.error)
            self._say("err", self._lines.create_failed(event.error))
        self.hear(event)

    async def _create(self) -> Container:
        definition = self._definition
        assert definition is not None
        if self._withdrawn:
            raise ContainerRefused("withdrawn")
        if definition.cached_dependencies or definition.image_layers:
            raise _Unsupported(
                "this cell does not fetch cached dependencies and image layers yet", cellwork.Stage.DEPENDENCIES
            )
        if definition.volume_mounts:
            raise _Unsupported("this cell has no volume drivers", cellwork.Stage.VOLUMES)
        async with self._tools.creating:
            self._say("out", self._lines.creating)
            order = ContainerOrder(self.guid, definition, steps.sole_run(definition.action))
            return await self._tools.runtime.create(order)

    async def _run_steps(self) -> None:
        assert self._steps is not None
        try:
            error = await self._steps.run()
        except Exception:  # noqa: BLE001 - the driver's edge, as above
            self._log.exception("steps.broken")
            error = _BROKEN
        self.hear(cellwork.StepsEnded(error))

    async def _read_result(self) -> None:
        assert self._container is not None
        event: cellwork.Event = cellwork.ResultUnreadable()
        try:
            async with asyncio.timeout(limits.RESULT_READ_SECONDS_MAX):
                content = await self._container.read_result(self._result_path, limits.RESULT_BYTES_MAX)
            event = cellwork.ResultRead(content)
        except (ResultUnreadable, TimeoutError) as error:
            self._log.info("result.unreadable", path=self._result_path, error=str(error) or type(error).__name__)
        except Exception:  # noqa: BLE001 - the driver's edge, as above
            self._log.exception("result.broken", path=self._result_path)
        self.hear(event)

    async def _destroy(self) -> None:
        container = self._container
        assert container is not None
        if self._destroy_pause_seconds:
            await asyncio.sleep(self._destroy_pause_seconds)
        elif self._steps is not None:
            self._say("out", self._lines.stopping)
        event: cellwork.Event
        try:
            async with self._tools.destroying, asyncio.timeout(limits.DESTROY_SECONDS_MAX):
                self._say("out", self._lines.destroying)
                await container.destroy()
            self._say("out", self._lines.destroyed)
            event = cellwork.Destroyed()
        except Exception as error:  # noqa: BLE001 - the driver's edge, as above; it is tried again in any case
            self._say("out", self._lines.destroy_failed)
            expected = isinstance(error, DestroyFailed | TimeoutError)
            self._log.warning("container.destroy.failed", error=str(error), exc_info=not expected)
            pause = max(_DESTROY_PAUSE_SECONDS, 2 * self._destroy_pause_seconds)
            self._destroy_pause_seconds = min(pause, limits.DESTROY_PAUSE_SECONDS_MAX)
            event = cellwork.DestroyFailed()
        self.hear(event)

    def _say(self, stream: steps.StreamName, text: str) -> None:
        self._output.say(stream, self._source, text)


class _Unsupported(ContainerRefused):
    """What the definition asks for beside the container cannot be had here."""

    def __init__(self, text: str, stage: cellwork.Stage) -> None:
        super().__init__(text)
        self.stage = stage


_HELD_PHASES = {
    Phase.PREPARING: link_pb2.Held.STARTING,
    Phase.MADE: link_pb2.Held.STARTING,
    Phase.UNMADE: link_pb2.Held.STARTING,
    Phase.GRANTED: link_pb2.Held.RUNNING,
    Phase.RUNNING: link_pb2.Held.RUNNING,
    Phase.READING: link_pb2.Held.RUNNING,
    Phase.REPORTING: link_pb2.Held.REPORTING,
    Phase.WITHDRAWN: link_pb2.Held.LEAVING,
    Phase.STOPPING: link_pb2.Held.LEAVING,
    Phase.LEAVING: link_pb2.Held.LEAVING,
}
