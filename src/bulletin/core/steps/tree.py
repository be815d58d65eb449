"""The state of a step tree: what never changes (the plan), what does (the nodes), and both as data.

Steps are numbered in the order the tree is read, so that a number means the same step in every process that reads
the same definition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

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
from bulletin.core.steps.values import ErrorKind, StepError

__all__ = ["DEFAULT_LOG_SOURCE", "Node", "Phase", "PlannedStep", "Tree", "from_data", "plan", "sole_run", "to_data"]

DEFAULT_LOG_SOURCE = "LOG"
_DATA_VERSION = 1


class Phase(Enum):
    """Where one step stands."""

    WAITING = "waiting"
    #: run: the process is being created.
    SPAWNING = "spawning"
    #: run: the process runs. Any other action: it has begun.
    RUNNING = "running"
    #: run: SIGTERM was sent.
    STOPPING = "stopping"
    #: run: SIGKILL was sent.
    KILLING = "killing"
    #: timeout: its time ran out, it waits for its child.
    EXPIRED = "expired"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """What never changes of a step."""

    action: Action
    #: None at the root.
    parent: int | None
    children: tuple[int, ...]
    #: The source of its own lines and of its process's (cell.md 2.10).
    log_source: str


@dataclass(frozen=True, slots=True)
class Node:
    """What changes of a step."""

    phase: Phase = Phase.WAITING
    interrupted: bool = False
    #: Set when ENDED; None is success.
    error: StepError | None = None
    #: Its ended children in the order they ended; kept by codependent only.
    ended_children: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Tree:
    """A step tree at one moment."""

    plan: tuple[PlannedStep, ...] = field(repr=False)
    nodes: tuple[Node, ...]
    #: Whether Ready was said.
    ready: bool = False

    @property
    def finished(self) -> bool:
        """Whether Finished was said."""
        return self.nodes[0].phase is Phase.ENDED


def plan(root: Action, *, log_source: str, log_guid: str) -> tuple[PlannedStep, ...]:
    """Number the steps of ``root`` and work out their log sources from the task's ``log_source`` and ``log_guid``."""
    steps: list[PlannedStep | None] = []

    def add(action: Action, parent: int | None, inherited: str) -> int:
        number = len(steps)
        steps.append(None)
        own = action.log_source or inherited
        # serial and emit_progress keep their log_source from their children (cell.md 2.10).
        passed_on = inherited if isinstance(action, SerialAction | EmitProgressAction) else own
        children = tuple(add(child, number, passed_on) for child in _children(action))
        # Without a log_guid nobody reads the lines, and the source is fixed (cell.md 2.2).
        steps[number] = PlannedStep(action, parent, children, own if log_guid else DEFAULT_LOG_SOURCE)
        return number

    add(root, None, log_source or DEFAULT_LOG_SOURCE)
    return tuple(step for step in steps if step is not None)


def sole_run(root: Action) -> RunAction | None:
    """The run action of a tree that starts exactly one process and moves no files; else None.

    Only then may the container be made with that process as its own: whatever happens, it is started once or never,
    and nothing needs the container before it or after it.
    """
    runs: list[RunAction] = []
    left: list[Action] = [root]
    while left:
        action = left.pop()
        if isinstance(action, DownloadAction | UploadAction):
            return None
        if isinstance(action, RunAction):
            runs.append(action)
        left.extend(_children(action))
    return runs[0] if len(runs) == 1 else None


def to_data(tree: Tree) -> dict[str, Any]:
    """What changes of ``tree`` as values JSON can carry; the actions are not in it, they stand in the definition."""
    return {
        "version": _DATA_VERSION,
        "ready": tree.ready,
        "nodes": [
            [
                node.phase.value,
                node.interrupted,
                None if node.error is None else [node.error.kind.value, node.error.text],
                list(node.ended_children),
            ]
            for node in tree.nodes
        ],
    }


def from_data(data: Mapping[str, Any], root: Action, *, log_source: str, log_guid: str) -> Tree:
    """The tree that ``to_data`` told of, over the same ``root``.

    Raises:
        ValueError: the data is of another version or of another tree.
    """
    if data.get("version") != _DATA_VERSION:
        msg = f"step data of version {data.get('version')!r}, not {_DATA_VERSION}"
        raise ValueError(msg)
    planned = plan(root, log_source=log_source, log_guid=log_guid)
    nodes = tuple(_node(row) for row in data["nodes"])
    if len(nodes) != len(planned):
        msg = f"step data of {len(nodes)} steps for a tree of {len(planned)}"
        raise ValueError(msg)
    return Tree(planned, nodes, bool(data["ready"]))


def _node(row: Sequence[Any]) -> Node:
    phase, interrupted, error, ended_children = row
    return Node(
        Phase(phase),
        bool(interrupted),
        None if error is None else StepError(error[1], ErrorKind(error[0])),
        tuple(ended_children),
    )


def _children(action: Action) -> tuple[Action, ...]:
    if isinstance(action, SerialAction | ParallelAction | CodependentAction):
        return action.actions
    if isinstance(action, TimeoutAction | EmitProgressAction | TryAction):
        return (action.action,)
    return ()
