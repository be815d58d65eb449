"""board-api.md Appendix B: every sample both ways: our generated classes, and over HTTP where a route carries it."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from support.boards import ThreadBoard, clear
from support.model import Call
from support.voices import Feed, RawVoice

from bulletin.wire.proto import bbs_pb2 as p

SAMPLES = {
    "ping": (p.PingResponse(available=True), "0801"),
    "success": (p.TaskLifecycleResponse(), ""),
    "an empty error": (p.TaskLifecycleResponse(error=p.Error()), "0a00"),
    "error": (p.Error(type=p.Error.ResourceNotFound, message="x"), "080d120178"),
    "start": (p.StartTaskRequest(task_guid="g", cell_id="c"), "0a0167120163"),
    "desire": (
        p.DesireTaskRequest(task_definition=p.TaskDefinition(root_fs="x:y"), task_guid="g", domain="d"),
        "0a050a03783a791201671a0164",
    ),
    "domain": (p.UpsertDomainRequest(domain="dom", ttl=1), "0a03646f6d1001"),
    "events by cell": (p.EventsByCellId(cell_id="cell"), "0a0463656c6c"),
    "nofile 0": (p.ResourceLimits(nofile=0), "0800"),
    "ports": (p.SecurityGroupRule(ports=[1, 2]), "18011802"),
    "empty submessages": (p.TaskDefinition(action=p.Action(), log_rate_limit=p.LogRateLimit()), "1a00d20100"),
    "removed": (
        p.TaskRemovedEvent(task=p.Task(task_definition=p.TaskDefinition(), task_guid="g0")),
        "0a060a0012026730",
    ),
}


@pytest.mark.parametrize(("message", "sample"), SAMPLES.values(), ids=SAMPLES)
def test_both_ways(message, sample) -> None:
    assert message.SerializeToString().hex() == sample
    read = type(message).FromString(bytes.fromhex(sample))
    assert read == message
    assert read.SerializeToString().hex() == sample


def test_presence_is_read_from_bytes() -> None:
    """What differs from absence only by its bytes."""
    assert p.TaskLifecycleResponse.FromString(bytes.fromhex("0a00")).HasField("error")
    assert not p.TaskLifecycleResponse().HasField("error")
    assert p.ResourceLimits.FromString(bytes.fromhex("0800")).HasField("nofile")
    assert not p.ResourceLimits().HasField("nofile")
    definition = p.TaskDefinition.FromString(bytes.fromhex("1a00d20100"))
    assert definition.HasField("action")
    assert definition.HasField("log_rate_limit")


@pytest.mark.parametrize("packed", ["1a020102", "18011a0102"])
def test_ports_are_read_packed_and_written_unpacked(packed: str) -> None:
    rule = p.SecurityGroupRule.FromString(bytes.fromhex(packed))
    assert rule.SerializeToString().hex() == "18011802"


# -- over HTTP ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    board = ThreadBoard()
    yield board.start()
    board.stop()


@pytest.fixture
def voice(url: str) -> Iterator[RawVoice]:
    made = RawVoice(url)
    clear(made)
    yield made
    made.close()


def sample(name: str) -> bytes:
    return bytes.fromhex(SAMPLES[name][1])


def desire(voice: RawVoice, guid: bytes, definition: bytes) -> bytes:
    body = b"\x0a" + bytes([len(definition)]) + definition + b"\x12" + bytes([len(guid)]) + guid + b"\x1a\x01d"
    return voice.post("/v1/tasks/desire.r2", body)


#: ``{root_fs "x:y", action{run{path "p", user "u"}}}``.
VALID = bytes.fromhex("0a03783a79" + "1a08" + "1a06" + "0a0170" + "320175")


def test_ping_and_success(voice: RawVoice) -> None:
    assert voice.post("/v1/ping", b"") == sample("ping")
    assert desire(voice, b"g", VALID) == sample("success")
    assert voice.post("/v1/domains/upsert", sample("domain")) == sample("success")
    assert voice.domains() == ["dom"]


def test_start(voice: RawVoice) -> None:
    desire(voice, b"g", VALID)
    assert voice.post("/v1/tasks/start", sample("start")) == b"\x10\x01"
    assert voice.post("/v1/tasks/start", sample("start")) == b""


def test_desire_of_the_sample_lacks_an_action(voice: RawVoice) -> None:
    answer = p.TaskLifecycleResponse.FromString(voice.post("/v1/tasks/desire.r2", sample("desire")))
    assert (answer.error.type, answer.error.message) == (p.Error.InvalidRequest, "invalid action type")


def test_an_empty_action_is_not_an_absent_one(voice: RawVoice) -> None:
    answer = p.TaskLifecycleResponse.FromString(desire(voice, b"g", sample("empty submessages")))
    assert answer.error.message == "Invalid field: rootfs, Invalid field: action, Invalid field: inner-action"


def test_an_error_has_its_number_and_its_text(voice: RawVoice) -> None:
    text = b"the requested resource could not be found"
    error = b"\x08\x0d\x12" + bytes([len(text)]) + text
    expected = b"\x0a" + bytes([len(error)]) + error
    for path in ("cancel", "resolving", "delete", "get_by_task_guid.r3"):
        assert voice.post(f"/v1/tasks/{path}", b"\x0a\x01g") == expected


def test_a_task_comes_back_in_the_bytes_of_its_definition(voice: RawVoice) -> None:
    limits = b"\x2a\x02" + sample("nofile 0")
    rule = b"\x0a\x03tcp\x12\x071.2.3.4" + sample("ports")
    run = b"\x0a\x01p" + limits + b"\x32\x01u"
    action = b"\x1a" + bytes([len(run)]) + run
    definition = b"\x0a\x03x:y\x1a" + bytes([len(action)]) + action + b"\x72" + bytes([len(rule)]) + rule
    assert desire(voice, b"g", definition) == b""
    answer = voice.post("/v1/tasks/get_by_task_guid.r3", b"\x0a\x01g")
    task = p.TaskResponse.FromString(answer).task
    assert task.task_definition.SerializeToString() == definition
    # The definition, then the guid and the domain, in the order of their numbers.
    assert b"\x0a" + bytes([len(definition)]) + definition + b"\x12\x01g\x1a\x01d" in answer


def test_a_removed_event_carries_the_task(voice: RawVoice, url: str) -> None:
    with Feed(url) as feed:
        desire(voice, b"g0", VALID)
        for name in ("cancel", "resolving", "delete"):
            assert not voice.call(Call(name, "g0")).type
        removed = feed.take(4)[3]
    assert removed.name == "task_removed"
    assert removed.task.definition == VALID
    payload = p.TaskRemovedEvent.FromString(base64.b64decode(base64.b64encode(sample("removed"))))
    assert payload.task.HasField("task_definition")
