"""How a step tree moves: ``begin`` starts it, ``advance`` takes one event (cell.md section 2).

Rules: nothing here waits; timers, processes and transfers are commands, and what becomes of them are events. A step
ends once. An event for a step that has ended is ignored, because a process may exit while its end is being given up.
Down the tree (starting, interrupting) the code recurses, bounded by ``ACTION_DEPTH_MAX``; up the tree it queues, so
that a parent hears of its children in the order they ended.

Where we differ from the reference, which hangs (cell.md section 12, 33): a timeout that was interrupted from above
drops its timer and passes its child's result on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from bulletin.core.actions import (
    Action,
    CodependentAction,
    DownloadAction,
    EmitProgressAction,
    ParallelAction,
    RunAction,
    SerialAction,
    TimeoutAction,
    TryAction,
    UploadAction,
)
from bulletin.core.steps.texts import duration_text
from bulletin.core.steps.transfers import download_end, started_line, upload_end
from bulletin.core.steps.tree import Node, Phase, PlannedStep, Tree, plan
from bulletin.core.steps.values import (
    CancelTransfer,
    ClearTimer,
    Command,
    Emit,
    ErrorKind,
    Event,
    Exited,
    Finished,
    Interrupt,
    Policy,
    Ready,
    SetTimer,
    SignalProcess,
    Spawned,
    SpawnFailed,
    SpawnProcess,
    StartDownload,
    StartUpload,
    StepError,
    StreamName,
    TimerFired,
    TimerName,
    TransferEnded,
    TransferStarted,
    WaitFailed,
)

__all__ = ["CANCELLED", "CODEPENDENT_EXITED", "KILLED", "UnexpectedEvent", "advance", "begin"]

CANCELLED = StepError("cancelled", ErrorKind.HIDDEN)
KILLED = StepError("exceeded graceful shutdown interval", ErrorKind.HIDDEN)
CODEPENDENT_EXITED = StepError("Codependent step exited")
_DID_NOT_EXIT = StepError("process did not exit")
_JOINT = "; "


class UnexpectedEvent(Exception):
    """An event that its step cannot have caused where it stands: a defect of the driver."""


def begin(root: Action, *, log_source: str, log_guid: str) -> tuple[Tree, tuple[Command, ...]]:
    """Start the tree of ``root``; ``log_source`` and ``log_guid`` are the task's."""
    planned = plan(root, log_source=log_source, log_guid=log_guid)
    machine = _Machine(Tree(planned, tuple(Node() for _ in planned)), Policy())
    machine.start(0)
    return machine.settle()


def advance(tree: Tree, event: Event, policy: Policy) -> tuple[Tree, tuple[Command, ...]]:
    """Take ``event``; return the tree after it and what to do, in order.

    Raises:
        UnexpectedEvent: the step could not have caused it; ``tree`` is as it was.
    """
    machine = _Machine(tree, policy)
    if isinstance(event, Interrupt):
        machine.interrupt(0)
    else:
        machine.hear(event)
    return machine.settle()


