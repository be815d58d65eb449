from __future__ import annotations

from base64 import b64decode, b64encode
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire.strategies import a_task, model_tasks, valid_definition

from bulletin.core.errors import Blame, ErrorType, TaskError
from bulletin.core.model import Definition
from bulletin.core.operations import TaskChanged, TaskCreated, TaskRemoved
from bulletin.wire import events
from bulletin.wire.events import HEARTBEAT, EventParser, RawEvent, decode_event, encode_event, frame
from bulletin.wire.proto import bbs_pb2 as p
from bulletin.wire.tasks import encode_task, encode_task_v2, summarise

task_events = st.one_of(
    st.builds(TaskCreated, model_tasks),
    st.builds(TaskChanged, model_tasks, model_tasks),
    st.builds(TaskRemoved, model_tasks),
)


# -- writing -----------------------------------------------------------------------------------------------------


def test_bytes_of_an_event():
    task = a_task(guid="g0", domain="", definition=Definition(b"", ""), state=0, created_at=0, updated_at=0)
    sent = frame(0, [encode_event(TaskRemoved(task))])
    data = b64encode(bytes.fromhex("0a060a0012026730"))  # board-api.md appendix B
    assert sent == b"id: 0\nevent: task_removed\ndata: " + data + b"\n\n"
    assert frame(1025, [b"x", b"y"]) == b"id: 1025\nxid: 1026\ny"
    assert frame(0, []) == b""


@pytest.mark.parametrize(
    ("event", "name", "payload"),
    [
        (TaskCreated(a_task()), "task_created", p.TaskCreatedEvent(task=p.Task.FromString(encode_task(a_task())))),
        (
            TaskChanged(a_task(), a_task(cell_id="c")),
            "task_changed",
            p.TaskChangedEvent(
                before=p.Task.FromString(encode_task(a_task())),
                after=p.Task.FromString(encode_task(a_task(cell_id="c"))),
            ),
        ),
        (TaskRemoved(a_task()), "task_removed", p.TaskRemovedEvent(task=p.Task.FromString(encode_task(a_task())))),
    ],
    ids=["created", "changed", "removed"],
)
def test_payloads(event, name, payload):
    head, data, *rest = encode_event(event).split(b"\n")
    assert head == f"event: {name}".encode()
    assert rest == [b"", b""]
    assert b64decode(data.removeprefix(b"data: "), validate=True) == payload.SerializeToString(deterministic=True)


def test_older_streams_show_the_v2_form():
    layer = p.ImageLayer(url="u", destination_path="d", layer_type=1, media_type=1)
    task = a_task(definition=summarise(valid_definition(image_layers=[layer])))
    data = encode_event(TaskCreated(task), "v2").split(b"\n")[1]
    expected = p.TaskCreatedEvent(task=p.Task.FromString(encode_task_v2(task)))
    assert p.TaskCreatedEvent.FromString(b64decode(data[6:])) == expected
    assert encode_event(TaskCreated(task), "v3") != encode_event(TaskCreated(task), "v2")


# -- reading -----------------------------------------------------------------------------------------------------


def _read(data: bytes) -> list[RawEvent]:
    return EventParser().feed(data)


@settings(max_examples=30)
@given(st.lists(task_events, max_size=3), st.lists(st.integers(0, 2000), max_size=8))
def test_what_is_sent_is_read_however_it_is_cut(sent, cuts):
    stream = b"".join(frame(n, [encode_event(event)]) + HEARTBEAT for n, event in enumerate(sent))
    parser, read, start = EventParser(), [], 0
    for end in [*sorted(cuts), None]:
        read += parser.feed(stream[start:end])
        start = end
    assert [decode_event(raw) for raw in read] == sent
    assert [raw.id for raw in read] == [str(n) for n in range(len(sent))]


@given(st.lists(st.sampled_from(["data: a", "data:b", "data", "id: 7", "event: e", ": c", "", "x: y", "retry: 5"])))
def test_line_ends_do_not_matter_wherever_they_are_cut(lines):
    plain = _read("".join(line + "\n" for line in lines).encode())
    for end in ("\r\n", "\r"):
        stream = "".join(line + end for line in lines).encode()
        assert _read(stream) == plain
        parser = EventParser()
        assert [event for byte in stream for event in parser.feed(bytes([byte]))] == plain


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ("data: x\n\n", [("", "", "x")]),
        ("data:x\n\n", [("", "", "x")]),
        ("data:  x \n\n", [("", "", " x ")]),
        ("data: a: b\n\n", [("", "", "a: b")]),
        ("data: a\ndata: b\n\n", [("", "", "a\nb")]),
        ("data\ndata: b\n\n", [("", "", "\nb")]),
        ("\ufeffdata: x\n\n", [("", "", "x")]),
        ("data: \ufeffx\n\n", [("", "", "\ufeffx")]),
        (": hello\n\ndata: x\n:\n\n", [("", "", "x")]),
        ("id: 3\nevent: e\ndata: x\n\ndata: y\n\n", [("3", "e", "x"), ("3", "", "y")]),
        ("id\ndata: x\n\n", [("", "", "x")]),
        ("id: 3\ndata: x\n\nid: a\0b\ndata: y\n\n", [("3", "", "x"), ("3", "", "y")]),
        ("event: e\n\ndata: x\n\n", [("", "", "x")]),  # without data: skipped, and its name with it
        ("event: e\ndata:\n\n", []),
        ("foo: bar\nDATA: x\n\n", []),
        ("data: x\n", []),  # not ended
        ("data: x", []),
        ("\n\n\n", []),
        ("", []),
    ],
)
def test_parsing(stream, expected):
    assert _read(stream.encode()) == [RawEvent(*event) for event in expected]


