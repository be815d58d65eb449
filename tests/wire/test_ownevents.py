from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire.strategies import a_task, model_tasks

from bulletin.core.errors import Blame, ErrorType, TaskError
from bulletin.core.operations import TaskChanged, TaskCreated, TaskRemoved
from bulletin.wire.events import EventParser, RawEvent
from bulletin.wire.ownevents import (
    EventId,
    Missed,
    decode_own_event,
    encode_missed,
    encode_own_event,
    encode_position,
)

task_events = st.one_of(
    st.builds(TaskCreated, model_tasks),
    st.builds(TaskChanged, model_tasks, model_tasks),
    st.builds(TaskRemoved, model_tasks),
)


def test_bytes_of_an_event():
    task = a_task(guid="g0", created_at=1, updated_at=2**62)
    assert encode_own_event(EventId(7, 42), TaskRemoved(task)) == (
        b"id: 7-42\n"
        b"event: task_removed\n"
        b'data: {"task": {"task_definition": {"root_fs": "docker:///busybox", "action": {"run_action": '
        b'{"path": "sh", "user": "root"}}}, "task_guid": "g0", "domain": "d", "created_at": "1", '
        b'"updated_at": "4611686018427387904", "state": "Pending"}}\n\n'
    )


@settings(max_examples=40)
@given(st.lists(task_events, max_size=3))
def test_what_is_sent_is_read(sent):
    stream = b"".join(encode_own_event(EventId(3, number), event) for number, event in enumerate(sent, 1))
    raw = EventParser().feed(stream)
    assert [decode_own_event(event) for event in raw] == sent
    assert [EventId.parse(event.id) for event in raw] == [EventId(3, number) for number in range(1, len(sent) + 1)]


def test_a_position_is_no_event_but_an_id_to_come_again_with():
    parser = EventParser()
    assert parser.feed(encode_position(EventId(3, 9))) == []
    assert parser.last_id == "3-9"


def test_missed():
    (raw,) = EventParser().feed(encode_missed(EventId(3, 9), "too\nold"))
    assert (raw.id, raw.name) == ("3-9", "missed")
    assert decode_own_event(raw) == Missed("too\nold")


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_ids(epoch, sequence):
    assert EventId.parse(str(EventId(epoch, sequence))) == (epoch, sequence)


@pytest.mark.parametrize("text", ["", "-", "1", "1-", "-1", "1-2-3", "a-b", " 1-2", "1-2\n", "1-\u0662", "1.0-2"])
def test_what_is_no_id(text):
    assert EventId.parse(text) is None


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("task_created", ""),
        ("task_created", "x"),
        ("task_created", "[]"),
        ("task_created", "{}"),
        ("task_created", '{"task": 1}'),
        ("task_created", '{"task": {"state": "Nonsense"}}'),
        ("task_created", '{"task": {"state": 99}}'),
        ("task_changed", '{"before": {}}'),
        ("missed", "{}"),
        ("missed", "1"),
        ("other", '{"task": {}}'),
        ("", "null"),
    ],
)
def test_events_that_make_no_sense(name, data):
    with pytest.raises(TaskError) as caught:
        decode_own_event(RawEvent("1-1", name, data))
    assert caught.value.blame is Blame.PEER
    assert caught.value.type is ErrorType.INVALID_RESPONSE


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["task", "before", "after", "task_definition", "state", "[x]"]), inner)
    ),
)


@given(st.sampled_from(["task_created", "task_changed", "missed"]), _json)
def test_any_data(name, value):
    import json

    with suppress(TaskError):
        decode_own_event(RawEvent("1-1", name, json.dumps(value)))