class _Machine:
    """One turn of a tree: a copy of its nodes to write on, and the commands that come of it."""

    def __init__(self, tree: Tree, policy: Policy) -> None:
        self._tree = tree
        self._plan = tree.plan
        self._nodes = list(tree.nodes)
        self._policy = policy
        self._commands: list[Command] = []
        self._ended: deque[int] = deque()

    # -- the ways in ----------------------------------------------------------------------------------------------

    def start(self, step: int) -> None:
        """Begin a step that waits."""
        planned = self._plan[step]
        self._set(step, Phase.SPAWNING if isinstance(planned.action, RunAction) else Phase.RUNNING)
        _START[type(planned.action)](self, step, planned)

    def interrupt(self, step: int) -> None:
        """Give a step the one signal; one that waits, has ended or was given it before hears nothing."""
        node = self._nodes[step]
        if node.interrupted or node.phase in {Phase.WAITING, Phase.ENDED}:
            return
        self._nodes[step] = replace(node, interrupted=True)
        action = self._plan[step].action
        if isinstance(action, RunAction):
            self._interrupt_run(step, node.phase)
        elif isinstance(action, DownloadAction | UploadAction):
            self._do(CancelTransfer(step))
            self._end(step, CANCELLED)
        else:
            if isinstance(action, TimeoutAction) and node.phase is Phase.RUNNING:
                self._do(ClearTimer(step, TimerName.TIMEOUT))
            self._interrupt_children(step)

    def hear(self, event: Event) -> None:
        """Take an event that names a step."""
        assert not isinstance(event, Interrupt)
        if not 0 <= event.step < len(self._nodes):
            raise UnexpectedEvent(f"{event} for a tree of {len(self._nodes)} steps")
        phase = self._nodes[event.step].phase
        if phase is Phase.ENDED:
            return
        if isinstance(event, TimerFired):
            self._timer_fired(event, phase)
        elif isinstance(event, Spawned | SpawnFailed | Exited | WaitFailed):
            self._process_event(event, phase)
        else:
            self._transfer_event(event, phase)

    def settle(self) -> tuple[Tree, tuple[Command, ...]]:
        """Tell the parents of all that has ended, and hand out what came of the turn."""
        while self._ended:
            step = self._ended.popleft()
            parent = self._plan[step].parent
            if parent is not None and self._nodes[parent].phase is not Phase.ENDED:
                _CHILD_ENDED[type(self._plan[parent].action)](self, parent, step)
        ready = self._tree.ready
        root = self._nodes[0]
        if root.phase is Phase.ENDED:
            if not self._tree.finished:
                text = "" if root.error is None else root.error.text
                self._do(Finished(text or None))
        elif not ready and self._is_ready(0):
            ready = True
            self._do(Ready())
        return Tree(self._plan, tuple(self._nodes), ready), tuple(self._commands)

    # -- starting -------------------------------------------------------------------------------------------------

    def start_run(self, step: int, planned: PlannedStep) -> None:
        assert isinstance(planned.action, RunAction)
        self._do(SpawnProcess(step, planned.action, planned.log_source))

    def start_download(self, step: int, planned: PlannedStep) -> None:
        assert isinstance(planned.action, DownloadAction)
        self._do(StartDownload(step, planned.action, planned.log_source))

    def start_upload(self, step: int, planned: PlannedStep) -> None:
        assert isinstance(planned.action, UploadAction)
        self._do(StartUpload(step, planned.action, planned.log_source))

    def start_timeout(self, step: int, planned: PlannedStep) -> None:
        assert isinstance(planned.action, TimeoutAction)
        self._do(SetTimer(step, TimerName.TIMEOUT, planned.action.timeout_ms / 1000))
        self.start(planned.children[0])

    def start_progress(self, step: int, planned: PlannedStep) -> None:
        assert isinstance(planned.action, EmitProgressAction)
        if planned.action.start_message:
            self._emit(step, "out", planned.action.start_message)
        self.start(planned.children[0])

    def start_first(self, step: int, planned: PlannedStep) -> None:
        if planned.children:
            self.start(planned.children[0])
        else:
            self._end(step, None)

    def start_all(self, step: int, planned: PlannedStep) -> None:
        for child in planned.children:
            self.start(child)
        if not planned.children:
            self._end(step, None)

    # -- processes ------------------------------------------------------------------------------------------------

    def _interrupt_run(self, step: int, phase: Phase) -> None:
        if phase is Phase.SPAWNING:
            # It ends here and now, and whatever is still being made is killed as soon as it is there.
            self._do(SignalProcess(step, "KILL"))
            self._end(step, CANCELLED)
            return
        self._set(step, Phase.STOPPING)
        self._do(SignalProcess(step, "TERM"))
        self._do(SetTimer(step, TimerName.GRACEFUL, self._policy.graceful_shutdown_seconds))

    def _process_event(self, event: Spawned | SpawnFailed | Exited | WaitFailed, phase: Phase) -> None:
        action = self._plan[event.step].action
        spawning = isinstance(event, Spawned | SpawnFailed)
        if not isinstance(action, RunAction) or spawning is not (phase is Phase.SPAWNING) or phase is Phase.WAITING:
            raise UnexpectedEvent(f"{event} in phase {phase.value} of {type(action).__name__}")
        if isinstance(event, Spawned):
            self._set(event.step, Phase.RUNNING)
            return
        if isinstance(event, SpawnFailed):
            self._say(event.step, action, f"failed-creating-process: {event.text}")
            self._end(event.step, StepError(event.text))
            return
        if phase in _RUN_TIMERS:
            self._do(ClearTimer(event.step, _RUN_TIMERS[phase]))
        if isinstance(event, WaitFailed):
            self._end(event.step, StepError(event.text))
        else:
            self._exited(event, action, phase)

    def _exited(self, event: Exited, action: RunAction, phase: Phase) -> None:
        suffix = " (out of memory)" if event.status and event.out_of_memory else ""
        if phase is Phase.KILLING:
            interval = duration_text(round(self._policy.graceful_shutdown_seconds * 1e9))
            suffix = f" (exceeded {interval} graceful shutdown interval)"
        self._say(event.step, action, f"Exit status {event.status}{suffix}")
        if phase is Phase.KILLING:
            self._end(event.step, KILLED)
        elif phase is Phase.STOPPING:
            self._end(event.step, CANCELLED)
        elif event.status == 0:
            self._end(event.step, None)
        else:
            text = f"{self._plan[event.step].log_source}: Exited with status {event.status}{suffix}"
            self._end(event.step, StepError(text, ErrorKind.EMITTABLE))

    def _say(self, step: int, action: RunAction, text: str) -> None:
        if not action.suppress_log_output:
            self._emit(step, "out", text)

    # -- timers ---------------------------------------------------------------------------------------------------

    def _timer_fired(self, event: TimerFired, phase: Phase) -> None:
        step = event.step
        action = self._plan[step].action
        if isinstance(action, TimeoutAction):
            if event.name is TimerName.TIMEOUT and phase is Phase.RUNNING and not self._nodes[step].interrupted:
                self._set(step, Phase.EXPIRED)
                self._interrupt_children(step)
        elif event.name is TimerName.GRACEFUL and phase is Phase.STOPPING:
            self._set(step, Phase.KILLING)
            self._do(SignalProcess(step, "KILL"))
            self._do(SetTimer(step, TimerName.KILL, self._policy.kill_seconds))
        elif event.name is TimerName.KILL and phase is Phase.KILLING:
            self._end(step, _DID_NOT_EXIT)

    # -- transfers ------------------------------------------------------------------------------------------------

    def _transfer_event(self, event: TransferStarted | TransferEnded, phase: Phase) -> None:
        step = event.step
        action = self._plan[step].action
        if not isinstance(action, DownloadAction | UploadAction) or phase is Phase.WAITING:
            raise UnexpectedEvent(f"{event} in phase {phase.value} of {type(action).__name__}")
        if isinstance(event, TransferStarted):
            if action.artifact:
                self._emit(step, "out", started_line(action))
            return
        if event.cancelled:
            self._end(step, CANCELLED)
            return
        ended = download_end(action, event) if isinstance(action, DownloadAction) else upload_end(action, event)
        if ended.line:
            self._emit(step, ended.stream, ended.line)
        self._end(step, ended.error)

    # -- parents --------------------------------------------------------------------------------------------------

    def timeout_child_ended(self, step: int, child: int) -> None:
        node, error = self._nodes[step], self._nodes[child].error
        if node.phase is not Phase.EXPIRED:
            if not node.interrupted:
                self._do(ClearTimer(step, TimerName.TIMEOUT))
            self._end(step, error)
            return
        action = self._plan[step].action
        assert isinstance(action, TimeoutAction)
        text = f"exceeded {duration_text(action.timeout_ms * 1_000_000)} timeout"
        if error is not None and error.kind is ErrorKind.EMITTABLE:
            text += _JOINT + error.text
        self._end(step, StepError(text, ErrorKind.EMITTABLE))

    def progress_child_ended(self, step: int, child: int) -> None:
        action, error = self._plan[step].action, self._nodes[child].error
        assert isinstance(action, EmitProgressAction)
        if error is None:
            if action.success_message:
                self._emit(step, "out", action.success_message)
        elif action.failure_message_prefix:
            shown = f": {error.text}" if error.kind is ErrorKind.EMITTABLE else ""
            self._emit(step, "err", action.failure_message_prefix + shown)
        self._end(step, error)

    def try_child_ended(self, step: int, _child: int) -> None:
        self._end(step, None)

    def serial_child_ended(self, step: int, child: int) -> None:
        children, error = self._plan[step].children, self._nodes[child].error
        if error is not None or self._nodes[step].interrupted or child == children[-1]:
            self._end(step, error)
        else:
            self.start(children[children.index(child) + 1])

    def parallel_child_ended(self, step: int, _child: int) -> None:
        nodes = [self._nodes[child] for child in self._plan[step].children]
        if all(node.phase is Phase.ENDED for node in nodes):
            self._end(step, _join([node.error for node in nodes]))

    def codependent_child_ended(self, step: int, child: int) -> None:
        children = self._plan[step].children
        node = self._nodes[step]
        node = replace(node, ended_children=(*node.ended_children, child))
        self._nodes[step] = node
        if len(node.ended_children) == 1:
            self._interrupt_children(step)
        if len(node.ended_children) == len(children):
            self._end(step, _join([self._nodes[ended].error or CODEPENDENT_EXITED for ended in node.ended_children]))

    # -- small things ---------------------------------------------------------------------------------------------

    def _interrupt_children(self, step: int) -> None:
        for child in self._plan[step].children:
            self.interrupt(child)

    def _is_ready(self, step: int) -> bool:
        phase = self._nodes[step].phase
        planned = self._plan[step]
        if phase in {Phase.WAITING, Phase.SPAWNING}:
            return False
        if phase is Phase.ENDED or not planned.children:
            return True
        if isinstance(planned.action, SerialAction):
            return self._is_ready(planned.children[-1])
        return all(self._is_ready(child) for child in planned.children)

    def _end(self, step: int, error: StepError | None) -> None:
        node = self._nodes[step]
        self._nodes[step] = Node(Phase.ENDED, node.interrupted, error, node.ended_children)
        self._ended.append(step)

    def _set(self, step: int, phase: Phase) -> None:
        node = self._nodes[step]
        self._nodes[step] = Node(phase, node.interrupted, node.error, node.ended_children)

    def _emit(self, step: int, stream: StreamName, text: str) -> None:
        self._do(Emit(step, self._plan[step].log_source, stream, text + "\n"))

    def _do(self, command: Command) -> None:
        self._commands.append(command)