def test_the_last_id_is_known_without_an_event():
    parser = EventParser()
    assert parser.last_id == ""
    parser.feed(b"id: 3\n")
    parser.feed(b"data: x\n\nid: 4\n\n: z\n")
    assert parser.last_id == "4"


def test_bytes_that_are_not_utf8_are_replaced():
    assert _read(b"data: \xff\n\n") == [RawEvent("", "", "\ufffd")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1500", 1500),
        ("0", 0),
        ("", None),
        ("x", None),
        ("-1", None),
        ("1.5", None),
        ("\u0661", None),
        ("9" * 5000, None),
    ],
)
def test_retry(value, expected):
    parser = EventParser()
    assert parser.retry_ms is None
    assert parser.feed(f"retry: {value}\n\n".encode()) == []
    assert parser.retry_ms == expected


def test_nothing_is_an_end():
    parser = EventParser()
    assert parser.feed(b"data: x\r") == []
    assert parser.feed(b"") == []
    assert parser.feed(b"\n\r") == [RawEvent("", "", "x")]
    assert parser.feed(b"\ndata: y\n") == []
    assert parser.feed(b"\n") == [RawEvent("", "", "y")]


@pytest.mark.parametrize("pieces", [[b"data: " + b"x" * 100], [b"x" * 40] * 3, [b"data: " + b"x" * 30 + b"\n"] * 4])
def test_what_is_too_long_is_refused(pieces, monkeypatch):
    monkeypatch.setattr(events, "EVENT_LINE_BYTES_MAX", 100)
    parser = EventParser()
    *first, last = pieces
    for piece in first:
        assert parser.feed(piece) == []
    with pytest.raises(TaskError, match="an event over 100 bytes") as caught:
        parser.feed(last)
    assert (caught.value.type, caught.value.blame) == (ErrorType.INVALID_RESPONSE, Blame.PEER)


def test_what_is_just_short_enough_is_read(monkeypatch):
    monkeypatch.setattr(events, "EVENT_LINE_BYTES_MAX", 100)
    parser = EventParser()
    for _ in range(5):  # nothing adds up from one event to the next
        assert parser.feed(b"data: " + b"x" * 54) == []
        assert parser.feed(b"x" * 40 + b"\n") == []
        assert parser.feed(b": " + b"x" * 90) == []
        assert len(parser.feed(b"\n\n")) == 1


@pytest.mark.parametrize(
    "raw",
    [
        RawEvent("0", "desired_lrp_created", "AA=="),
        RawEvent("0", "", "AA=="),
        RawEvent("0", "task_created", "%"),
        RawEvent("0", "task_created", "AA="),
        RawEvent("0", "task_created", "\u00e9"),
        RawEvent("0", "task_created", "/w=="),  # not protobuf
        RawEvent("0", "task_created", b64encode(bytes.fromhex("0a023863")).decode()),  # state 99
    ],
)
def test_events_that_cannot_be_read(raw):
    with pytest.raises(TaskError) as caught:
        decode_event(raw)
    assert caught.value.blame is Blame.PEER


def test_data_in_several_lines_is_joined():
    stream = frame(0, [encode_event(TaskCreated(a_task()))])
    cut = stream.index(b"data: ") + 20
    assert _read(stream[:cut] + b"\ndata: " + stream[cut:])[0].data.count("\n") == 1
    assert decode_event(_read(stream[:cut] + b"\ndata: " + stream[cut:])[0]) == TaskCreated(a_task())


@given(
    st.lists(
        st.binary(max_size=40) | st.sampled_from([b"data: ", b"\n\n", b"event: task_created\n", b"\r"]), max_size=8
    )
)
def test_any_bytes(pieces):
    parser = EventParser()
    for piece in pieces:
        for raw in parser.feed(piece):
            with suppress(TaskError):
                decode_event(raw)


@given(st.sampled_from(["task_created", "task_changed", "task_removed"]), st.binary(max_size=60))
def test_any_payload(name, payload):
    with suppress(TaskError):
        decode_event(RawEvent("", name, b64encode(payload).decode()))
