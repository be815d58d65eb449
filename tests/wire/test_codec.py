from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wire.strategies import a_task, definitions, model_tasks, nested, valid_definition

from bulletin.core.errors import Blame, ErrorType, TaskError
from bulletin.core.limits import (
    ACTION_DEPTH_MAX,
    JSON_REQUEST_BYTES_MAX,
    REQUEST_BYTES_MAX,
    REQUEST_FIELDS_MAX,
    UNSCANNED_REQUEST_BYTES_MAX,
)
from bulletin.wire import codec, validation
from bulletin.wire.codec import JSON, PROTOBUF
from bulletin.wire.proto import bbs_pb2 as p
from bulletin.wire.routes import PHASE2_ROUTES, ROUTES
from bulletin.wire.splicing import delimited
from bulletin.wire.tasks import encode_definition, encode_task, error_response, tasks_response

ROUTE = {route.name: route for route in (*ROUTES, *PHASE2_ROUTES)}
DESIRE = ROUTE["DesireTask"]
READING = [route for route in ROUTES if route.reads_body]


def _refused(route, body: bytes, content_type: str) -> bool:
    """Whether the body is refused with the one text there is for it (board-api.md 1.3)."""
    try:
        codec.decode_request(route, body, content_type)
    except TaskError as error:
        return (error.type, error.message) == (ErrorType.INVALID_REQUEST, "the request received is invalid")
    return False


# -- content types -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        (" application/json ;", True),
        ("application/x-protobuf", False),
        ("application/jsonx", False),
        ("text/json", False),
        ("", False),
        ("; application/json", False),
    ],
)
def test_which_content_types_are_json(content_type, expected):
    assert codec.is_json(content_type) is expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/json", True),
        ("text/html, application/json;q=0.9, */*;q=0.1", True),
        ("*/*", False),
        ("application/x-protobuf", False),
        ("", False),
    ],
)
def test_who_accepts_json(accept, expected):
    assert codec.accepts_json(accept) is expected


# -- requests in protobuf ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", [PROTOBUF, "", "text/plain", "application/octet-stream"])
def test_protobuf_whatever_the_content_type(content_type):
    message = codec.decode_request(ROUTE["StartTask"], bytes.fromhex("0a0167120163"), content_type)
    assert message == p.StartTaskRequest(task_guid="g", cell_id="c")


@pytest.mark.parametrize("route", READING, ids=lambda r: r.name)
@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
def test_no_body_is_a_request_of_defaults(route, content_type):
    assert codec.decode_request(route, b"", content_type) == route.request()


@pytest.mark.parametrize("route", [r for r in ROUTE.values() if not r.reads_body], ids=lambda r: r.name)
@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
def test_bodies_that_mean_nothing_are_not_read(route, content_type):
    assert codec.decode_request(route, b"\xff{", content_type) == p.EmptyRequest()


def test_unknown_fields_are_dropped():
    message = codec.decode_request(ROUTE["CancelTask"], bytes.fromhex("0a0167fa7f0178"), PROTOBUF)
    assert message.SerializeToString().hex() == "0a0167"


@pytest.mark.parametrize(
    "body",
    [
        "ff",  # garbage
        "0a05",  # cut
        "0a01ff",  # text that is not UTF-8
        "0a03edA080",  # half a surrogate pair
        "0801",  # a number where a text belongs
        "0a0167" + "0801",
        "0a0167" + "fa7f0178" + "0d00000000",
        "0a0167" + "0b" * 3,
    ],
)
def test_malformed_protobuf(body):
    assert _refused(ROUTE["CancelTask"], bytes.fromhex(body), PROTOBUF)


@pytest.mark.parametrize("field", ["result", "failure_reason"])
def test_text_that_is_not_utf8_is_refused_in_every_field(field):
    number = p.CompleteTaskRequest.DESCRIPTOR.fields_by_name[field].number
    assert _refused(ROUTE["CompleteTask"], bytes([number << 3 | 2, 1, 0xFF]), PROTOBUF)


