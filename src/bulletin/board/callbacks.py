"""Tells completion callbacks (board-api.md section 8, design section 6).

Taking a task to Resolving is what makes one resolver (S8): who cannot, stops. What an attempt's outcome means is
``core.callbacks``'s; this makes the attempts, each bounded in time, size and redirects, and records every one of them
with its task. A delivered task stays readable for ``resolved_retention`` and is then removed. A task left Resolving is
found again by convergence.

Tasks wait in a lane for each origin, and the lanes take turns: an origin that answers slowly, or never, holds a part
of the workers and delays nobody else (S13).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Protocol

import structlog

from bulletin.board.dialling import Dialler
from bulletin.board.posting import Answer, Pool
from bulletin.board.retention import Retention
from bulletin.board.settings import BoardSettings
from bulletin.board.writer import Writer
from bulletin.core import callbacks, limits
from bulletin.core.errors import TaskError
from bulletin.core.model import CallbackAttempt, Task, TaskState
from bulletin.core.operations import Deliver, RecordAttempts, Resolving
from bulletin.seams import Clock
from bulletin.wire.callback import callback_body
from bulletin.wire.http1 import Origin, Target, encode_request

__all__ = ["Callbacks", "Observer"]

log = structlog.get_logger("bulletin.board.callbacks")


class Observer(Protocol):
    """Who counts callbacks."""

    def called_back(self, outcome: callbacks.Outcome, seconds: float) -> None:
        """An attempt ended after ``seconds``."""
        ...


class _Lane:
    """The tasks whose callbacks go to one origin."""

    __slots__ = ("is_waiting", "origin", "queue", "under_way")

    def __init__(self, origin: Origin | None) -> None:
        #: None: the lane of all URLs that cannot be called.
        self.origin = origin
        self.queue: deque[str] = deque()
        self.under_way = 0
        #: Whether it stands among those that wait for a worker.
        self.is_waiting = False


class Callbacks:
    """A bounded queue of tasks whose callback is due, and the workers that tell them."""

    def __init__(self, writer: Writer, clock: Clock, settings: BoardSettings, observer: Observer | None = None) -> None:
        self._writer = writer
        self._clock = clock
        self._settings = settings
        self._observer = observer
        self._policy = callbacks.Policy(callback_expiry_seconds=settings.callback_expiry_seconds)
        self._pool = Pool(Dialler(settings, clock))
        self._retention = Retention(writer, clock, settings.resolved_retention_seconds)
        self._loop = asyncio.get_running_loop()
        #: Queued or under way.
        self._known: set[str] = set()
        #: Those of them that were submitted once more meanwhile.
        self._again: set[str] = set()
        #: Those with something queued or under way.
        self._lanes: dict[Origin | None, _Lane] = {}
        #: Those with something queued, in the order of their turns.
        self._waiting: deque[_Lane] = deque()
        #: Each with the guid it tells.
        self._workers: dict[asyncio.Task[None], tuple[_Lane, str]] = {}
        self._is_closed = False
        self._random = random.Random()  # noqa: S311 - jitter between tries, nothing secret

    @property
    def queued(self) -> int:
        """Tasks that wait for a worker."""
        return len(self._known) - len(self._workers)

    @property
    def active(self) -> int:
        """Tasks that are being told."""
        return len(self._workers)

    def submit(self, guid: str) -> None:
        """A task is Completed and has a callback URL; harmless to say again. Never blocks."""
        task = self._writer.tasks.get(guid)
        if self._is_closed or task is None:
            return
        if guid in self._known:
            # Perhaps of an older task of that guid: what has ended since is told after it, not at the next sweep.
            self._again.add(guid)
            return
        if self.queued >= limits.CALLBACK_QUEUE_MAX:
            log.error("callback.queue.full", task_guid=guid)  # convergence brings it again
            return
        self._known.add(guid)
        lane = self._lane(task.definition.completion_callback_url)
        if not lane.queue and callbacks.may_start(lane.under_way, self._free()):
            self._start(lane, guid)
            return
        lane.queue.append(guid)
        if not lane.is_waiting:
            lane.is_waiting = True
            self._waiting.append(lane)

    def holds(self, guid: str) -> bool:
        """Whether the task waits here or is being told; nobody else should take it on (S8)."""
        return guid in self._known

    async def run(self) -> None:
        """Remove delivered tasks when their retention ends; for ever. Recovers those of an earlier board first."""
        await self._retention.run()

    async def close(self) -> None:
        """Drop what is queued, end what is under way; convergence of the next board recovers both."""
        self._is_closed = True
        self._waiting.clear()
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await self._pool.close()

    # -- whose turn it is ----------------------------------------------------------------------------------------

    def _lane(self, url: str) -> _Lane:
        target = _target(url)
        origin = None if target is None else target.origin
        lane = self._lanes.get(origin)
        if lane is None:
            lane = self._lanes[origin] = _Lane(origin)
        return lane

    def _free(self) -> int:
        return self._settings.callback_workers - len(self._workers)

    def _start(self, lane: _Lane, guid: str) -> None:
        lane.under_way += 1
        worker = self._loop.create_task(self._resolve(guid))
        self._workers[worker] = (lane, guid)
        worker.add_done_callback(self._finished)

    def _finished(self, worker: asyncio.Task[None]) -> None:
        lane, guid = self._workers.pop(worker)
        self._known.discard(guid)
        lane.under_way -= 1
        if not worker.cancelled() and (defect := worker.exception()) is not None:
            # A defect of ours with one task; the others go on, and convergence comes back to this one.
            log.error("callback.defect", task_guid=guid, exc_info=defect)
        if not lane.queue and not lane.under_way:
            self._lanes.pop(lane.origin, None)
        if guid in self._again:
            self._again.discard(guid)
            self.submit(guid)
        self._give_turns()

    def _give_turns(self) -> None:
        """Let lanes begin what they may, each one task a turn."""
        skipped = 0
        while skipped < len(self._waiting):
            free = self._free()
            if free <= 0:
                return
            lane = self._waiting.popleft()
            if callbacks.may_start(lane.under_way, free):
                skipped = 0
                self._start(lane, lane.queue.popleft())
            else:
                skipped += 1
            if lane.queue:
                self._waiting.append(lane)
            else:
                lane.is_waiting = False

    # -- telling one task ----------------------------------------------------------------------------------------

    async def _resolve(self, guid: str) -> None:
        try:
            task = self._writer.tasks.get(guid)
            if task is None or task.state is not TaskState.COMPLETED or not task.definition.completion_callback_url:
                return
            await self._writer.apply(Resolving(guid))
            await self._deliver(task)
        except TaskError as error:
            # Somebody else resolves or deleted it, or the store was lost: either way it is not ours any more.
            log.info("callback.dropped", task_guid=guid, error=error.message)

    async def _deliver(self, task: Task) -> None:
        """Make attempts until one counts or none may follow; each is recorded as soon as it has ended.

        Raises:
            TaskError: the task is not there to be told any more.
        """
        body = callback_body(task)
        number = 0
        while self._is_same(task):
            number += 1
            at, began = self._clock.now_ns(), self._clock.monotonic()
            outcome = await self._attempt(task.definition.completion_callback_url, body)
            seconds = self._clock.monotonic() - began
            if self._observer is not None:
                self._observer.called_back(outcome, seconds)
            if not self._is_same(task):
                return
            status = outcome.status if isinstance(outcome, callbacks.Answered) else 0
            attempt = CallbackAttempt(at, round(seconds * 1e9), status, callbacks.problem(outcome))
            decision = callbacks.decide(
                number,
                outcome,
                self._policy,
                now=self._clock.now_ns(),
                first_completed_at=task.first_completed_at,
                jitter=self._random.random(),
            )
            if isinstance(decision, callbacks.Delivered):
                # Nobody waits for this commit: if it is lost, so is this reign, and the next one tells the task again.
                step, _ = self._writer.submit(Deliver(task.guid, (attempt,)))
                assert step.task is not None
                self._retention.keep(step.task)
                return
            self._writer.submit(RecordAttempts(task.guid, (attempt,)))
            if isinstance(decision, callbacks.Leave):
                # Convergence comes back to it, and tells when it gives it up (promise L5).
                log.warning("callback.failed", task_guid=task.guid, attempt=number, reason=decision.reason)
                return
            log.info("callback.again", task_guid=task.guid, attempt=number, after_seconds=decision.after_seconds)
            await asyncio.sleep(decision.after_seconds)

    def _is_same(self, task: Task) -> bool:
        """Told for long, a task may have been deleted, and its guid desired again: that one is not to be told."""
        now = self._writer.tasks.get(task.guid)
        return now is not None and now.created_at == task.created_at and now.state is TaskState.RESOLVING

    async def _attempt(self, url: str, body: bytes) -> callbacks.Outcome:
        """One attempt, redirects included, within the time-out."""
        request = callbacks.first_request(url)
        followed = 0
        try:
            async with asyncio.timeout(self._settings.callback_timeout_seconds):
                while isinstance(request, callbacks.Request):
                    target = _target(request.url)
                    if target is None:
                        return callbacks.Unreachable(callbacks.Failure.BAD_URL)
                    encoded = encode_request(request.method, target, body if request.with_body else None)
                    answer = await self._pool.exchange(target.origin, encoded)
                    if not isinstance(answer, Answer):
                        return answer
                    following = callbacks.redirect(request, answer.status, answer.location, followed)
                    if following is None:
                        return callbacks.Answered(answer.status)
                    request = following
                    followed += 1
                return request
        except TimeoutError:
            return callbacks.TimedOut()


def _target(url: str) -> Target | None:
    try:
        return Target.parse(url)
    except ValueError:
        return None
