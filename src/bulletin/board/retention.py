"""Removes delivered tasks when their retention ends (design section 6).

Removals due at about the same time are made together: they then share a commit, and the loop is woken a few times a
second rather than once a task. Convergence removes what is missed here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import structlog

from bulletin.board.writer import Writer
from bulletin.core import limits
from bulletin.core.errors import TaskError
from bulletin.core.model import Task, TaskState
from bulletin.core.operations import Delete
from bulletin.seams import Clock

__all__ = ["Retention"]

log = structlog.get_logger("bulletin.board.callbacks")

#: A task may stay so much longer than it has to.
_TOGETHER_SECONDS: Final = 0.05


class Retention:
    """The delivered tasks that can still be read, in the order of their delivery."""

    def __init__(self, writer: Writer, clock: Clock, retention_seconds: float) -> None:
        self._writer = writer
        self._clock = clock
        self._retention_seconds = retention_seconds
        #: When each is due (monotonic seconds), and the guid and delivery it is about.
        self._kept: deque[tuple[float, str, int]] = deque()
        self._wake = asyncio.Event()

    def keep(self, task: Task) -> None:
        """A task was delivered; it is removed when its retention ends."""
        age_seconds = (self._clock.now_ns() - task.delivered_at) / 1e9
        due = self._clock.monotonic() + max(self._retention_seconds - age_seconds, 0.0)
        self._kept.append((due, task.guid, task.delivered_at))
        if len(self._kept) == 1:
            self._wake.set()

    async def run(self) -> None:
        """Remove what is due, for ever; begins with what an earlier board delivered."""
        delivered = [task for task in self._writer.tasks.values() if task.delivered_at]
        for task in sorted(delivered, key=lambda task: task.delivered_at):
            self.keep(task)
        while True:
            if not self._kept:
                self._wake.clear()
                await self._wake.wait()
            wait_seconds = self._kept[0][0] - self._clock.monotonic()
            if wait_seconds > 0:
                await asyncio.sleep(max(wait_seconds, _TOGETHER_SECONDS))
            await self._remove_due()

    async def _remove_due(self) -> None:
        """Remove some of what is due, and wait until that is durable: a long backlog never fills the writer's queue."""
        now = self._clock.monotonic()
        durable: asyncio.Future[None] | None = None
        try:
            for _ in range(min(len(self._kept), limits.CALLBACK_REMOVALS_MAX)):
                due, guid, delivered_at = self._kept[0]
                if due > now:
                    break
                self._kept.popleft()
                task = self._writer.tasks.get(guid)
                if task is not None and task.delivered_at == delivered_at and task.state is TaskState.RESOLVING:
                    _, durable = self._writer.submit(Delete(guid))
            if durable is not None:
                await durable
        except TaskError as error:
            log.info("callback.removal.refused", error=error.message)