def test_a_wrong_type_deep_inside_is_refused():
    action = delimited(b"\x1a", delimited(b"\x1a", b"\x08\x01"))  # run_action.path as a number
    assert _refused(DESIRE, delimited(b"\x0a", action), PROTOBUF)


def test_packed_ports_are_no_reason_to_refuse():
    body = delimited(b"\x0a", delimited(b"\x72", bytes.fromhex("1a020102")))
    message = codec.decode_request(DESIRE, body, PROTOBUF)
    assert list(message.task_definition.egress_rules[0].ports) == [1, 2]


@pytest.mark.parametrize("levels", [60, 1000, 100_000])
def test_deep_protobuf(levels):
    action = b""
    for _ in range(levels):
        action = delimited(b"\x0a", delimited(b"\x32", action))
        if len(action) > UNSCANNED_REQUEST_BYTES_MAX + 1024:
            break
    assert _refused(DESIRE, delimited(b"\x0a", delimited(b"\x1a", action[2:])), PROTOBUF)


def test_the_deepest_tree_is_read():
    request = p.DesireTaskRequest(task_definition=p.TaskDefinition(action=nested(ACTION_DEPTH_MAX + 1)))
    message = codec.decode_request(DESIRE, request.SerializeToString(), PROTOBUF)
    with pytest.raises(TaskError, match=f"more than {ACTION_DEPTH_MAX} levels deep"):
        validation.check(message)


def test_large_bodies_are_read():
    request = p.DesireTaskRequest(task_guid="g", task_definition=valid_definition(annotation="x" * 400_000))
    assert codec.decode_request(DESIRE, request.SerializeToString(), PROTOBUF) == request


def test_bodies_over_the_limit():
    tag = b"\xfa\x7f"  # unknown: nothing but the size is wrong
    room = REQUEST_BYTES_MAX - len(tag) - 4
    fits = delimited(tag, bytes(room))
    assert len(fits) == REQUEST_BYTES_MAX
    assert codec.decode_request(DESIRE, fits, PROTOBUF) == p.DesireTaskRequest()
    assert _refused(DESIRE, delimited(tag, bytes(room + 1)), PROTOBUF)


def test_large_bodies_of_empty_messages():
    assert _refused(DESIRE, delimited(b"\x0a", b"\x72\x00" * (REQUEST_FIELDS_MAX + 1)), PROTOBUF)
    few = delimited(b"\x0a", b"\x72\x00" * (REQUEST_FIELDS_MAX - 1))
    assert len(few) > UNSCANNED_REQUEST_BYTES_MAX
    assert len(codec.decode_request(DESIRE, few, PROTOBUF).task_definition.egress_rules) == REQUEST_FIELDS_MAX - 1


def test_large_bodies_with_a_wrong_type():
    body = delimited(b"\x0a", delimited(b"\x6a", b"x" * UNSCANNED_REQUEST_BYTES_MAX)) + b"\x10\x01"
    assert _refused(DESIRE, body, PROTOBUF)


@given(st.sampled_from(READING), st.binary(max_size=100), st.sampled_from([PROTOBUF, JSON]))
def test_any_bytes(route, body, content_type):
    with suppress(TaskError):
        validation.check(codec.decode_request(route, body, content_type))


@given(definitions, st.data())
def test_damaged_bodies(definition, data):
    body = bytearray(
        p.DesireTaskRequest(task_guid="g", task_definition=encode_definition(definition)).SerializeToString()
    )
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with suppress(TaskError):
        validation.check(codec.decode_request(DESIRE, bytes(body), PROTOBUF))


@given(definitions)
def test_what_a_client_sends_is_read(definition):
    request = p.DesireTaskRequest(task_guid="g", domain="d", task_definition=encode_definition(definition))
    assert codec.decode_request(DESIRE, request.SerializeToString(), PROTOBUF) == request
    assert codec.decode_request(DESIRE, codec.encode_answer(request, JSON), JSON) == request


# -- requests in JSON --------------------------------------------------------------------------------------------


