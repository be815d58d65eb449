from __future__ import annotations

import json

import pytest
from google.protobuf import json_format
from hypothesis import example, given, settings
from wire.strategies import definitions, model_tasks

from bulletin.core.errors import ErrorType, TaskError
from bulletin.core.model import Definition, Task, TaskState
from bulletin.wire import taskjson
from bulletin.wire.jsonwriting import message_as_dict, message_as_json
from bulletin.wire.proto import bbs_pb2 as p
from bulletin.wire.taskjson import task_as_json
from bulletin.wire.tasks import encode_definition, encode_task


def _reference(message) -> dict:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


@settings(max_examples=60)
@given(definitions)
def test_definitions_as_protobuf_itself_writes_them(definition):
    message = encode_definition(definition)
    assert message_as_dict(message) == _reference(message)
    assert json.loads(message_as_json(message)) == _reference(message)
    assert message_as_json(message).isascii()
    assert "\n" not in message_as_json(message)


@pytest.mark.parametrize(
    "message",
    [
        p.Task(),
        p.TaskResponse(task=p.Task()),
        p.ResourceLimits(nofile=0),
        p.ResourceLimits(nofile=2**64 - 1, nproc=0),
        p.LogRateLimit(bytes_per_second=-(2**63)),
        p.ImageLayer(layer_type=99, media_type=2),
        p.MetricTagValue(dynamic=-1),
        p.TaskDefinition(metric_tags={"b": p.MetricTagValue(static="x"), "": p.MetricTagValue(dynamic=1)}),
        p.Network(properties={"a": "b", "": ""}),
        p.SecurityGroupRule(ports=[0, 2**32 - 1], destinations=[""]),
        p.CellPresence(annotations={"k": "\u2028<"}, capacity=p.CellCapacity(memory_mb=-1)),
        p.TaskLifecycleResponse(error=p.Error(type=13, message="\x00\U0001f600")),
        p.StartTaskResponse(should_start=True),
    ],
    ids=repr,
)
def test_every_kind_of_field(message):
    assert message_as_dict(message) == _reference(message)


def test_the_type_of_an_error_is_always_told():
    unknown = {"error": {"type": "UnknownError"}}
    assert message_as_dict(p.TaskLifecycleResponse(error=p.Error())) == unknown
    told = {"error": {"type": "UnknownError", "message": "m"}}
    assert message_as_dict(p.TaskResponse(error=p.Error(message="m"))) == told
    assert message_as_dict(p.TaskResponse(error=p.Error(type=13)))["error"] == {"type": "ResourceNotFound"}


def test_every_field_of_the_wire_has_a_kind_we_write():
    for descriptor in p.DESCRIPTOR.message_types_by_name.values():
        for field in descriptor.fields:
            assert field.cpp_type not in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE), field.full_name
            assert field.type != field.TYPE_BYTES, field.full_name


@settings(max_examples=60)
@given(model_tasks)
@example(Task("", "", Definition(b"", ""), TaskState.INVALID, 0, 0))
@example(Task("g", "d", Definition(b"", ""), TaskState.RESOLVING, -1, 2**63 - 1, 5, "c", "r", True, "f", -1, "rr"))
def test_tasks_for_streams_say_the_same(task):
    message = p.Task.FromString(encode_task(task))
    assert json.loads(task_as_json(task)) == _reference(message)
    # ... and in the same order, and again when the definition is known.
    assert list(json.loads(task_as_json(task))) == list(_reference(message))


def test_what_is_kept_is_bounded_and_does_not_mix_definitions_up():
    taskjson._kept_text_of.cache_clear()
    for number in range(600):
        definition = Definition(p.TaskDefinition(annotation=str(number)).SerializeToString(), "")
        task = Task("g", "d", definition, TaskState.PENDING, 1, 1)
        assert json.loads(task_as_json(task))["task_definition"] == {"annotation": str(number)}
    assert taskjson._kept_text_of.cache_info().currsize == 512
    large = Definition(p.TaskDefinition(annotation="x" * 9000).SerializeToString(), "")
    before = taskjson._kept_text_of.cache_info()
    assert "x" * 9000 in task_as_json(Task("g", "d", large, TaskState.PENDING, 1, 1))
    assert taskjson._kept_text_of.cache_info() == before


def test_a_definition_that_cannot_be_read():
    with pytest.raises(TaskError) as caught:
        task_as_json(Task("g", "d", Definition(b"\xff", ""), TaskState.PENDING, 1, 1))
    assert caught.value.type is ErrorType.DESERIALIZE
