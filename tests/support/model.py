"""A reference model of a board's tasks, written from board-api.md 4 to 8 and 12 and design section 6 alone.

It shares no code with the board: a mistake has to be made twice to go unseen. ``Model.call`` takes a call and the time
and gives the answer; ``Model.events`` is what a subscriber has to see. Times are nanoseconds; where the board's clock
is not ours to set, a time is a ``Window`` that the first look at the task narrows to a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

__all__ = ["Answer", "Call", "Event", "Model", "ModelTask", "Policy", "Window", "apply_call", "cut"]

SECOND = 1_000_000_000
IDENTIFIER_MAX = 255


class Window(NamedTuple):
    """A time between two looks at the clock."""

    low: int
    high: int


Time = int | Window


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the API. ``name`` is the route's; unused members are empty."""

    name: str
    guid: str = ""
    domain: str = ""
    cell_id: str = ""
    reason: str = ""
    result: str = ""
    failed: bool = False
    #: The definition's serialized message, and the texts section 5.2 gives for it; None: no definition at all.
    definition: bytes | None = None
    problems: tuple[str, ...] = ()
    url: str = ""


class Answer(NamedTuple):
    """The error's type and text, both empty for success; and what a Start says."""

    type: str = ""
    text: str = ""
    should_start: bool = False


OK = Answer()
NOT_FOUND = Answer("ResourceNotFound", "the requested resource could not be found")
EXISTS = Answer("ResourceExists", "the requested resource already exists")
BAD_REQUEST = Answer("InvalidRequest", "the request received is invalid")


#: Section 4.3: what PostgreSQL does not store is refused, and nothing changes; by every store of ours alike.
NUL = Answer("UnknownError", 'invalid byte sequence for encoding "UTF8": 0x00')


@dataclass(frozen=True, slots=True)
class ModelTask:
    """A task as a client sees it, and what the model has to know beside."""

    guid: str
    domain: str
    definition: bytes
    url: str
    state: str
    created_at: Time
    updated_at: Time
    first_completed_at: Time = 0
    cell_id: str = ""
    result: str = ""
    failed: bool = False
    failure_reason: str = ""
    rejection_count: int = 0
    rejection_reason: str = ""
    #: When the callback was delivered: the task is only kept for late pollers (design section 6). Not visible.
    told_at: int | None = field(default=None, compare=False)

    def check(self, seen: ModelTask) -> ModelTask:
        """The task with its times as seen; fails when it was seen to be another."""
        names = [each.name for each in fields(self) if each.name not in ("told_at", "url")]
        for name in names:
            expected, found = getattr(self, name), getattr(seen, name)
            fits = expected.low <= found <= expected.high if isinstance(expected, Window) else expected == found
            assert fits, f"{self.guid}: {name} is {found!r}, not {expected!r}; expected {self}, saw {seen}"
        for one, other in (("created_at", "updated_at"), ("updated_at", "first_completed_at")):
            if isinstance(getattr(self, one), Window) and getattr(self, one) is getattr(self, other):
                assert getattr(seen, one) == getattr(seen, other), f"{one} and {other} are one moment: {seen}"
        return replace(seen, url=self.url, told_at=self.told_at)


