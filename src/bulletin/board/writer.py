"""The gate: every change of every task passes here, and nowhere else (design section 4).

Rules. An operation is stepped against memory at once, so the next one sees it. Its row goes into the open group; when
the commit under way returns, the open group is committed whole, in one transaction. Only then are its callers
answered, its events published and its effects run, in the order in which the operations came. A reader of a change
that is not committed yet waits for that commit. A commit that fails is tried again within a bound; after that, or when
the lease is lost, the writer ends: those who wait get UnknownError, and the board loads everything again.

Wart: a guid changed several times within one group reaches the store once, as it stands at the end.

Ending may come while the store is still at work on a commit (a renewal that found the lease lost, say). What becomes of
that commit nobody here can know any more: its callers have been told so, and nothing of it is published.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from bulletin.board.metrics import BoardMetrics
from bulletin.core import limits
from bulletin.core.errors import Blame, ErrorType, TaskError
from bulletin.core.lifecycle import Policy, Step, step
from bulletin.core.model import Task, TaskState
from bulletin.core.operations import Desire, Effect, Event, Operation
from bulletin.seams import Clock
from bulletin.store.api import Batch, BrokenRow, Lease, LeaseLost, Output, Store, StoreError

__all__ = ["Writer", "WriterEnded"]

log = structlog.get_logger("bulletin.board.writer")

#: Turns of the loop (tens of microseconds each) that a commit waits for more to join, while more come.
_GATHER_TURNS_MAX: Final = 4
_RETRY_FIRST_SECONDS: Final = 0.05
_RETRY_SECONDS_MAX: Final = 1.0


class WriterEnded(Exception):
    """The writer can no longer vouch for its memory; load again under a new lease."""


@dataclass(slots=True)
class _Group:
    """What is committed together, and what has to happen after."""

    batch: Batch = field(default_factory=Batch)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    changes: int = 0
    #: The store has it; nothing may be added any more.
    closed: bool = False

    def holds(self, guid: str) -> bool:
        return guid in self.batch.tasks or guid in self.batch.removed


class Writer:
    """Keeps every live task in memory and is the only one to change them.

    Args:
        store: opened, and owned through ``lease``.
        lease: goes with every commit.
        publish: told of a committed group's events, in order; must not block or raise.
        perform: told of a committed group's effects, in order; must not block or raise.
        metrics: told of every change, when it is stepped.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        clock: Clock,
        policy: Policy,
        *,
        publish: Callable[[list[Event]], None],
        perform: Callable[[list[Effect]], None],
        retry_seconds: float,
        metrics: BoardMetrics | None = None,
    ) -> None:
        self._store = store
        self._lease = lease
        self._clock = clock
        self._policy = policy
        self._publish = publish
        self._perform = perform
        self._retry_seconds = retry_seconds
        self._metrics = metrics or BoardMetrics()
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[str, Task] = {}
        #: By state. Kept with every change: counting a million tasks when somebody asks would stop the loop.
        self._counts = [0] * len(TaskState)
        self._broken: set[str] = set()
        self._domains: dict[str, int] = {}
        #: Oldest first. The first may be with the store (closed); only the last takes changes.
        self._groups: deque[_Group] = deque()
        self._uncommitted = 0
        self._wake = asyncio.Event()
        self._ended: str | None = None
        self._stopping = False

    # -- reading -------------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> dict[str, Task]:
        """Every live task by guid, uncommitted changes included. For deciding, not for answering; do not change."""
        return self._tasks

    @property
    def counts(self) -> tuple[int, ...]:
        """How many tasks stand in each state, by ``TaskState``; uncommitted changes included."""
        return tuple(self._counts)

    @property
    def uncommitted_count(self) -> int:
        """How many changes wait for their commit."""
        return self._uncommitted

    @property
    def has_ended(self) -> bool:
        """Whether it refuses everything and vouches for nothing any more."""
        return self._ended is not None

    @property
    def domains(self) -> dict[str, int]:
        """Every known domain with the end of its freshness (ns); do not change."""
        return self._domains

    async def read(self, guid: str) -> Task | None:
        """The task as it is now, once that is durable.

        Raises:
            TaskError: Deserialize for a row that cannot be read; UnknownError when the commit was lost.
        """
        self._vouch()
        task = self._tasks.get(guid)
        if task is None and guid in self._broken:
            raise TaskError(ErrorType.DESERIALIZE, blame=Blame.ENVIRONMENT)
        durable = self._pending(guid)
        if durable is not None:
            await durable
        return task

    async def snapshot(self) -> list[Task]:
        """Every task as it is now, once all of it is durable.

        Raises:
            TaskError: UnknownError when a commit was lost.
        """
        self._vouch()
        tasks = list(self._tasks.values())
        await self.settle()
        return tasks

    async def settle(self) -> None:
        """Wait until everything applied so far is durable.

        Raises:
            TaskError: UnknownError when a commit was lost.
        """
        if self._groups:
            await self._wait_for(self._groups[-1])

    # -- changing ------------------------------------------------------------------------------------------------

    def submit(self, operation: Operation, output: Output | None = None) -> tuple[Step, asyncio.Future[None] | None]:
        """Step ``operation`` at once; the future, if any, is done when the change is durable.

        Args:
            operation: what is to happen.
            output: kept in the same transaction, when the operation changes something.

        Returns:
            The step, and a future to await before telling anybody, or None when nothing has to become durable.

        Raises:
            TaskError: the operation is refused; nothing has changed.
        """
        self._admit()
        guid = operation.guid
        if guid in self._broken:
            raise TaskError(ErrorType.DESERIALIZE, blame=Blame.ENVIRONMENT)
        before = self._tasks.get(guid)
        outcome = step(before, operation, self._clock.now_ns(), self._policy)
        if not outcome.changed:
            return outcome, self._pending(guid)
        if type(operation) is Desire and before is None and len(self._tasks) >= limits.TASKS_MAX:
            raise TaskError(
                ErrorType.UNKNOWN_ERROR,
                f"the board holds {limits.TASKS_MAX} tasks, its limit; resolve and delete some first",
                Blame.ENVIRONMENT,
            )
        self._metrics.stepped(operation)
        group = self._group()
        if before is not None:
            self._counts[before.state] -= 1
        if outcome.task is None:
            del self._tasks[guid]
            group.batch.tasks.pop(guid, None)
            group.batch.whole.discard(guid)
            group.batch.removed.add(guid)
        else:
            self._tasks[guid] = outcome.task
            self._counts[outcome.task.state] += 1
            group.batch.removed.discard(guid)
            group.batch.tasks[guid] = outcome.task
            if type(operation) is Desire:
                group.batch.whole.add(guid)
        if output is not None:
            group.batch.outputs.append(output)
        group.events.extend(outcome.events)
        group.effects.extend(outcome.effects)
        return outcome, self._join(group)

    async def apply(self, operation: Operation, output: Output | None = None) -> Step:
        """``submit``, then wait until it is durable.

        Raises:
            TaskError: refused; or UnknownError when the commit was lost, and then nobody can say whether it happened.
        """
        outcome, durable = self.submit(operation, output)
        if durable is not None:
            await durable
        return outcome

    def discard_broken(self) -> int:
        """Give up the rows that could not be read (board-api.md section 7); returns how many."""
        count = len(self._broken)
        if count:
            group = self._group()
            group.batch.removed.update(self._broken)
            self._broken.clear()
            self._join(group)
        return count

    async def rewrite(self, guids: Iterable[str]) -> int:
        """Write the rows of ``guids`` anew as their tasks stand, sealed with the active key, and wait for it.

        Args:
            guids: those without a task (any more) are passed over.

        Returns:
            How many were written.

        Raises:
            TaskError: UnknownError when too many changes wait, or a commit was lost.
        """
        durable: asyncio.Future[None] | None = None
        count = 0
        for guid in guids:
            task = self._tasks.get(guid)
            if task is None:
                continue
            self._admit()
            group = self._group()
            assert guid not in group.batch.removed, "a task that is there was not removed last"
            group.batch.tasks[guid] = task
            group.batch.whole.add(guid)
            durable = self._join(group)
            count += 1
        if durable is not None:
            await durable
        return count

    async def configure(self, configurations: Mapping[str, str]) -> None:
        """Keep facts about the store itself, key to value, all in one transaction.

        Raises:
            TaskError: UnknownError when the commit was lost.
        """
        self._admit()
        group = self._group()
        group.batch.configurations.update(configurations)
        await self._join(group)

    async def upsert_domain(self, domain: str, fresh_until: int) -> None:
        """Keep ``domain`` fresh until ``fresh_until`` (ns).

        Raises:
            TaskError: UnknownError when the commit was lost.
        """
        self._admit()
        group = self._group()
        self._domains[domain] = fresh_until
        group.batch.removed_domains.discard(domain)
        group.batch.domains[domain] = fresh_until
        await self._join(group)

    def prune_domains(self) -> int:
        """Forget the domains that are not fresh any more; returns how many."""
        now = self._clock.now_ns()
        stale = [domain for domain, fresh_until in self._domains.items() if fresh_until <= now]
        if stale:
            self._admit()
            group = self._group()
            for domain in stale:
                del self._domains[domain]
                group.batch.domains.pop(domain, None)
            group.batch.removed_domains.update(stale)
            self._join(group)
        return len(stale)

    def _vouch(self) -> None:
        """Refuse when the memory may hold what never became durable."""
        if self._ended is not None:
            raise TaskError(ErrorType.UNKNOWN_ERROR, self._ended, Blame.ENVIRONMENT)

    def _admit(self) -> None:
        self._vouch()
        if self._uncommitted >= limits.UNCOMMITTED_CHANGES_MAX:
            raise TaskError(
                ErrorType.UNKNOWN_ERROR, "too many changes wait for the store; try again later", Blame.ENVIRONMENT
            )

    def _group(self) -> _Group:
        """The group that takes the next change; the caller puts it in and joins."""
        groups = self._groups
        if not groups or groups[-1].closed or groups[-1].changes >= limits.COMMIT_CHANGES_MAX:
            groups.append(_Group())
        return groups[-1]

    def _join(self, group: _Group) -> asyncio.Future[None]:
        group.changes += 1
        self._uncommitted += 1
        self._wake.set()
        return self._wait_for(group)

    def _wait_for(self, group: _Group) -> asyncio.Future[None]:
        """A future of its own for each who waits: a cancelled request must not cancel its neighbours'."""
        durable: asyncio.Future[None] = self._loop.create_future()
        group.waiters.append(durable)
        return durable

    def _pending(self, guid: str) -> asyncio.Future[None] | None:
        """The commit that makes the last change of ``guid`` durable, when that is still to come."""
        for group in reversed(self._groups):
            if group.holds(guid):
                return self._wait_for(group)
        return None

    # -- the life of the writer -----------------------------------------------------------------------------------

    async def load(self) -> None:
        """Fill the memory from the store.

        Raises:
            StoreError: it cannot be read.
        """
        async for chunk in self._store.load():
            for row in chunk:
                if isinstance(row, BrokenRow):
                    log.error("row.broken", task_guid=row.guid, reason=row.reason)
                    self._broken.add(row.guid)
                else:
                    self._tasks[row.guid] = row
                    self._counts[row.state] += 1
        self._domains = await self._store.load_domains()

    async def run(self) -> None:
        """Commit groups until ``stop`` is called and nothing is left.

        Raises:
            WriterEnded: a commit was lost, or ``end`` was called; everybody who waited has been told.
        """
        try:
            while True:
                self._insist()
                if not self._groups:
                    if self._stopping:
                        return
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                group = self._groups[0]
                await self._gather(group)
                self._insist()
                group.closed = True
                await self._commit(group.batch)
                self._insist()
                self._groups.popleft()
                self._uncommitted -= group.changes
                self._finish(group)
                # A store on the loop's own thread never suspends; a long backlog must not keep the loop.
                await asyncio.sleep(0)
        except StoreError as error:
            self.end(f"the store failed: {error}")
            raise WriterEnded(str(error)) from error
        finally:
            if self._ended is None:
                self.end("the board is stopping")

    def _insist(self) -> None:
        """Stop ``run`` when ``end`` was called."""
        if self._ended is not None:
            raise WriterEnded(self._ended)

    async def _gather(self, group: _Group) -> None:
        """Let those join who have arrived already: a commit costs about the same for one change and for thirty."""
        for _ in range(_GATHER_TURNS_MAX):
            before = group.changes
            await asyncio.sleep(0)
            if group.changes == before:
                return

    def stop(self) -> None:
        """Let ``run`` return once everything applied is durable."""
        self._stopping = True
        self._wake.set()

    def end(self, reason: str) -> None:
        """Refuse everything from now on, tell those who wait that nobody knows, and let ``run`` raise."""
        if self._ended is None:
            self._ended = reason
        for group in self._groups:
            for durable in group.waiters:
                if not durable.done():
                    durable.set_exception(TaskError(ErrorType.UNKNOWN_ERROR, reason, Blame.ENVIRONMENT))
                    durable.exception()  # not everybody awaits: a sweep, say; that is no defect
        self._groups.clear()
        self._wake.set()

    async def _commit(self, batch: Batch) -> None:
        """Commit, and again within the bound. The batch is idempotent, so a commit that lied is harmless."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._retry_seconds
        delay = _RETRY_FIRST_SECONDS
        while True:
            try:
                await self._store.commit(batch, self._lease)
            except LeaseLost:
                raise
            except StoreError as error:
                if loop.time() + delay > deadline:
                    raise
                log.warning("commit.failed", changes=len(batch), error=str(error), again_seconds=delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_SECONDS_MAX)
            else:
                return

    def _finish(self, group: _Group) -> None:
        # Events before answers: who is answered may look at the stream and has to find the event on its way.
        if group.events:
            self._publish(group.events)
        for durable in group.waiters:
            if not durable.done():
                durable.set_result(None)
        if group.effects:
            self._perform(group.effects)