def _join(errors: list[StepError | None]) -> StepError | None:
    """All that failed as one plain error; its text may be empty (cell.md 2.1, 2.8, 2.9)."""
    failed = [error for error in errors if error is not None]
    if not failed:
        return None
    return StepError(_JOINT.join(error.text for error in failed if error.kind is not ErrorKind.HIDDEN and error.text))


_RUN_TIMERS = {Phase.STOPPING: TimerName.GRACEFUL, Phase.KILLING: TimerName.KILL}

_START: dict[type[Action], Callable[[_Machine, int, PlannedStep], None]] = {
    RunAction: _Machine.start_run,
    DownloadAction: _Machine.start_download,
    UploadAction: _Machine.start_upload,
    TimeoutAction: _Machine.start_timeout,
    EmitProgressAction: _Machine.start_progress,
    TryAction: _Machine.start_first,
    SerialAction: _Machine.start_first,
    ParallelAction: _Machine.start_all,
    CodependentAction: _Machine.start_all,
}

_CHILD_ENDED: dict[type[Action], Callable[[_Machine, int, int], None]] = {
    TimeoutAction: _Machine.timeout_child_ended,
    EmitProgressAction: _Machine.progress_child_ended,
    TryAction: _Machine.try_child_ended,
    SerialAction: _Machine.serial_child_ended,
    ParallelAction: _Machine.parallel_child_ended,
    CodependentAction: _Machine.codependent_child_ended,
}
