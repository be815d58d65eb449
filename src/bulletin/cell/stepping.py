"""Runs the step tree of one task in its container: the driver of ``core.steps`` (design section 4, "the pure core").

Commands are carried out as they come; what becomes of them is the next event. Each process has a coroutine of its own
that spawns it and waits for it. The first of them runs in the task's own coroutine, so that a task with one process,
which is nearly every task, costs no further asyncio task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

import structlog

from bulletin.cell.logs import TaskLog
from bulletin.cell.runtime.api import Container, OutputSink, Process, ProcessRefused, Signal, Stream
from bulletin.core import steps
from bulletin.core.definition import TaskDefinition
from bulletin.core.limits import SPAWN_SECONDS_MAX

__all__ = ["StepRun"]

log = structlog.get_logger("bulletin.cell.stepping")

_NO_TRANSFERS = "this cell does not run download and upload actions yet"
_SIGNALS = {"TERM": Signal.TERM, "KILL": Signal.KILL}


@dataclass(slots=True)
class _Live:
    """A process from the command to spawn it until its end, or until nobody waits for it any more."""

    process: Process | None = None
    #: Its step has ended while it was being spawned: kill it as soon as it is there.
    doomed: bool = False
    #: Bounds what is being awaited for it now.
    bound: asyncio.Timeout | None = None


class StepRun:
    """One run of one task's tree. ``run`` may be called once, ``interrupt`` at any time before or during it.

    Cancelling ``run`` leaves processes behind; destroying the container ends them.
    """

    def __init__(
        self, guid: str, definition: TaskDefinition, container: Container, output: TaskLog, policy: steps.Policy
    ) -> None:
        self._definition = definition
        self._container = container
        self._output = output
        self._policy = policy
        self._log = log.bind(task_guid=guid)
        self._tree: steps.Tree | None = None
        self._events: deque[steps.Event] = deque()
        self._hearing = False
        self._interrupted = False
        self._live: dict[int, _Live] = {}
        self._timers: dict[tuple[int, steps.TimerName], asyncio.TimerHandle] = {}
        self._others: set[asyncio.Task[None]] = set()
        #: The spawn that ``run`` itself does next; only while ``_inline_free`` may one be put there.
        self._inline: steps.SpawnProcess | None = None
        self._inline_free = False
        self._wake: asyncio.Future[None] | None = None
        self._finished: steps.Finished | None = None
        #: A defect that came up in a coroutine of a process.
        self._broken: BaseException | None = None

    async def run(self) -> str | None:
        """Run the tree to its end.

        Returns:
            The failure reason, None for success.
        """
        if self._interrupted:
            return steps.CANCELLED.text
        definition = self._definition
        self._tree, commands = steps.begin(
            definition.action, log_source=definition.log_source, log_guid=definition.log_guid
        )
        self._inline_free = True
        self._carry_out(commands)
        self._hear_queued()
        self._inline_free = False
        try:
            while self._finished is None:
                if self._broken is not None:
                    raise self._broken
                if self._inline is not None:
                    command, self._inline = self._inline, None
                    await self._process(command, inline=True)
                else:
                    self._wake = asyncio.get_running_loop().create_future()
                    await self._wake
        finally:
            await self._let_go()
        return self._finished.error

    def interrupt(self) -> None:
        """Give the tree its one signal."""
        self._interrupted = True
        if self._tree is not None:
            self._hear(steps.Interrupt())

    # -- events and commands ---------------------------------------------------------------------------------------

    def _hear(self, event: steps.Event) -> None:
        self._events.append(event)
        self._hear_queued()

    def _hear_queued(self) -> None:
        """Take events until there are none; one that comes up meanwhile waits for its turn."""
        if self._hearing:
            return
        assert self._tree is not None
        self._hearing = True
        try:
            while self._events:
                self._tree, commands = steps.advance(self._tree, self._events.popleft(), self._policy)
                self._carry_out(commands)
        finally:
            self._hearing = False

    def _carry_out(self, commands: tuple[steps.Command, ...]) -> None:
        for command in commands:
            match command:
                case steps.SpawnProcess():
                    self._spawn(command)
                case steps.SignalProcess():
                    self._signal(command)
                case steps.StartDownload(step) | steps.StartUpload(step):
                    fault = steps.TransferFault.REFUSED
                    self._events.append(steps.TransferEnded(step, fault=fault, text=_NO_TRANSFERS))
                case steps.CancelTransfer():
                    pass  # it has ended already, see above
                case steps.SetTimer():
                    self._set_timer(command)
                case steps.ClearTimer(step, name):
                    self._timers.pop((step, name)).cancel()
                case steps.Emit(step, source, stream, text):
                    self._output.write(step, stream, source, text.encode("utf-8", "replace"))
                case steps.Ready():
                    self._log.debug("task.ready")
                case steps.Finished():
                    self._finish(command)

    def _spawn(self, command: steps.SpawnProcess) -> None:
        self._live[command.step] = _Live()
        if self._inline_free and self._inline is None:
            self._inline = command
            return
        task = asyncio.create_task(self._process(command, inline=False))
        self._others.add(task)
        task.add_done_callback(self._other_done)

    def _signal(self, command: steps.SignalProcess) -> None:
        live = self._live.get(command.step)
        if live is None:
            return
        if live.process is not None:
            live.process.signal(_SIGNALS[command.signal])
            return
        live.doomed = True
        self._hurry(live, self._policy.kill_seconds)

    def _set_timer(self, command: steps.SetTimer) -> None:
        handle = asyncio.get_running_loop().call_later(command.seconds, self._fire, command)
        self._timers[command.step, command.name] = handle

    def _fire(self, timer: steps.SetTimer) -> None:
        del self._timers[timer.step, timer.name]
        self._hear(steps.TimerFired(timer.step, timer.name))

    def _finish(self, command: steps.Finished) -> None:
        self._finished = command
        for live in self._live.values():
            self._hurry(live, 0.0)
        self._rouse()

    # -- processes -------------------------------------------------------------------------------------------------

    async def _process(self, command: steps.SpawnProcess, *, inline: bool) -> None:
        """Spawn a process, wait for its end, tell the tree of both."""
        step = command.step
        live = self._live[step]
        event: steps.Event | None = None
        if not live.doomed:
            event = await self._spawn_and_wait(command, live)
        del self._live[step]
        if inline:
            self._inline_free = True
        if event is not None:
            self._hear(event)
        if inline:
            self._inline_free = False
        self._output.end(step)

    async def _spawn_and_wait(self, command: steps.SpawnProcess, live: _Live) -> steps.Event | None:
        """How it ended; None when the tree had given it up before."""
        step = command.step
        # Before, not after: a cell that dies in between has told of every process that may have run.
        self._log.info("process.started", step=step)
        try:
            async with asyncio.timeout(SPAWN_SECONDS_MAX) as live.bound:
                live.process = await self._container.spawn(command.run, self._sink(command))
        except ProcessRefused as error:
            return steps.SpawnFailed(step, str(error))
        except TimeoutError:
            return steps.SpawnFailed(step, f"the process did not start within {SPAWN_SECONDS_MAX:.0f} seconds")
        except Exception:  # noqa: BLE001 - the driver's edge: a defect below fails this task and no other (S13)
            self._log.exception("process.spawn.broken", step=step)
            return steps.SpawnFailed(step, "internal error of the cell")
        if live.doomed:
            live.process.signal(Signal.KILL)
        else:
            self._hear(steps.Spawned(step))
        return await self._wait(step, live, live.process)

    async def _wait(self, step: int, live: _Live, process: Process) -> steps.Event | None:
        try:
            async with asyncio.timeout(self._policy.kill_seconds if live.doomed else None) as live.bound:
                ended = await process.wait()
        except Exception as error:  # noqa: BLE001 - the driver's edge, as above
            assert live.bound is not None
            if isinstance(error, TimeoutError) and live.bound.expired():
                return None
            self._log.exception("process.wait.broken", step=step)
            return steps.WaitFailed(step, "internal error of the cell")
        return steps.Exited(step, ended.status, ended.out_of_memory)

    def _sink(self, command: steps.SpawnProcess) -> OutputSink:
        if command.run.suppress_log_output:
            return _discard
        write, step, source = self._output.write, command.step, command.log_source

        def sink(stream: Stream, data: bytes) -> None:
            write(step, "out" if stream is Stream.OUT else "err", source, data)

        return sink

    def _hurry(self, live: _Live, seconds: float) -> None:
        """Let what is awaited for a process take no longer than ``seconds`` from now."""
        if live.bound is not None and not live.bound.expired():
            live.bound.reschedule(asyncio.get_running_loop().time() + seconds)

    def _other_done(self, task: asyncio.Task[None]) -> None:
        self._others.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._broken = task.exception()
            self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _let_go(self) -> None:
        for handle in self._timers.values():
            handle.cancel()
        if self._others:
            # Each is bounded: Finished has hurried it, and if there was none, this was cancelled or is broken.
            if self._finished is None:
                for task in self._others:
                    task.cancel()
            await asyncio.wait(self._others)


def _discard(_stream: Stream, _data: bytes) -> None:
    """The sink of an action that suppresses its output."""
