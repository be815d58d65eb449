from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire.strategies import a_task, model_tasks, valid_definition

from bulletin.core.errors import ErrorType, TaskError
from bulletin.core.limits import CALLBACK_REQUEST_BYTES_MAX
from bulletin.core.model import Definition, TaskState
from bulletin.wire.callback import Callback, callback_body, parse_callback
from bulletin.wire.tasks import parse_definition, summarise


def _completed(annotation: str = "", **fields: object):
    definition = summarise(valid_definition(annotation=annotation))
    return a_task(definition=definition, state=TaskState.COMPLETED, **fields)


def test_the_sample_of_the_specification():
    task = _completed(
        "ann", guid="g1", failed=True, failure_reason="task was cancelled", created_at=1795460318569809506
    )
    assert callback_body(task) == (
        b'{"task_guid":"g1","failed":true,"failure_reason":"task was cancelled","result":"","annotation":"ann",'
        b'"created_at":1795460318569809506}'
    )


def test_an_empty_annotation_is_left_out():
    task = _completed(guid="g", result="r", created_at=0)
    assert callback_body(task) == b'{"task_guid":"g","failed":false,"failure_reason":"","result":"r","created_at":0}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<>&", rb"\u003c\u003e\u0026"),
        ("\u2028\u2029", rb"\u2028\u2029"),
        ('"\\/', rb"\"\\/"),
        ("\b\f\n\r\t", rb"\b\f\n\r\t"),
        ("\x00\x01\x1f", rb"\u0000\u0001\u001f"),
        ("\x7f\x80", b"\x7f\xc2\x80"),
        ("\u00e9\ufffd\ufeff\U0001f600", "\u00e9\ufffd\ufeff\U0001f600".encode()),
        ("\\u003c", rb"\\u003c"),
    ],
)
def test_escapes_are_those_of_go(text, expected):
    assert callback_body(_completed(result=text, created_at=1)) == (
        b'{"task_guid":"g","failed":false,"failure_reason":"","result":"' + expected + b'","created_at":1}'
    )


@given(model_tasks)
def test_what_is_told_is_read(task):
    body = callback_body(task)
    annotation = parse_definition(task.definition).annotation
    assert parse_callback(body) == Callback(
        task.guid, task.failed, task.failure_reason, task.result, annotation, task.created_at
    )
    assert list(json.loads(body)) == [
        *("task_guid", "failed", "failure_reason", "result"),
        *(["annotation"] if annotation else []),
        "created_at",
    ]


def test_a_definition_that_cannot_be_read():
    with pytest.raises(TaskError) as caught:
        callback_body(a_task(definition=Definition(b"\xff", "")))
    assert caught.value.type is ErrorType.DESERIALIZE


def test_missing_and_unknown_keys():
    assert parse_callback(b'{"more":[{}],"result":null}') == Callback("", False, "", "", "", 0)


def test_half_a_character_is_replaced_as_in_go():
    assert parse_callback(rb'{"result":"\ud800x\udc00 \ud83d\ude00"}').result == "\ufffdx\ufffd \U0001f600"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"task_guid":1}',
        b'{"failed":0}',
        b'{"failed":"true"}',
        b'{"created_at":true}',
        b'{"created_at":1.0}',
        b'{"created_at":"1"}',
        b'{"result":["x"]}',
        b'{"result":"a","result":"b"}',
        b'{"result":' + b"[" * 100_000,
        b'"' + b"x" * CALLBACK_REQUEST_BYTES_MAX + b'"',
        b'{"result":"' + b"x" * CALLBACK_REQUEST_BYTES_MAX + b'"}',
    ],
    ids=lambda body: repr(body[:20]),
)
def test_refused(body):
    with pytest.raises(TaskError, match="the request received is invalid"):
        parse_callback(body)


@given(st.binary(max_size=60) | st.text(st.sampled_from('{}":,resultfd01[]\\u '), max_size=40).map(str.encode))
def test_any_bytes(body):
    with suppress(TaskError):
        parse_callback(body)
