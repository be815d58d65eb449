"""What the agent asks of the container room; the real one stands in ``runtime.containers``, tests bring false ones.

One container per task. Its processes are spawned one by one; a container whose tree runs exactly one process may be
made with that process as its own, which saves a whole exec. User code runs only after ``Container.spawn``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from bulletin.core.actions import RunAction
from bulletin.core.definition import TaskDefinition

__all__ = [
    "Container",
    "ContainerOrder",
    "ContainerRefused",
    "DestroyFailed",
    "OutputSink",
    "Process",
    "ProcessExit",
    "ProcessRefused",
    "ResultUnreadable",
    "Runtime",
    "Signal",
    "Stream",
]


class Stream(Enum):
    """Which of a process's outputs."""

    OUT = "out"
    ERR = "err"


class Signal(Enum):
    """The two a step tree sends."""

    TERM = "TERM"
    KILL = "KILL"


#: Called on the loop with raw bytes as they come; must not block. Never called again once ``Process.wait`` returned.
OutputSink = Callable[[Stream, bytes], None]


class ContainerRefused(Exception):
    """The container could not be made: image, mounts, runtime. The text is shown to users; another try may help."""


class ProcessRefused(Exception):
    """A process could not be started: no such user or program, a limit. The text is shown to users."""


class ResultUnreadable(Exception):
    """The result file is missing, too large or cannot be read; the text is for the cell's own log."""


class DestroyFailed(Exception):
    """Something of the container is still there; ``destroy`` may be called again."""


@dataclass(frozen=True, slots=True)
class ContainerOrder:
    """What to make."""

    #: The task's guid: ``[A-Za-z0-9_-]{1,255}``; the container's hostname (cut to 64) and the name it is found by.
    guid: str
    definition: TaskDefinition
    #: The only process the tree will ever run, when there is exactly one; the container may be made with it.
    sole_run: RunAction | None


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """How a process ended."""

    #: 0 to 255; 128 + signal for a signalled process.
    status: int
    #: Whether the container had an out-of-memory kill by now (cell.md 2.2).
    out_of_memory: bool = False


class Process(Protocol):
    """One running process of a container."""

    async def wait(self) -> ProcessExit:
        """Wait for its end and for the last of its output. May be called once."""
        ...

    def signal(self, signal: Signal) -> None:
        """Signal it; nothing happens when it has ended."""
        ...


class Container(Protocol):
    """A container that was made; no user code has run in it yet."""

    async def spawn(self, run: RunAction, output: OutputSink) -> Process:
        """Start a process in it with the environment of cell.md section 6.

        Raises:
            ProcessRefused: it could not be started.
        """
        ...

    async def read_result(self, path: str, bytes_max: int) -> bytes:
        """Read the result file (cell.md section 4) without ever leaving the rootfs. Kills what still runs first.

        Raises:
            ResultUnreadable: missing, over ``bytes_max`` or unreadable.
        """
        ...

    async def destroy(self) -> None:
        """Kill everything in it and remove every trace. Idempotent.

        Raises:
            DestroyFailed: something is left.
        """
        ...


class Runtime(Protocol):
    """Makes containers on this machine."""

    async def open(self) -> None:
        """Probe the machine, choose the engine by a self-test, remove what an earlier process left behind.

        Raises:
            RuntimeUnusable: no engine works here; the text says what to do.
        """
        ...

    async def create(self, order: ContainerOrder) -> Container:
        """Make a container: image, root file system, limits, namespaces. Cancelling it leaves nothing behind.

        Raises:
            ContainerRefused: it could not be made; nothing is left behind.
        """
        ...

    async def close(self) -> None:
        """Destroy what is left and let go of everything. Idempotent."""
        ...


class RuntimeUnusable(Exception):
    """No container can run on this machine; the text names what is missing and the command that mends it."""