def test_json_with_the_names_of_the_wire():
    body = {
        "task_guid": "g",
        "domain": "d",
        "unknown": [1, {"x": None}],
        "task_definition": {
            "root_fs": "docker:///busybox",
            "action": {"run_action": {"path": "sh", "user": "root", "args": ["-c", "\u00e9"]}},
            "memory_mb": 64,
            "log_rate_limit": {"bytes_per_second": "-1"},
            "image_layers": [{"layer_type": "EXCLUSIVE", "media_type": 1}],
            "metric_tags": {"a": {"dynamic": "INDEX"}},
        },
    }
    message = codec.decode_request(DESIRE, json.dumps(body).encode(), "application/json; charset=utf-8")
    expected = valid_definition(
        action=p.Action(run_action=p.RunAction(path="sh", user="root", args=["-c", "\u00e9"])),
        memory_mb=64,
        log_rate_limit=p.LogRateLimit(bytes_per_second=-1),
        image_layers=[p.ImageLayer(layer_type=2, media_type=1)],
        metric_tags={"a": p.MetricTagValue(dynamic=1)},
    )
    assert message == p.DesireTaskRequest(task_guid="g", domain="d", task_definition=expected)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"null",
        b"[]",
        b"1",
        b'""',
        b"\xff",
        b'{"task_guid":1}',
        b'{"task_guid":["g"]}',
        b'{"task_guid":{}}',
        b'{"task_guid":"\\ud800"}',
        b'{"task_guid":"a","task_guid":"b"}',
        b'{"task_definition":1}',
        b'{"task_definition":[]}',
        b'{"task_definition":"x"}',
        b'{"taskDefinition":"x"}',
        b'{"task_definition":{"log_rate_limit":"x"}}',
        b'{"task_definition":{"egress_rules":["x"]}}',
        b'{"task_definition":{"egress_rules":[[]]}}',
        b'{"task_definition":{"egress_rules":"x"}}',
        b'{"task_definition":{"metric_tags":{"a":"x"}}}',
        b'{"task_definition":{"metric_tags":{"a":null}}}',
        b'{"task_definition":{"memory_mb":1e400}}',
        b'{"task_definition":{"memory_mb":2147483648}}',
        b'{"task_definition":{"memory_mb":1.5}}',
        b'{"task_definition":{"memory_mb":true}}',
        b'{"task_definition":{"memory_mb":[]}}',
        b'{"task_definition":{"privileged":"yes"}}',
        b'{"task_definition":{"egress_rules":{}}}',
        b'{"task_definition":{"egress_rules":[null]}}',
        b'{"task_definition":{"egress_rules":[{"ports":[-1]}]}}',
        b'{"task_definition":{"network":{"properties":[]}}}',
        b'{"task_definition":{"network":{"properties":{"a":1}}}}',
        b'{"task_definition":{"image_layers":[{"layer_type":{}}]}}',
        b'{"task_definition":{"image_layers":[{"layer_type":"EXCLUSIV"}]}}',
        b'{"task_definition":{"imageLayers":[{"digestAlgorithm":"MD5"}]}}',
        b'{"task_definition":{"image_layers":[{"media_type":"1"}]}}',
        b'{"task_definition":{"metric_tags":{"a":{"dynamic":"index"}}}}',
        b'{"task_definition":{"image_layers":[{"layer_type":1e400}]}}',
    ],
)
def test_malformed_json(body):
    assert _refused(DESIRE, body, JSON)


def test_json_nulls_are_absent():
    body = b'{"task_guid":null,"task_definition":null}'
    assert codec.decode_request(DESIRE, body, JSON) == p.DesireTaskRequest()


@pytest.mark.parametrize("opening", [b"[", b'{"task_definition":', b'{"x":[', b'{"task_definition":{"action":'])
@pytest.mark.parametrize("times", [200, 5_000, 100_000])
def test_deep_json(opening, times):
    assert _refused(DESIRE, opening * times, JSON)


def test_deep_json_that_is_well_formed():
    levels = 5_000
    body = b'{"x":' + b"[" * levels + b"]" * levels + b"}"
    assert _refused(DESIRE, body, JSON)
    action = '{"try_action":{"action":' * levels + "{}" + "}}" * levels
    assert _refused(DESIRE, f'{{"task_definition":{{"action":{action}}}}}'.encode(), JSON)


