"""A board against a reference model (tests/support/model.py): random calls over HTTP, callbacks, restarts, time.

Every answer, every task, every listing and every event is compared. Over memory the clock is told, so convergence is
exact to the nanosecond; over the stores of a real process its first sweep is an hour away, and the tests further down
look at it with short times. ``BULLETIN_EXAMPLES=500`` searches deeper and elsewhere; without it every run is the same.
"""

from __future__ import annotations

import os
import random
import string
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from support.boards import ThreadBoard, clear
from support.bulletin import BoardProcess
from support.histories import Done, check_events, check_history
from support.model import Answer, Call, Model, ModelTask, Policy, Time, Window
from support.ports import free_port
from support.sink import CUT, Reply, Sink
from support.voices import ClientVoice, Feed, RawVoice, Voice

from bulletin.wire.proto import bbs_pb2 as bbs

EXAMPLES = int(os.environ.get("BULLETIN_EXAMPLES", "0"))
STORES = ["sqlite", "postgres"]
#: Bounded waits for what happens behind an answer: a callback that begins, a task that goes.
WAIT_SECONDS = 20.0


# -- what is called ----------------------------------------------------------------------------------------------

GUIDS = st.sampled_from(["a", "a", "b", "c", "A", "a-_9", "g" * 255])
BAD_GUIDS = st.sampled_from(["", "a b", "a\n", "\u00e9", "a.b", "g" * 256, "'; --", "\u0661", "%"])
DOMAINS = st.sampled_from(["d", "e", "D", "x" * 255, "\u00e9" * 255, " ", "*", "'", "a\nb"])
BAD_DOMAINS = st.sampled_from(["", "nul\0", "x" * 256, "\U0001f600" * 256])
CELLS = st.sampled_from(["c1", "c2", "C1", "\u00e9", "c" * 255])
BAD_CELLS = st.sampled_from(["", "c" * 256, "nul\0"])
ODD_TEXTS = st.text(st.sampled_from(string.printable + "<>&\u2028\u00e9\U0001f600\ufeff\u200b\uffff"), max_size=30)
REASONS = st.one_of(
    st.sampled_from(["why", "why", "nul\0"]),
    ODD_TEXTS.filter(bool),
    st.integers(1000, 1030).map(lambda count: "x" * count),
    st.integers(500, 515).map(lambda count: "\u00e9" * count),
    st.integers(1010, 1014).map(lambda count: "x" * count + "\U0001f600" * 4),
)
RESULTS = st.one_of(
    st.sampled_from(["", "nul\0"]), ODD_TEXTS, st.integers(1, 3).map(lambda size: "r" * (10_000 * size))
)
RUN = bbs.Action(run_action=bbs.RunAction(path="sh", user="root"))

#: Definitions that section 5.2 refuses, with its texts.
BAD_DEFINITIONS: list[tuple[bbs.TaskDefinition, tuple[str, ...]]] = [
    (bbs.TaskDefinition(), ("Invalid field: rootfs", "invalid action type")),
    (bbs.TaskDefinition(root_fs="ploop", action=RUN), ("Invalid field: rootfs",)),
    (
        bbs.TaskDefinition(root_fs="x:", action=bbs.Action(), memory_mb=-1),
        ("Invalid field: action", "Invalid field: inner-action", "Invalid field: memory_mb"),
    ),
    (
        bbs.TaskDefinition(root_fs="x:", action=RUN, annotation="\u00e9" * 5121, image_username="u"),
        ("Invalid field: annotation", "Invalid field: image_password"),
    ),
]


def definition_of(url: str = "", annotation: str = "", **fields: Any) -> bytes:
    message = bbs.TaskDefinition(
        root_fs="docker:///busybox", action=RUN, completion_callback_url=url, annotation=annotation, **fields
    )
    return message.SerializeToString(deterministic=True)


def guids(draw_bad: int = 20) -> st.SearchStrategy[str]:
    return st.integers(0, draw_bad).flatmap(lambda roll: BAD_GUIDS if roll == 0 else GUIDS)


