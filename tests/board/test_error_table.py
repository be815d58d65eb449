"""board-api.md 4.4 and 6 over HTTP: every call on a task in every state; a refusal changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.boards import ThreadBoard, clear
from support.model import Answer, Call, ModelTask
from support.voices import Feed, RawVoice

from bulletin.wire.proto import bbs_pb2 as bbs

DEFINITION = bbs.TaskDefinition(
    root_fs="docker:///busybox", action=bbs.Action(run_action=bbs.RunAction(path="sh", user="root"))
).SerializeToString()

OK = Answer()
RUN = Answer(should_start=True)
NOT_FOUND = Answer("ResourceNotFound", "the requested resource could not be found")
EXISTS = Answer("ResourceExists", "the requested resource already exists")
BAD = Answer("InvalidRequest", "the request received is invalid")
OTHER_CELL = Answer("RunningOnDifferentCell", "Running on cell c1 not c2")


def cannot(before: str, after: str) -> Answer:
    return Answer("InvalidStateTransition", f"Cannot transition from {before} to {after}")


DESIRE = Call("desire", "g", domain="d", definition=DEFINITION)
START = Call("start", "g", cell_id="c1")
COMPLETE = Call("complete", "g", cell_id="c1", result="r")
CANCEL = Call("cancel", "g")
FAIL = Call("fail", "g", reason="why")
REJECT = Call("reject", "g", reason="no room")
RESOLVING = Call("resolving", "g")
DELETE = Call("delete", "g")

#: How a task comes into each state; "rejected" states have no try left.
PATHS = {
    "unknown": [],
    "Pending": [DESIRE],
    "Running": [DESIRE, START],
    "Completed": [DESIRE, CANCEL],
    "Resolving": [DESIRE, CANCEL, RESOLVING],
    "Completed, no try left": [DESIRE, REJECT, REJECT, REJECT, REJECT],
    "Resolving, no try left": [DESIRE, REJECT, REJECT, REJECT, REJECT, RESOLVING],
}

C, S, R = "Completed", "Resolving", "Running"
# One row a call: its answers for unknown, Pending, Running on c1, Completed, Resolving, and the last two of PATHS.
# fmt: off
TABLE: list[tuple[Call, tuple[Answer, ...]]] = [
    (DESIRE, (OK, EXISTS, EXISTS, EXISTS, EXISTS, EXISTS, EXISTS)),
    (replace(DESIRE, domain="other"), (OK, EXISTS, EXISTS, EXISTS, EXISTS, EXISTS, EXISTS)),
    (START, (NOT_FOUND, RUN, OK, cannot(C, R), cannot(S, R), cannot(C, R), cannot(S, R))),
    (replace(START, cell_id="c2"),
     (NOT_FOUND, RUN, cannot(R, R), cannot(C, R), cannot(S, R), cannot(C, R), cannot(S, R))),
    (CANCEL, (NOT_FOUND, OK, OK, cannot(C, C), cannot(S, C), cannot(C, C), cannot(S, C))),
    (FAIL, (NOT_FOUND, OK, OK, cannot(C, C), cannot(S, C), cannot(C, C), cannot(S, C))),
    (COMPLETE, (NOT_FOUND, cannot("Pending", C), OK, cannot(C, C), cannot(S, C), cannot(C, C), cannot(S, C))),
    (replace(COMPLETE, cell_id="c2"),
     (NOT_FOUND, cannot("Pending", C), OTHER_CELL, cannot(C, C), cannot(S, C), cannot(C, C), cannot(S, C))),
    (REJECT, (NOT_FOUND, OK, OK, BAD, BAD, cannot(C, C), cannot(S, C))),
    (RESOLVING, (NOT_FOUND, cannot("Pending", S), cannot(R, S), OK, cannot(S, S), OK, cannot(S, S))),
    (DELETE, (NOT_FOUND, cannot("Pending", S), cannot(R, S), cannot(C, S), OK, cannot(C, S), OK)),
]
# fmt: on
ROWS = [
    pytest.param(path, call, answer, id=f"{call.name}-{call.cell_id or call.domain}-{path}")
    for call, answers in TABLE
    for path, answer in zip(PATHS, answers, strict=True)
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    board = ThreadBoard()
    yield board.start()
    board.stop()


@pytest.fixture(params=["protobuf", "json"])
def voice(url: str, request: pytest.FixtureRequest) -> Iterator[RawVoice]:
    made = RawVoice(url, as_json=request.param == "json")
    clear(made)
    yield made
    made.close()


@pytest.mark.parametrize(("path", "call", "answer"), ROWS)
def test_row(voice: RawVoice, path: str, call: Call, answer: Answer) -> None:
    for step in PATHS[path]:
        assert not voice.call(step).type
    before = voice.get("g")
    assert voice.call(call) == answer
    if answer.type or call == START:
        after = voice.get("g")
        assert (after == before) is (answer != RUN)


@pytest.mark.parametrize("path", PATHS)
def test_get(voice: RawVoice, path: str) -> None:
    for step in PATHS[path]:
        voice.call(step)
    seen = voice.get("g")
    if path == "unknown":
        assert seen == NOT_FOUND
    else:
        assert isinstance(seen, ModelTask)
        assert seen.state == path.partition(",")[0]
    assert voice.list(domain="no such domain") == voice.list(cell_id="no such cell") == []


def test_refusals_and_repeats_have_no_event(voice: RawVoice, url: str) -> None:
    with Feed(url) as feed:
        expected = 0
        for path, call, answer in (row.values for row in ROWS):
            clear(voice)
            steps = PATHS[path]
            for step in steps:
                voice.call(step)
            voice.call(call)
            changed = not answer.type and not (call == START and answer == OK)
            # A rejection that fails the task has one event, as every other change.
            expected += len(steps) + changed
            # What clearing takes: to Completed, to Resolving, gone.
            left = voice.list()
            if left:
                expected += {"Pending": 3, "Running": 3, "Completed": 2, "Resolving": 1}[left[0].state]
        clear(voice)
        voice.call(DESIRE)
        assert len(feed.take(expected + 1)) == expected + 1
        assert feed.events[-1].name == "task_created"
        clear(voice)