class Event(NamedTuple):
    """``task_created``, ``task_changed`` or ``task_removed``; ``before`` only of a change."""

    name: str
    task: ModelTask
    before: ModelTask | None = None

    def check(self, seen: Event) -> None:
        """Fail unless it was seen so; the times of an event are checked by looks at its task."""
        assert seen.name == self.name, f"{seen.name} instead of {self.name} of {self.task.guid}"
        self.task.check(seen.task)
        if self.before is not None:
            assert seen.before is not None
            self.before.check(seen.before)


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings the model has to know, in seconds; the defaults of board-api.md 7 and design section 6."""

    max_task_retries: int = 3
    kick: float = 30
    expire_pending: float = 1800
    expire_completed: float = 120
    callback_expiry: float = 120
    resolved_retention: float = 5


def cut(reason: str) -> str:
    """Section 6: 1024 bytes or more become 1013 and a mark; on a character boundary (surprise 20)."""
    encoded = reason.encode()
    return reason if len(encoded) < 1024 else encoded[:1013].decode(errors="ignore") + "(truncated)"


def invalid(*names: str) -> Answer:
    return Answer("InvalidRequest", ", ".join(names))


def transition(task: ModelTask, to: str) -> Answer:
    return Answer("InvalidStateTransition", f"Cannot transition from {task.state} to {to}")


def check_request(call: Call) -> Answer:
    """Section 5.1."""
    problems = []
    if call.name in ("desire", "start", "complete", "fail", "reject"):
        if not re.fullmatch(r"[a-zA-Z0-9_-]+", call.guid):
            problems.append("Invalid field: task_guid")
    elif not call.guid:
        problems.append("Invalid field: task_guid")
    if call.name == "desire":
        if not call.domain:
            problems.append("Invalid field: domain")
        problems.extend(["Invalid field: task_definition"] if call.definition is None else call.problems)
    if call.name in ("start", "complete") and not call.cell_id:
        problems.append("Invalid field: cell_id")
    if call.name in ("fail", "reject") and not call.reason:
        problems.append("Invalid field: failure_reason")  # sic, for both: surprise 7
    return invalid(*problems) if problems else OK


def apply_call(task: ModelTask | None, call: Call, now: Time, retries: int) -> tuple[ModelTask | None, Answer]:
    """Sections 4.3, 4.4 and 6 for one task: what it is afterwards, and the answer. The same object: no change."""
    after, answer = _apply(task, call, now, retries)
    if after is not task and after is not None:
        texts = (after.domain, after.cell_id, after.result, after.failure_reason, after.rejection_reason)
        if any("\0" in text for text in texts):
            return task, NUL
    return after, answer


def _apply(task: ModelTask | None, call: Call, now: Time, retries: int) -> tuple[ModelTask | None, Answer]:
    refused = check_request(call)
    if refused != OK:
        return task, refused
    if len(call.guid) > IDENTIFIER_MAX or len(call.domain) > IDENTIFIER_MAX:
        return task, BAD_REQUEST
    if call.name == "desire":
        if "\0" in call.domain:
            return task, NUL  # the statement cannot even be sent, whoever has the guid
        if task is not None and task.told_at is None:
            return task, EXISTS
        assert call.definition is not None
        return ModelTask(call.guid, call.domain, call.definition, call.url, "Pending", now, now), OK
    if task is None:
        return None, NOT_FOUND
    return _STEPS[call.name](task, call, now, retries)


def _start(task: ModelTask, call: Call, now: Time, _retries: int) -> tuple[ModelTask | None, Answer]:
    if task.state not in ("Pending", "Running"):
        return task, transition(task, "Running")
    if len(call.cell_id) > IDENTIFIER_MAX:
        return task, BAD_REQUEST
    if task.state == "Running":
        return task, OK if task.cell_id == call.cell_id else transition(task, "Running")
    return replace(task, state="Running", cell_id=call.cell_id, updated_at=now), Answer(should_start=True)


def _complete(task: ModelTask, call: Call, now: Time, _retries: int) -> tuple[ModelTask | None, Answer]:
    if task.state != "Running":
        return task, transition(task, "Completed")
    if len(call.cell_id) > IDENTIFIER_MAX:
        return task, BAD_REQUEST
    if task.cell_id != call.cell_id:
        return task, Answer("RunningOnDifferentCell", f"Running on cell {task.cell_id} not {call.cell_id}")
    return _end(task, now, call.failed, call.reason, call.result), OK


def _fail(task: ModelTask, call: Call, now: Time, _retries: int) -> tuple[ModelTask | None, Answer]:
    if task.state not in ("Pending", "Running"):
        return task, transition(task, "Completed")
    return _end(task, now, True, "task was cancelled" if call.name == "cancel" else call.reason, ""), OK


def _reject(task: ModelTask, call: Call, now: Time, retries: int) -> tuple[ModelTask | None, Answer]:
    if task.state not in ("Pending", "Running"):
        return task, BAD_REQUEST if task.rejection_count < retries else transition(task, "Completed")
    rejected = replace(
        task,
        state="Pending",
        updated_at=now,
        rejection_count=task.rejection_count + 1,
        rejection_reason=cut(call.reason),
    )
    if task.rejection_count < retries:
        return rejected, OK
    return _end(rejected, now, True, call.reason, ""), OK


def _resolving(task: ModelTask, _call: Call, now: Time, _retries: int) -> tuple[ModelTask | None, Answer]:
    if task.state != "Completed":
        return task, transition(task, "Resolving")
    return replace(task, state="Resolving", updated_at=now), OK


def _delete(task: ModelTask, _call: Call, _now: Time, _retries: int) -> tuple[ModelTask | None, Answer]:
    return (None, OK) if task.state == "Resolving" else (task, transition(task, "Resolving"))  # sic: surprise 7


_STEPS = {
    "start": _start,
    "complete": _complete,
    "fail": _fail,
    "cancel": _fail,
    "reject": _reject,
    "resolving": _resolving,
    "delete": _delete,
}


def _end(task: ModelTask, now: Time, failed: bool, reason: str, result: str, *, keep_cell: bool = False) -> ModelTask:
    return replace(
        task,
        state="Completed",
        updated_at=now,
        first_completed_at=now,
        failed=failed,
        failure_reason=cut(reason),
        result=result,
        cell_id=task.cell_id if keep_cell else "",
    )


class Model:
    """A board: its tasks, its domains, the events it has to have sent, and the callbacks it has to be telling."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.tasks: dict[str, ModelTask] = {}
        self.domains: dict[str, int | None] = {}
        self.events: list[Event] = []
        #: What is being told of which guid: the task as it completed, though it may be deleted meanwhile.
        self.telling: dict[str, ModelTask] = {}
        #: Guids whose callback was just begun and not yet seen at the receiver.
        self.begun: list[str] = []

    def call(self, call: Call, now: Time) -> Answer:
        """The answer to ``call`` at ``now``, its effects, and the first step of a callback."""
        before = self.tasks.get(call.guid)
        after, answer = apply_call(before, call, now, self.policy.max_task_retries)
        if after is not before:
            fresh = call.name == "desire"
            if fresh and before is not None:
                self._put(before, None)
            shown = before
            if call.name == "reject" and before is not None and after is not None and after.state == "Completed":
                # One event, for the failing; its "before" has the new count already (section 6).
                shown = replace(
                    before,
                    state="Pending",
                    updated_at=now,
                    rejection_count=after.rejection_count,
                    rejection_reason=after.rejection_reason,
                )
            self._put(None if fresh else shown, after)
            if after is not None and after.state == "Completed":
                self.tell(call.guid, now)
        return answer

    def get(self, guid: str) -> Answer | ModelTask:
        if not guid:
            return invalid("Invalid field: task_guid")
        return self.tasks.get(guid, NOT_FOUND)

    def list(self, domain: str = "", cell_id: str = "") -> dict[str, ModelTask]:
        return {
            guid: task
            for guid, task in self.tasks.items()
            if (not domain or task.domain == domain) and (not cell_id or task.cell_id == cell_id)
        }

    # -- callbacks: section 8 ------------------------------------------------------------------------------------

    def tell(self, guid: str, now: Time) -> None:
        """The board takes the task on to tell its outcome, when somebody wants to hear it."""
        task = self.tasks[guid]
        if task.url and task.state == "Completed":
            # Another moment than the completion's, though nobody saw the clock in between.
            moment = now if isinstance(now, int) else Window(*now)
            self._put(task, replace(task, state="Resolving", updated_at=moment))
            self.telling[guid] = self.tasks[guid]
            self.begun.append(guid)

    def told(self, guid: str, now: int) -> None:
        """An attempt ended with a status other than 503 and 504: the task goes after its retention."""
        is_there = self.is_being_told(guid)
        del self.telling[guid]
        if not is_there:
            return
        task = self.tasks[guid]
        if self.policy.resolved_retention == 0:
            self._put(task, None)
        else:
            self.tasks[guid] = replace(task, told_at=now)

    def is_being_told(self, guid: str) -> bool:
        """Whether the task that is told is still there: deleted meanwhile, and perhaps desired again, it is not."""
        told, task = self.telling[guid], self.tasks.get(guid)
        return task is not None and task.created_at == told.created_at and task.state == "Resolving"

    def left(self, guid: str) -> None:
        """The attempts ended without one that counts: it stays Resolving until convergence comes."""
        del self.telling[guid]

    # -- convergence: section 7, with no cell present ------------------------------------------------------------

    def converge(self, now: int) -> None:
        for guid, task in list(self.tasks.items()):
            if guid in self.telling:
                continue
            if task.state == "Pending":
                self._converge_pending(task, now)
            elif task.state == "Running":
                gone = _end(task, now, True, "cell disappeared before completion", "", keep_cell=True)
                self._put(task, gone)
            elif task.state == "Resolving":
                self._converge_resolving(task, now)
            else:
                self._converge_completed(task, now)

    def _converge_pending(self, task: ModelTask, now: int) -> None:
        expires = _after(task.created_at, self.policy.expire_pending)
        if expires < now:
            self._put(task, _end(task, now, True, "not started within time limit", "", keep_cell=True))
        elif expires > now:
            # The auctioneer finds no cell at all, and rejects it (section 10; text of cell.md 7.6).
            self.call(Call("reject", task.guid, reason="unable to communicate to compatible cells"), now)

    def _converge_resolving(self, task: ModelTask, now: int) -> None:
        if task.told_at is not None:
            if _after(task.told_at, self.policy.resolved_retention) < now:
                self._put(task, None)
        elif _after(task.updated_at, self.policy.kick) < now:
            demoted = replace(task, state="Completed")
            self._put(task, demoted)
            self._converge_completed(demoted, now)

    def _converge_completed(self, task: ModelTask, now: int) -> None:
        told_until = _after(task.first_completed_at, self.policy.callback_expiry)
        kept_until = _after(task.first_completed_at, self.policy.expire_completed)
        if max(kept_until, told_until if task.url else 0) < now:
            self._put(task, None)
        elif _after(task.updated_at, self.policy.kick) < now <= told_until:
            self.tell(task.guid, now)

    # -- domains: section 12 -------------------------------------------------------------------------------------

    def upsert_domain(self, domain: str, ttl: int, now: int) -> Answer:
        if not domain:
            return invalid("Invalid field: domain")
        if len(domain) > IDENTIFIER_MAX:
            return BAD_REQUEST
        if "\0" in domain:
            return NUL
        self.domains[domain] = now + ttl * SECOND if ttl else None
        return OK

    def fresh_domains(self, now: int) -> set[str]:
        rounded = (now + SECOND // 2) // SECOND * SECOND
        return {domain for domain, until in self.domains.items() if until is None or until > rounded}

    # -- helpers -------------------------------------------------------------------------------------------------

    def pin(self, seen: ModelTask) -> None:
        """Check a task as seen, and take its times over, in the events that told of it too."""
        expected = self.tasks[seen.guid]
        self.tasks[seen.guid] = expected.check(seen)

    def events_of(self, guid: str) -> Iterator[Event]:
        return (event for event in self.events if event.task.guid == guid)

    def _put(self, before: ModelTask | None, after: ModelTask | None) -> None:
        if after is None:
            assert before is not None
            del self.tasks[before.guid]
            self.events.append(Event("task_removed", before))
            return
        self.tasks[after.guid] = after
        if before is None:
            self.events.append(Event("task_created", after))
        else:
            self.events.append(Event("task_changed", after, before))


def _after(time: Time, seconds: float) -> int:
    assert isinstance(time, int), "convergence needs times that are known"
    return time + round(seconds * SECOND)
