from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire.strategies import a_task, model_tasks, nested, texts, valid_definition

from bulletin.core.errors import Blame, ErrorType, TaskError
from bulletin.core.limits import ACTION_DEPTH_MAX
from bulletin.wire import link
from bulletin.wire.proto import link_pb2 as l
from bulletin.wire.tasks import decode_definition, decode_task, encode_task, summarise

LINE = link.log_line(5, "TASK", "text")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (link.hello(l.Hello(incarnation="i")), l.Frame(hello=l.Hello(incarnation="i"))),
        (link.start("g", 7), l.Frame(start=l.Start(task_guid="g", created_at=7))),
        (
            link.completed("g", failed=True, failure_reason="f", result="r", output=[LINE]),
            l.Frame(completed=l.Completed(task_guid="g", failed=True, failure_reason="f", result="r", output=[LINE])),
        ),
        (link.rejected("g", "r"), l.Frame(rejected=l.Rejected(task_guid="g", reason="r"))),
        (link.gone("g"), l.Frame(gone=l.Gone(task_guid="g"))),
        (link.draining(), l.Frame(draining=l.Draining())),
        (link.output("g", [LINE]), l.Frame(output=l.Output(task_guid="g", lines=[LINE]))),
        (link.welcome("b"), l.Frame(welcome=l.Welcome(board="b", protocol=link.PROTOCOL))),
        (link.started("g", True), l.Frame(started=l.Started(task_guid="g", should_start=True))),
        (link.started("g", False), l.Frame(started=l.Started(task_guid="g"))),
        (link.acknowledged("g"), l.Frame(acknowledged=l.Acknowledged(task_guid="g"))),
        (link.stop("g"), l.Frame(stop=l.Stop(task_guid="g"))),
        (link.refused("r"), l.Frame(refused=l.Refused(reason="r"))),
        # Frames without a word in them are still frames.
        (link.start("", 0), l.Frame(start=l.Start())),
        (link.refused(""), l.Frame(refused=l.Refused())),
    ],
)
def test_frames(data, expected):
    assert link.decode_frame(data) == expected


def test_every_frame_has_a_maker():
    kinds = {field.name for field in l.Frame.DESCRIPTOR.oneofs_by_name["body"].fields}
    assert kinds <= set(link.__all__)


def test_log_lines():
    assert (LINE.time_ns, LINE.stream, LINE.source, LINE.text) == (5, l.LogLine.OUT, "TASK", "text")
    assert link.log_line(5, "s", "t", error=True).stream == l.LogLine.ERR


@given(model_tasks)
def test_assign(task):
    data = link.assign(task)
    frame = link.decode_frame(data)
    assert frame.WhichOneof("body") == "assign"
    assert decode_task(frame.assign.task) == task
    assert frame.SerializeToString(deterministic=True) == data


def test_assign_is_the_task_as_stored():
    assert link.decode_frame(link.assign(a_task())).assign.task.SerializeToString() == encode_task(a_task())


def test_the_deepest_tree_reaches_the_cell():
    task = a_task(definition=summarise(valid_definition(action=nested(ACTION_DEPTH_MAX))))
    frame = link.decode_frame(link.assign(task))
    decode_definition(frame.assign.task.task_definition)


@given(texts, texts)
def test_texts_travel(guid, reason):
    rejected = link.decode_frame(link.rejected(guid, reason)).rejected
    assert (rejected.task_guid, rejected.reason) == (guid, reason)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "a frame of no known kind"),
        (b"\xfa\x7f\x01x", "a frame of no known kind"),
        (b"\x08\x01", "a frame of no known kind"),
        (b"\xff", "a frame of 1 bytes that cannot be read"),
        (b"\x12\x03\x0a\x01\xff", "a frame of 5 bytes that cannot be read"),
    ],
)
def test_unreadable(data, text):
    with pytest.raises(TaskError) as caught:
        link.decode_frame(data)
    assert caught.value.message == text
    assert (caught.value.type, caught.value.blame) == (ErrorType.INVALID_PROTOBUF_MESSAGE, Blame.PEER)


def test_too_long(monkeypatch):
    data = link.start("g" * 10, 0)
    monkeypatch.setattr(link, "LINK_FRAME_BYTES_MAX", len(data))
    assert link.decode_frame(data).start.task_guid == "g" * 10
    with pytest.raises(TaskError, match=f"a frame of {len(data) + 1} bytes; at most {len(data)} are read"):
        link.decode_frame(data + b"x")


@given(st.binary(max_size=80))
def test_any_bytes(data):
    with suppress(TaskError):
        frame = link.decode_frame(data)
        assert frame.WhichOneof("body")