def rarely(good: st.SearchStrategy[str], bad: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.integers(0, 12).flatmap(lambda roll: bad if roll == 0 else good)


CALLS = st.one_of(
    st.builds(Call, st.just("start"), guids(), cell_id=rarely(CELLS, BAD_CELLS)),
    st.builds(
        Call,
        st.just("complete"),
        guids(),
        cell_id=rarely(CELLS, BAD_CELLS),
        reason=st.just("") | REASONS,
        result=RESULTS,
        failed=st.booleans(),
    ),
    st.builds(Call, st.just("fail"), guids(), reason=rarely(REASONS, st.just(""))),
    st.builds(Call, st.just("reject"), guids(), reason=rarely(REASONS, st.just(""))),
    st.builds(Call, st.sampled_from(["cancel", "resolving", "delete"]), guids(6)),
)
VOICES = st.sampled_from(["protobuf", "json", "client"])


# -- the board under test ----------------------------------------------------------------------------------------


@dataclass
class Subject:
    """A board that lives through the examples of one test, and how to treat it."""

    policy: Policy
    start: Callable[[], str]
    stop: Callable[[], None]
    #: None where there is no kill -9: a thread cannot be killed.
    kill: Callable[[], None] | None = None
    #: The board over memory, whose clock is told; each example has its own.
    told: ThreadBoard | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    url: str = ""
    voices: dict[str, Voice] = field(default_factory=dict)

    def open(self) -> None:
        self.url = self.start()
        self.voices = {
            "protobuf": RawVoice(self.url),
            "json": RawVoice(self.url, as_json=True),
            "client": ClientVoice(self.url),
        }

    def close(self, how: Callable[[], None]) -> None:
        for voice in self.voices.values():
            voice.close()
        self.voices = {}
        how()

    def renew(self) -> None:
        """Another board with nothing on it, and its clock at the present."""
        if self.voices:
            self.close(self.stop)
        self.told = ThreadBoard(**self.settings)
        self.start, self.stop = self.told.start, self.told.stop

    def now(self) -> int:
        return time.time_ns() if self.told is None else self.told.clock.now_ns()


class BoardMachine(RuleBasedStateMachine):
    """One example: a board with nothing on it, a model, a receiver of callbacks and a subscriber."""

    subject: Subject

    def __init__(self) -> None:
        super().__init__()
        board = self.subject
        if board.told is not None:
            board.renew()
        if not board.voices:
            board.open()
        clear(board.voices["protobuf"])
        self.model = Model(board.policy)
        self.sink = Sink()
        self.sink.__enter__()
        self.refusing = f"http://127.0.0.1:{free_port()}/nobody"
        self.feed = Feed(board.url)
        #: Events of the model that an earlier subscriber was shown.
        self.shown = 0
        #: Requests the receiver got of each guid, and the attempts of the delivery under way.
        self.arrived: dict[str, int] = defaultdict(int)
        self.attempts: dict[str, int] = {}
        self.restarts = 0
        #: Domains of earlier examples are still fresh; where a clock is told there are none.
        self.model.domains.update(dict.fromkeys(board.voices["protobuf"].domains()))

    # -- calls ---------------------------------------------------------------------------------------------------

    @rule(
        voice=VOICES,
        guid=guids(),
        domain=rarely(DOMAINS, BAD_DOMAINS),
        receiver=st.sampled_from(["", "", "sink", "sink", "refusing", "not a url"]),
        annotation=ODD_TEXTS | st.just("n" * 10_240),
    )
    def desire(self, voice: str, guid: str, domain: str, receiver: str, annotation: str) -> None:
        if guid in self.model.telling:
            return  # a guid used again while its forerunner is told: tests/board/test_surprises.py has that alone
        url = {"sink": self.sink.url(guid), "refusing": self.refusing}.get(receiver, receiver)
        definition = definition_of(url, annotation)
        self.call(voice, Call("desire", guid, domain=domain, definition=definition, url=url))

    @rule(voice=st.sampled_from(["protobuf", "json"]), guid=guids(), bad=st.sampled_from([None, *BAD_DEFINITIONS]))
    def desire_in_vain(self, voice: str, guid: str, bad: tuple[bbs.TaskDefinition, tuple[str, ...]] | None) -> None:
        definition, problems = (None, ()) if bad is None else (bad[0].SerializeToString(deterministic=True), bad[1])
        self.call(voice, Call("desire", guid, domain="d", definition=definition, problems=problems))

    @rule(voice=VOICES, call=CALLS)
    def change(self, voice: str, call: Call) -> None:
        self.call(voice, call)

    @precondition(lambda self: self.model.tasks)
    @rule(voice=VOICES, data=st.data())
    def live_on(self, voice: str, data: st.DataObject) -> None:
        """A call that fits a task there is: chance alone seldom brings one to its end."""
        task = self.model.tasks[data.draw(st.sampled_from(sorted(self.model.tasks)))]
        call = {
            "Pending": Call("start", task.guid, cell_id="c1"),
            "Running": Call(
                "complete", task.guid, cell_id=task.cell_id, result="done", failed=data.draw(st.booleans())
            ),
            "Completed": Call("resolving", task.guid),
            "Resolving": Call("delete", task.guid),
        }[task.state]
        self.call(voice, call)

    def call(self, voice: str, call: Call) -> None:
        board = self.subject
        low = board.now()
        answer = board.voices[voice].call(call)
        high = board.now()
        now: Time = low if low == high else Window(low, high)
        before = len(self.model.events)
        expected = self.model.call(call, self._moment(now, high))
        assert answer == expected, f"{call}: {answer} instead of {expected}"
        self.settle_callbacks()
        if call.guid and len(self.model.events) > before:
            self.look(call.guid)

    def _moment(self, now: Time, high: int) -> Time:
        """A callback's first step is taken a moment after the answer, so its window has to be open at the end."""
        return (
            now if self.subject.told is not None else Window(now.low if isinstance(now, Window) else now, high + 10**10)
        )

    @rule(voice=VOICES, guid=guids(4))
    def get(self, voice: str, guid: str) -> None:
        seen = self.subject.voices[voice].get(guid)
        expected = self.model.get(guid)
        if isinstance(seen, ModelTask):
            assert isinstance(expected, ModelTask), f"{guid}: {seen} instead of {expected}"
            self.model.pin(seen)
        else:
            assert seen == expected

    @rule(voice=VOICES, domain=st.just("") | DOMAINS | BAD_DOMAINS, cell=st.just("") | CELLS)
    def list(self, voice: str, domain: str, cell: str) -> None:
        self.compare(self.subject.voices[voice].list(domain, cell), self.model.list(domain, cell))

    @rule(voice=VOICES, domain=rarely(DOMAINS, BAD_DOMAINS), ttl=st.sampled_from([0, 3600, 2**32 - 1]))
    def upsert_domain(self, voice: str, domain: str, ttl: int) -> None:
        answer = self.subject.voices[voice].upsert_domain(domain, ttl)
        assert answer == self.model.upsert_domain(domain, ttl, self.subject.now())

    @rule(voice=VOICES)
    def domains(self, voice: str) -> None:
        seen = self.subject.voices[voice].domains()
        assert len(seen) == len(set(seen))
        assert set(seen) == self.model.fresh_domains(self.subject.now())

    # -- callbacks -----------------------------------------------------------------------------------------------

    def settle_callbacks(self) -> None:
        """Wait until every callback that has to begin has reached its receiver, or found that there is none."""
        while self.model.begun:
            guid = self.model.begun.pop()
            if self.model.tasks[guid].url == self.sink.url(guid):
                self.attempts[guid] = 1
                self.arrive(guid)
            else:
                self.model.left(guid)
                self.until(guid, lambda seen: isinstance(seen, ModelTask) and seen.state == "Resolving")
                self.until_told(guid)

    def arrive(self, guid: str) -> None:
        self.arrived[guid] += 1
        told = self.sink.wait_for(guid, self.arrived[guid])
        task = self.model.telling[guid]
        if told.method == "GET":
            assert told.body == b""
            return
        expected = {
            "task_guid": guid,
            "failed": task.failed,
            "failure_reason": task.failure_reason,
            "result": task.result,
            "annotation": bbs.TaskDefinition.FromString(task.definition).annotation,
        }
        if not expected["annotation"]:
            del expected["annotation"]
        body = told.json
        created_at = body.pop("created_at")
        assert body == expected
        assert told.headers["Content-Type"] == "application/json"
        assert isinstance(task.created_at, Window) or created_at == task.created_at

    @precondition(lambda self: self.model.telling)
    @rule(
        reply=st.sampled_from([Reply(200), Reply(204), Reply(404), Reply(500), Reply(502), Reply(304), Reply(302)])
        | st.sampled_from([Reply(503), Reply(504), CUT, Reply(302, "/r/{}"), Reply(307, "/r/{}")]),
        data=st.data(),
    )
    def reply(self, reply: Reply, data: st.DataObject) -> None:
        guid = data.draw(st.sampled_from(sorted(self.model.telling)))
        told = self.sink.wait_for(guid, self.arrived[guid])
        told.answer(replace(reply, location=reply.location.format(guid)))
        if reply.location:
            self.arrive(guid)
            again = self.sink.of(guid)[-1]
            assert again.method == ("POST" if reply.status == 307 and told.method == "POST" else "GET")
        elif (
            reply.status in (503, 504)
            and self.attempts[guid] < 3
            and self.is_in_time(guid)
            and self.model.is_being_told(guid)  # who deletes a task that is being told wants to hear no more of it
        ):
            self.attempts[guid] += 1
            self.arrive(guid)
        elif reply.status in (0, 503, 504):
            self.model.left(guid)
            self.until_told(guid)
        else:
            self.model.told(guid, self.subject.now())
            self.until_told(guid)
            if guid not in self.model.tasks:
                self.until(guid, lambda seen: isinstance(seen, Answer))

    def is_in_time(self, guid: str) -> bool:
        """Whether another attempt is still before the callback's expiry: none follows at its very end."""
        task = self.model.tasks.get(guid)
        if task is None or self.subject.told is None:
            return True
        assert isinstance(task.first_completed_at, int)
        return self.subject.now() < task.first_completed_at + self.model.policy.callback_expiry * 1e9

    def until_told(self, guid: str) -> None:
        """Wait until the board has drawn its conclusion from a callback's end, where one can tell."""
        told = self.subject.told
        deadline = time.monotonic() + WAIT_SECONDS
        while told is not None and told.is_telling(guid):
            assert time.monotonic() < deadline, f"the callback of {guid} does not end"
            time.sleep(0.002)

    def until(self, guid: str, condition: Callable[[Answer | ModelTask], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition(seen := self.subject.voices["protobuf"].get(guid)):
            assert time.monotonic() < deadline, f"{guid} stays {seen}"
            time.sleep(0.002)

    # -- time ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.subject.told is not None)
    @rule(seconds=st.sampled_from([0, 1, 4, 5, 6, 29, 30, 31, 60, 119, 120, 121, 1769, 1800, 1801]))
    def converge(self, seconds: int) -> None:
        told = self.subject.told
        assert told is not None
        told.clock.advance(seconds)
        told.converge()
        self.model.converge(told.clock.now_ns())
        self.settle_callbacks()

    @precondition(lambda self: self.subject.told is not None)
    @rule(seconds=st.sampled_from([0.3, 0.5, 1, 30, 120]))
    def advance(self, seconds: float) -> None:
        assert self.subject.told is not None
        self.subject.told.clock.advance(seconds)

    # -- restarts ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.restarts < (3 if self.subject.told else 1))
    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        """What was answered is there; callbacks under way are nobody's any more, their tasks Resolving."""
        self.restarts += 1
        board = self.subject
        self.show()
        violent = kill and board.kill is not None
        board.close(board.kill if violent and board.kill is not None else board.stop)
        self.feed.wait_for_end()
        assert self.feed.is_orderly is not violent
        self.feed.close()
        self.shown = len(self.model.events)
        self.model.telling.clear()
        board.open()
        self.feed = Feed(board.url)

    # -- looks ---------------------------------------------------------------------------------------------------

    def look(self, guid: str) -> None:
        seen = self.subject.voices["protobuf"].get(guid)
        expected = self.model.get(guid)
        if isinstance(seen, Answer) or isinstance(expected, Answer):
            assert seen == expected, f"{guid}: {seen} instead of {expected}"
        else:
            self.model.pin(seen)

    def compare(self, seen: list[ModelTask], expected: dict[str, ModelTask]) -> None:
        assert sorted(task.guid for task in seen) == sorted(expected)
        for task in seen:
            self.model.pin(task)

    def show(self) -> None:
        """Compare what the subscriber saw since it came with what the model says it must have, task by task."""
        expected = self.model.events[self.shown :]
        seen = self.feed.take(len(expected))
        assert len(seen) == len(expected), "the stream ended"
        for guid in {event.task.guid for event in expected}:
            of_seen = [event for event in seen if event.task.guid == guid]
            of_expected = [event for event in expected if event.task.guid == guid]
            assert [each.name for each in of_seen] == [each.name for each in of_expected]
            for one, other in zip(of_expected, of_seen, strict=True):
                one.check(other)

    def teardown(self) -> None:
        try:
            if self.subject.voices:
                self.compare(self.subject.voices["protobuf"].list(), self.model.tasks)
                self.show()
                assert len(self.feed.events) == len(self.model.events) - self.shown, "more events than there should be"
        finally:
            self.feed.close()
            self.sink.__exit__()


def check_machine(subject: Subject, examples: int, steps: int) -> None:
    machine = type("Machine", (BoardMachine,), {"subject": subject})
    limits = settings(
        max_examples=EXAMPLES or examples,
        stateful_step_count=steps,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        print_blob=True,
        # A start of a process takes a second and a shorter example hundreds of them.
        phases=[Phase.generate, Phase.shrink] if subject.told is not None else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(machine, settings=limits)
    finally:
        if subject.voices:
            subject.close(subject.stop)


@pytest.mark.parametrize("retention", [0.0, 5.0])
def test_memory_with_a_told_clock(retention: float) -> None:
    board = ThreadBoard()
    options = {"resolved_retention_seconds": retention}
    subject = Subject(Policy(resolved_retention=retention), board.start, board.stop, told=board, settings=options)
    check_machine(subject, examples=60, steps=40)


@pytest.fixture(params=STORES)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., BoardProcess]]:
    """Makes board processes over one store; ends them."""
    made: list[BoardProcess] = []
    database = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")

    def make(*options: str) -> BoardProcess:
        directory = tmp_path / f"board{len(made)}"
        directory.mkdir()
        made.append(BoardProcess(directory, options, database=database))
        return made[-1]

    yield make
    for board in made:
        if board.running:
            board.kill()


def test_stores(stored: Callable[..., BoardProcess]) -> None:
    board = stored("--converge-interval", "1h", "--resolved-retention", "1ms")
    subject = Subject(Policy(resolved_retention=0), board.start, board.stop, kill=board.kill)
    check_machine(subject, examples=12, steps=50)


# -- several clients at once ---------------------------------------------------------------------------------------

RACERS = 5
RACES = 12
CALLS_OF_A_RACER = 25


def race(url: str, seed: int) -> None:
    """Clients that fall over each other on two guids; every answer has to fit one order of events."""
    names = [f"r{seed}-a", f"r{seed}-b"]
    histories: dict[str, list[Done]] = {name: [] for name in names}
    barrier = threading.Barrier(RACERS)

    def run(racer: int) -> None:
        chance = random.Random(f"{seed} {racer}")
        voice = RawVoice(url, as_json=racer == 0)
        barrier.wait()
        for _ in range(CALLS_OF_A_RACER):
            call, guid = racing_call(chance, names)
            began = time.monotonic()
            answer = voice.get(guid) if call is None else voice.call(call)
            histories[guid].append(Done(call, answer, began, time.monotonic()))
        voice.close()

    with Feed(url) as feed:
        with ThreadPoolExecutor(RACERS) as pool:
            for future in [pool.submit(run, racer) for racer in range(RACERS)]:
                future.result()
        voice = RawVoice(url)
        for guid, history in histories.items():
            began = time.monotonic()
            history.append(Done(None, voice.get(guid), began, time.monotonic()))
            check_history(guid, history)
        clear(voice)
        voice.call(Call("desire", "mark", domain="d", definition=definition_of()))
        while not feed.events or feed.events[-1].task.guid != "mark":
            feed.take(len(feed.events) + 1)
        clear(voice)
        voice.close()
        check_events(feed.events)


def racing_call(chance: random.Random, names: list[str]) -> tuple[Call | None, str]:
    guid = chance.choice(names)
    cell = chance.choice(["c1", "c2"])
    name = chance.choice(
        ["desire", "desire", "start", "start", "complete", "complete", "cancel", "reject", "resolving", "delete", "get"]
    )
    call = Call(name, guid)
    match name:
        case "get":
            return None, guid
        case "desire":
            call = replace(call, domain=chance.choice(["d", "e"]), definition=definition_of())
        case "start":
            call = replace(call, cell_id=cell)
        case "complete":
            call = replace(call, cell_id=cell, result=str(chance.random()), failed=chance.random() < 0.3, reason="r")
        case "reject":
            call = replace(call, reason=str(chance.random()))
    return call, guid


def test_races_over_memory() -> None:
    board = ThreadBoard()
    url = board.start()
    try:
        for seed in range(EXAMPLES or RACES):
            race(url, seed)
    finally:
        board.stop()


def test_races(stored: Callable[..., BoardProcess]) -> None:
    board = stored("--converge-interval", "1h")
    url = board.start()
    for seed in range(EXAMPLES or RACES):
        race(url, seed)
    board.stop()


# -- convergence by a clock that runs ------------------------------------------------------------------------------


def until_seen(voice: Voice, guid: str, condition: Callable[[Answer | ModelTask], bool]) -> Answer | ModelTask:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition(seen := voice.get(guid)):
        assert time.monotonic() < deadline, f"{guid} stays {seen}"
        time.sleep(0.01)
    return seen


def is_state(state: str) -> Callable[[Answer | ModelTask], bool]:
    return lambda seen: isinstance(seen, ModelTask) and seen.state == state


def test_convergence(stored: Callable[..., BoardProcess]) -> None:
    """Section 7 row by row, with short times, across a crash; the table itself is proven over memory above."""
    times = ["--converge-interval", "200ms", "--kick-after", "500ms", "--resolved-retention", "1ms"]
    board = stored(*times, "--expire-pending", "1h", "--expire-completed", "1h", "--callback-expiry", "1h")
    url = board.start()
    replies = {"once": [Reply(500)], "again": [CUT, CUT, Reply(200)]}
    with Sink(lambda told: replies[told.guid].pop(0)) as sink:
        voice = RawVoice(url)
        for guid in ("once", "again"):
            callback = sink.url(guid)
            voice.call(Call("desire", guid, domain="d", definition=definition_of(callback), url=callback))
            voice.call(Call("fail", guid, reason="why"))
        voice.call(Call("desire", "tired", domain="d", definition=definition_of()))
        voice.call(Call("desire", "kept", domain="d", definition=definition_of()))
        voice.call(Call("cancel", "kept"))
        voice.call(Call("resolving", "kept"))
        # Row 2: nobody takes a pending task, so each sweep uses up a try; the fourth fails it.
        tired = until_seen(voice, "tired", is_state("Completed"))
        assert isinstance(tired, ModelTask)
        assert (tired.rejection_count, tired.failure_reason) == (4, "unable to communicate to compatible cells")
        # Rows 4 and 6: whoever resolved it lost it after the kick; its updated_at is left alone.
        before = voice.get("kept")
        kept = until_seen(voice, "kept", is_state("Completed"))
        assert isinstance(before, ModelTask)
        assert isinstance(kept, ModelTask)
        assert kept.first_completed_at == before.first_completed_at
        assert kept.updated_at == before.updated_at
        # Row 6: a connection that was cut is tried again after the kick, until an answer comes.
        for guid in ("once", "again"):
            until_seen(voice, guid, lambda seen: isinstance(seen, Answer))
        assert len(sink.of("once")) == 1
        assert len(sink.of("again")) == 3
        assert {told.body for told in sink.of("again")} == {sink.of("again")[0].body}
        voice.close()
    board.kill()
    # Row 5, counted from the first completion, which was before the crash.
    board.configure(*times, "--expire-completed", "1s", "--callback-expiry", "1s", "--expire-pending", "1s")
    board.start()
    voice = RawVoice(board.url)
    for guid in ("tired", "kept"):
        until_seen(voice, guid, lambda seen: isinstance(seen, Answer))
    voice.close()
    board.stop()


def test_pending_tasks_expire(stored: Callable[..., BoardProcess]) -> None:
    """Row 1: by the age since created_at, whatever rejections there were; a crash does not make it younger."""
    board = stored("--converge-interval", "300ms", "--expire-pending", "1500ms", "--max-task-retries", "1000")
    voice = RawVoice(board.start())
    voice.call(Call("desire", "old", domain="d", definition=definition_of()))
    until_seen(voice, "old", lambda seen: isinstance(seen, ModelTask) and seen.rejection_count > 0)
    voice.close()
    board.restart()
    voice = RawVoice(board.url)
    seen = until_seen(voice, "old", is_state("Completed"))
    assert isinstance(seen, ModelTask)
    assert (seen.failure_reason, seen.result, seen.failed) == ("not started within time limit", "", True)
    assert seen.first_completed_at - seen.created_at > 1_500_000_000
    voice.close()
    board.stop()
