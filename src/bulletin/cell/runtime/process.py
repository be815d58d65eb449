"""One process of a container: its end, its output, its signals."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from bulletin.cell.runtime.api import OutputSink, ProcessExit, Signal, Stream
from bulletin.cell.runtime.spawn import Child, PipeReader
from bulletin.core import limits

__all__ = ["ContainerProcess", "init_runs"]

_SIGNALS: Final = {Signal.TERM: signal.SIGTERM, Signal.KILL: signal.SIGKILL}
_RETRY_SECONDS: Final = 0.002


class ContainerProcess:
    """An ``api.Process``."""

    def __init__(
        self,
        child: Child,
        outputs: dict[Stream, int],
        sink: OutputSink,
        out_of_memory: Callable[[], bool],
        *,
        is_init: bool,
    ) -> None:
        """Begin to read its output.

        Args:
            child: the process, or the init that runs it alone and ends as it does.
            outputs: the reading side of each pipe; they belong to this object from now on.
            sink: gets the output.
            out_of_memory: tells whether the container had an out-of-memory kill.
            is_init: whether ``child`` is the container's init.
        """
        self.child = child
        self._readers = [PipeReader(fd, partial(sink, stream)) for stream, fd in outputs.items()]
        self._out_of_memory = out_of_memory
        # Other processes have no handlers to wait for.
        self._takes_signals = not is_init

    async def wait(self) -> ProcessExit:
        """See ``api.Process``."""
        status = await self.child.wait()
        out_of_memory = self._out_of_memory()
        # Of a container whose init has ended nobody is left to write; of another, somebody may hold the pipe open.
        deadline = time.monotonic() + limits.OUTPUT_DRAIN_SECONDS_MAX
        for reader in self._readers:
            await reader.finish(max(0.0, deadline - time.monotonic()))
        return ProcessExit(status, out_of_memory)

    def signal(self, signal: Signal) -> None:
        """See ``api.Process``."""
        if signal is Signal.TERM and not self._ready():
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self.signal, signal)
        else:
            self.child.signal(_SIGNALS[signal])

    def close(self) -> None:
        """Stop reading; what has not been read is lost."""
        for reader in self._readers:
            reader.close()

    def _ready(self) -> bool:
        """Whether a SIGTERM reaches it: the kernel throws away what the init of a pid namespace has no use for."""
        if not self._takes_signals:
            self._takes_signals = self.child.ended or init_runs(self.child.pid)
        return self._takes_signals


def init_runs(pid: int) -> bool:
    """Whether the init of a container is itself by now; for its first millisecond it is still the engine.

    It shows by the signals it blocks, which it reads from a descriptor. True when it is gone.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError:
        return True
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "SigBlk":
            return bool(int(value, 16) >> (signal.SIGTERM - 1) & 1)
    return True
