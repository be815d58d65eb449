from __future__ import annotations

from contextlib import suppress

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from wire.strategies import definitions, valid_definition

from bulletin.core.errors import TaskError
from bulletin.wire.proto import bbs_pb2 as p
from bulletin.wire.scanning import scan
from bulletin.wire.tasks import encode_definition


def _fields_of(body: bytes, kind: type) -> int:
    """The least number of fields ``scan`` is content with."""
    most = 0
    while True:
        try:
            scan(body, kind, most)
        except TaskError:
            most += 1
        else:
            return most


@given(definitions)
def test_what_protobuf_writes_passes(definition):
    scan(encode_definition(definition).SerializeToString(), p.TaskDefinition, 100_000)


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (p.TaskDefinition(), 0),
        (p.TaskDefinition(root_fs="x"), 1),
        (p.TaskDefinition(placement_tags=["x", "y"]), 2),
        (p.TaskDefinition(egress_rules=[p.SecurityGroupRule(ports=[1, 2])]), 3),
        (valid_definition(), 5),
        (p.TaskDefinition(metric_tags={"k": p.MetricTagValue(static="x")}), 4),
        (p.TaskDefinition(action=p.Action()), 1),
    ],
)
def test_fields_are_counted_at_every_depth(message, fields):
    assert _fields_of(message.SerializeToString(), type(message)) == fields


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (p.TaskGuidRequest, "0801"),  # a string as a number
        (p.TaskGuidRequest, "0d00000000"),
        (p.TaskGuidRequest, "090000000000000000"),
        (p.UpsertDomainRequest, "120101"),  # a number as bytes
        (p.DesireTaskRequest, "0801"),  # a message as a number
        (p.DesireTaskRequest, "0a020801"),  # inside a submessage
        (p.DesireTaskRequest, "0a041a021a00" + "0a020801"),  # after a deeper one
        (p.DesireTaskRequest, "0a041a021a00" + "1001"),  # and after both have ended
        (p.SecurityGroupRule, "1d00000000"),
        (p.TaskGuidRequest, "0b0c"),  # as a group
        (p.TaskGuidRequest, "fb7f0801fc7f" + "0801"),  # after an unknown group
    ],
)
def test_wrong_wire_types(kind, body):
    with pytest.raises(TaskError, match="the request received is invalid"):
        scan(bytes.fromhex(body), kind, 100)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (p.SecurityGroupRule, "1a020102"),  # packed
        (p.SecurityGroupRule, "1801"),
        (p.TaskGuidRequest, "fa7f0178"),  # unknown fields of every wire type
        (p.TaskGuidRequest, "f87f01"),
        (p.TaskGuidRequest, "f97f0000000000000000"),
        (p.TaskGuidRequest, "fd7f00000000"),
        (p.TaskGuidRequest, "fb7f0801fc7f" + "0a0167"),  # a group: what it holds is unknown too
    ],
)
def test_right_wire_types_and_unknown_fields(kind, body):
    scan(bytes.fromhex(body), kind, 100)
    kind.FromString(bytes.fromhex(body))


@given(st.binary(max_size=80))
def test_any_bytes_end_in_nothing_or_one_error(body):
    with suppress(TaskError):
        scan(body, p.DesireTaskRequest, 1000)


@given(st.data())
def test_a_cut_body_is_left_to_the_parser(data):
    body = p.DesireTaskRequest(task_guid="guid", task_definition=valid_definition()).SerializeToString()
    scan(body[: data.draw(st.integers(0, len(body) - 1))], p.DesireTaskRequest, 1000)


@pytest.mark.parametrize(
    "body",
    [
        "0a05",
        "0a",
        "80",
        "80" * 11,
        "fc7f",
        "fb7f",
        "ff7f00",
        "fe7f",
        "0affffffff7f",
        "0a0308",
        "f97f",
        "fd7f00",
        "1a0308",
    ],
)
def test_malformed_bodies_are_left_to_the_parser(body):
    scan(bytes.fromhex(body), p.TaskDefinition, 100)
    with pytest.raises(DecodeError):
        p.TaskDefinition.FromString(bytes.fromhex(body))


def test_many_empty_messages_are_refused():
    inner = b"\x72\x00" * 1001
    with pytest.raises(TaskError):
        scan(inner, p.TaskDefinition, 1000)
    scan(b"\x72\x00" * 1000, p.TaskDefinition, 1000)
    # Hidden behind a malformed tail they still count, for the parser would have made them.
    with pytest.raises(TaskError):
        scan(inner + b"\xff", p.TaskDefinition, 1000)


def test_fixed_width_fields_are_known_too():
    # Our own messages have none.
    option = descriptor_pb2.UninterpretedOption(double_value=1.0).SerializeToString()
    scan(option, descriptor_pb2.UninterpretedOption, 10)
    with pytest.raises(TaskError):
        scan(b"\x30\x01", descriptor_pb2.UninterpretedOption, 10)