@pytest.mark.parametrize("levels", [ACTION_DEPTH_MAX, ACTION_DEPTH_MAX + 1])
def test_the_deepest_tree_is_read_from_json_too(levels):
    tree = p.Action(run_action=p.RunAction(path="sh", user="root", env=[p.EnvironmentVariable(name="n")]))
    for _ in range(levels - 1):
        tree = p.Action(serial_action=p.SerialAction(actions=[tree]))
    request = p.DesireTaskRequest(task_definition=p.TaskDefinition(action=tree))
    assert codec.decode_request(DESIRE, codec.encode_answer(request, JSON), JSON) == request


def test_json_over_the_limit():
    body = b'{"task_guid":"g"}'
    fits = body + b" " * (JSON_REQUEST_BYTES_MAX - len(body))
    assert codec.decode_request(DESIRE, fits, JSON) == p.DesireTaskRequest(task_guid="g")
    assert _refused(DESIRE, fits + b" ", JSON)


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_names = st.sampled_from([field.name for field in p.TaskDefinition.DESCRIPTOR.fields]) | st.sampled_from(
    ["task_definition", "taskDefinition", "try_action", "ports", "properties", "layer_type", "dynamic", "[x]", "@type"]
)
_json_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=4), max_leaves=20
)


@given(_json_values)
@example({"[x]": 1})
def test_any_json(value):
    with suppress(TaskError):
        codec.decode_request(DESIRE, json.dumps({"task_definition": value}).encode(), JSON)
    with suppress(TaskError):
        codec.decode_request(DESIRE, json.dumps(value).encode(), JSON)


# -- answers -----------------------------------------------------------------------------------------------------


@given(model_tasks)
def test_answers_in_protobuf(task):
    message = p.TaskResponse(task=p.Task.FromString(encode_task(task)))
    encoded = codec.encode_answer(message, PROTOBUF)
    assert codec.decode_answer(ROUTE["TaskByGuid"], encoded) == message
    assert codec.transcode(ROUTE["TaskByGuid"], encoded, PROTOBUF) is encoded


def test_answers_in_json():
    route = ROUTE["TaskByGuid"]
    task = encode_task(a_task(created_at=1795460318569809506, result="<\u00e9\n"))
    answer = json.loads(codec.transcode(route, delimited(b"\x12", task), JSON))
    assert answer == {
        "task": {
            "task_definition": {
                "root_fs": "docker:///busybox",
                "action": {"run_action": {"path": "sh", "user": "root"}},
            },
            "task_guid": "g",
            "domain": "d",
            "created_at": "1795460318569809506",
            "updated_at": "2",
            "state": "Pending",
            "result": "<\u00e9\n",
        }
    }


def test_errors_in_json():
    answer = error_response(ROUTE["CancelTask"], TaskError(ErrorType.RESOURCE_NOT_FOUND))
    expected = {"error": {"type": "ResourceNotFound", "message": "the requested resource could not be found"}}
    assert json.loads(codec.encode_answer(answer, JSON)) == expected
    assert codec.encode_answer(p.TaskLifecycleResponse(), JSON) == b"{}"
    assert codec.encode_answer(p.TaskLifecycleResponse(), PROTOBUF) == b""


@settings(max_examples=30)
@given(st.lists(model_tasks, max_size=3))
def test_a_listing_in_json_pieces(tasks):
    encoded = [encode_task(task) for task in tasks]
    whole = codec.transcode(ROUTE["Tasks"], b"".join(tasks_response(encoded)), JSON)
    assert json.loads(b"".join(codec.tasks_as_json(encoded))) == json.loads(whole)


@given(st.binary(max_size=60))
def test_an_answer_that_cannot_be_read(body):
    try:
        codec.decode_answer(ROUTE["Tasks"], body)
    except TaskError as error:
        caught = error
    else:
        return
    assert (caught.type, caught.blame) == (ErrorType.INVALID_PROTOBUF_MESSAGE, Blame.PEER)
    assert caught.message.startswith("failed to unmarshal proto: ")
