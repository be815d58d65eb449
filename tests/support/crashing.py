"""Load on a board that is about to die, and the account of it afterwards.

Clients live tasks' lives and race each other. What they were told goes into one history for each guid, with what a
subscriber saw, what callbacks told, and what the board shows once it works again; ``settle`` then asks whether any
order of events explains all of it (tests/support/histories.py): promises S2, S3, S4, S5, S6, S7, S8 and S10.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from support.histories import Done, bare, check_events, check_history
from support.model import NOT_FOUND, Answer, Call, Event, ModelTask
from support.sink import CUT, Reply, Sink, Told
from support.voices import Feed, RawVoice

from bulletin.wire.proto import bbs_pb2 as bbs

__all__ = ["Load"]

CLIENTS = 3
#: A call under load, a board that dies or a database that is away included.
CALL_SECONDS = 30.0
RECOVER_SECONDS = 60.0
#: Of a client that was refused a connection, before it tries another.
PAUSE_SECONDS = 0.02
UNREACHABLE = (OSError, http.client.HTTPException)


class Load:
    """Rounds of load on one board, and all that is known of its tasks.

    Args:
        name: makes the guids unique.
        sink: where callbacks go; ``choose`` is its answer.
        seed: of everything that is left to chance here.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._name = name
        self._chance = random.Random(f"{name} {seed}")
        self._lock = threading.Lock()
        self.sink = Sink(self._choose)
        self.histories: dict[str, list[Done]] = defaultdict(list)
        #: Guids with a history since the last ``settle``.
        self._touched: set[str] = set()
        #: The board's tasks when it was last looked at.
        self.tasks: dict[str, ModelTask] = {}
        self._stop = threading.Event()
        self._clients = ThreadPoolExecutor(CLIENTS, name)
        self._lives: list[Future[None]] = []
        self._feed: Feed | None = None
        self._round = 0
        self._began = 0.0
        self.answered = 0
        self.unanswered = 0
        #: Whether the receiver answers every callback with success.
        self.is_kind = False

    def __enter__(self) -> Self:
        self.sink.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self.sink.__exit__(*error)
        self._clients.shutdown()
        if self._feed is not None:
            self._feed.close()

    # -- load ----------------------------------------------------------------------------------------------------

    def start(self, url: str) -> None:
        """Begin a round: clients, and a subscriber."""
        self._round += 1
        self._stop.clear()
        self._began = time.monotonic()
        self._feed = Feed(url)
        for number in range(CLIENTS):
            chance = random.Random(f"{self._name} {self._round} {number} {self._chance.random()}")
            self._lives.append(self._clients.submit(self._live, url, chance, number))

    def stop(self) -> None:
        """End the round's clients; what is under way ends as it can."""
        self._stop.set()
        lives, self._lives = self._lives, []
        for life in lives:
            life.result(2 * CALL_SECONDS)

    def _live(self, url: str, chance: random.Random, number: int) -> None:
        voice = RawVoice(url, timeout_seconds=CALL_SECONDS)
        lives = 0
        while not self._stop.is_set():
            guid = self._pick(chance)
            if guid is None:
                lives += 1
                guid = f"{self._name}-{self._round}-{number}-{lives}"
                calls = self._whole_life(guid, chance)
            else:
                calls = iter([self._chance_call(guid, chance)])
            for call in calls:
                if self._stop.is_set() or not self._do(voice, call):
                    break
        voice.close()

    def _pick(self, chance: random.Random) -> str | None:
        """Somebody else's task, or one of an earlier round; None: a new one."""
        if chance.random() < 0.7:
            return None
        with self._lock:
            recent = list(self._touched)[-10:]
            old = list(self.tasks)[:20]
        return chance.choice([*recent, *old, None])

    def _whole_life(self, guid: str, chance: random.Random) -> Iterator[Call]:
        url = self.sink.url(guid) if chance.random() < 0.3 else ""
        definition = bbs.TaskDefinition(
            root_fs="docker:///busybox",
            action=bbs.Action(run_action=bbs.RunAction(path="sh", user="root")),
            completion_callback_url=url,
        ).SerializeToString(deterministic=True)
        yield Call("desire", guid, domain="d", definition=definition, url=url)
        if chance.random() < 0.2:
            yield Call("cancel", guid)
        else:
            yield Call("start", guid, cell_id="c1")
            failed = chance.random() < 0.3
            yield Call("complete", guid, cell_id="c1", failed=failed, reason=f"r-{guid}", result=f"o-{guid}")
        if not url:
            yield Call("resolving", guid)
            yield Call("delete", guid)

    def _chance_call(self, guid: str, chance: random.Random) -> Call:
        calls = [
            Call("cancel", guid),
            Call("start", guid, cell_id="c2"),
            Call("reject", guid, reason=f"no {chance.random()}"),
            Call("complete", guid, cell_id="c2", result=f"late {chance.random()}"),
            Call("resolving", guid),
            Call("delete", guid),
            Call("fail", guid, reason=f"because {chance.random()}"),
        ]
        return chance.choice(calls)

    def _do(self, voice: RawVoice, call: Call) -> bool:
        """Call, and remember; False when nothing sensible can follow."""
        began = time.monotonic()
        try:
            answer: Answer | None = voice.call(call)
            if answer is not None and answer.type == "UnknownError":
                answer = None  # "nobody knows": the store was lost under it
        except UNREACHABLE:
            answer = None
        done = Done(call, answer, began)
        if answer is not None:
            done.ended = time.monotonic()
        with self._lock:
            self.histories[call.guid].append(done)
            self._touched.add(call.guid)
            self.answered += answer is not None
            self.unanswered += answer is None
        if answer is None:
            self._stop.wait(PAUSE_SECONDS)
        return answer is not None

    def _choose(self, told: Told) -> Reply:
        """What the receiver of callbacks answers, and a look at the task: what it was told is what is stored (S7)."""
        body = told.json
        seen = ModelTask(
            guid=body["task_guid"],
            domain="",
            definition=b"",
            url="",
            state="Resolving",
            created_at=body["created_at"],
            updated_at=0,
            failed=body["failed"],
            failure_reason=body["failure_reason"],
            result=body["result"],
        )
        assert told.guid == seen.guid
        with self._lock:
            began = self._began
            self.histories[seen.guid].append(Done(None, seen, began, time.monotonic(), outcome_only=True))
            self._touched.add(seen.guid)
            roll = 0.0 if self.is_kind else self._chance.random()
        return Reply(200) if roll < 0.8 else Reply(503) if roll < 0.9 else CUT

    # -- the account -----------------------------------------------------------------------------------------------

    def settle(self, url: str) -> None:
        """The board works again: look at all it has, and ask whether it explains what everybody was told."""
        assert self._feed is not None
        self._feed.close()
        check_events(self._feed.events)
        tasks, began, ended = self._look(url)
        with self._lock:
            touched, self._touched = self._touched, set()
            histories = {guid: list(self.histories[guid]) for guid in touched}
        for guid, last in _last_events(self._feed.events).items():
            # What was published is durable: the board went through that state at some time of this round.
            histories.setdefault(guid, self.histories[guid]).append(Done(None, last, self._began, began))
        for guid, history in histories.items():
            for done in history:
                done.ended = min(done.ended, began)
            history.append(Done(None, tasks.get(guid, NOT_FOUND), began, ended))
            try:
                check_history(guid, history)
            except AssertionError as error:
                seen = [event for event in self._feed.events if event.task.guid == guid]
                raise AssertionError(f"round {self._round}: {error}\nevents: {seen}") from None
            with self._lock:
                self.histories[guid] = history
        for guid, task in self.tasks.items():
            if guid not in histories and not task.url:
                assert tasks.get(guid) == task, f"{guid} changed while nobody touched it"
        assert set(tasks) <= set(self.histories), "tasks nobody desired"
        self.tasks = tasks

    def _look(self, url: str) -> tuple[dict[str, ModelTask], float, float]:
        deadline = time.monotonic() + RECOVER_SECONDS
        voice = RawVoice(url, timeout_seconds=CALL_SECONDS)
        while True:
            began = time.monotonic()
            try:
                tasks = {task.guid: task for task in voice.list()}
            except (AssertionError, *UNREACHABLE):
                assert time.monotonic() < deadline, "the board does not work again"
                time.sleep(PAUSE_SECONDS)
                continue
            voice.close()
            return tasks, began, time.monotonic()

    def finish(self, url: str) -> None:
        """Nobody is lost: what has not ended ends, and every callback is told its outcome, at last by convergence."""
        self.is_kind = True
        voice = RawVoice(url)
        waiting: dict[str, ModelTask] = {}
        for task in voice.list():
            if task.state in ("Pending", "Running"):
                assert voice.call(Call("cancel", task.guid)) == Answer()
            if task.url:
                seen = voice.get(task.guid)
                if isinstance(seen, ModelTask):  # else it was told already
                    waiting[task.guid] = seen
        deadline = time.monotonic() + RECOVER_SECONDS
        while left := waiting.keys() & {task.guid for task in voice.list()}:
            assert time.monotonic() < deadline, f"{len(left)} callbacks were never told, such as {left.pop()}"
            time.sleep(0.1)
        voice.close()
        for guid, task in waiting.items():
            bodies = [told.json for told in self.sink.of(guid)]
            assert bodies, f"{guid} is gone and nobody was told"
            last = bodies[-1]
            assert (last["failed"], last["failure_reason"], last["result"]) == (
                task.failed,
                task.failure_reason,
                task.result,
            )


def _last_events(events: list[Event]) -> dict[str, ModelTask | Answer]:
    last: dict[str, ModelTask | Answer] = {}
    for event in events:
        last[event.task.guid] = NOT_FOUND if event.name == "task_removed" else bare(event.task)
    return last
