"""The description on its own: complete, in words and in references. A running board is held against it elsewhere."""

from __future__ import annotations

import json
import re

import jsonschema_rs
import pytest
from hypothesis import given, settings
from wire.strategies import definitions, model_tasks

from bulletin.core.errors import ErrorType, TaskError
from bulletin.wire import codec, descriptions, openapi
from bulletin.wire.jsonwriting import message_as_dict
from bulletin.wire.proto import bbs_pb2 as p
from bulletin.wire.routes import OWN_ROUTES, PHASE2_ROUTES, ROUTES
from bulletin.wire.tasks import encode_definition, encode_task, error_response

DOCUMENT = openapi.document("1.2.3")
SCHEMAS = DOCUMENT["components"]["schemas"]
ALL = (*ROUTES, *PHASE2_ROUTES, *OWN_ROUTES)


def schema_of(name: str) -> jsonschema_rs.Draft202012Validator:
    """Checks values against one of the description's schemas."""
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    )


def operation(route) -> dict:
    return DOCUMENT["paths"][route.path][route.method.lower()]


def test_every_route_is_there_and_nothing_else():
    described = {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == {(route.path, route.method.lower()) for route in ALL}
    assert len({operation(route)["operationId"] for route in ALL}) == len(ALL)


def test_every_route_and_message_has_its_own_words():
    for route in (*ROUTES, *OWN_ROUTES):
        assert operation(route)["description"] == descriptions.ROUTES[route.name]
        assert operation(route)["summary"]
    for name, schema in SCHEMAS.items():
        assert schema["description"], name
    messages = set(p.DESCRIPTOR.message_types_by_name) - {"EmptyRequest", "EventsByCellId"}
    assert set(descriptions.MESSAGES) == messages


@pytest.mark.parametrize("table", ["FIELDS", "REQUIRED"])
def test_no_words_about_fields_that_are_not_there(table):
    for name, value in getattr(descriptions, table).items():
        message, _, field = name.partition(".")
        for each in [field] if field else value:
            assert each in p.DESCRIPTOR.message_types_by_name[message].fields_by_name, name


def test_no_words_about_routes_that_are_not_there():
    names = {route.name for route in ALL}
    assert set(descriptions.ROUTES) <= names
    assert names >= descriptions.DEPRECATED
    assert {route.name for route in ALL if operation(route).get("deprecated")} == descriptions.DEPRECATED


def test_every_reference_leads_somewhere():
    text = json.dumps(DOCUMENT)
    references = set(re.findall(r'"\$ref": "([^"]+)"', text))
    assert len(references) > 40
    for reference in references:
        place = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_schemas_are_json_schema():
    for name, schema in SCHEMAS.items():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
        schema_of(name)


def test_every_field_of_every_message_is_described():
    for name, schema in SCHEMAS.items():
        if name in p.DESCRIPTOR.message_types_by_name:
            fields = [field.name for field in p.DESCRIPTOR.message_types_by_name[name].fields]
            assert list(schema["properties"]) == fields


def test_who_may_call_what_is_said():
    for route in ALL:
        assert operation(route)["x-bulletin-roles"] == sorted(role.value for role in route.roles)
    assert DOCUMENT["components"]["securitySchemes"]["mutualTLS"]["type"] == "mutualTLS"


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("TaskEventStream", "text/event-stream"),
        ("TaskEvents", "text/event-stream"),
        ("TaskOutput", "application/x-ndjson"),
        ("Tasks", "application/json"),
        ("Tasks", "application/x-protobuf"),
        ("OpenAPI", "application/json"),
    ],
)
def test_media_types_of_answers(name, media_type):
    (route,) = [route for route in ALL if route.name == name]
    assert media_type in operation(route)["responses"]["200"]["content"]


def test_examples_are_what_their_schema_says():
    for route in ALL:
        for response in operation(route)["responses"].values():
            for content in response.get("content", {}).values():
                for example in content.get("examples", {}).values():
                    if "$ref" in content["schema"]:
                        schema_of(content["schema"]["$ref"].rpartition("/")[2]).validate(example["value"])


@settings(max_examples=40)
@given(model_tasks)
def test_tasks_are_as_described(task):
    schema_of("Task").validate(message_as_dict(p.Task.FromString(encode_task(task))))


@settings(max_examples=40)
@given(definitions)
def test_definitions_are_as_described(definition):
    message = message_as_dict(encode_definition(definition))
    schema_of("TaskDefinition").validate(message)
    route = next(route for route in ROUTES if route.name == "DesireTask")
    request = {"task_guid": "g", "domain": "d", "task_definition": message}
    codec.decode_request(route, json.dumps(request).encode(), codec.JSON)
    schema_of("DesireTaskRequest").validate(request)


def test_errors_are_as_described():
    for route in (*ROUTES, *PHASE2_ROUTES):
        if route.has_error:
            answer = message_as_dict(error_response(route, TaskError(ErrorType.RESOURCE_CONFLICT)))
            schema_of(route.response.DESCRIPTOR.name).validate(answer)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ("Task", {"state": "Nonsense"}),
        ("Task", {"created_at": "x"}),
        ("Task", {"created_at": True}),
        ("Task", {"task_guid": 1}),
        ("TaskDefinition", {"memory_mb": 2**31}),
        ("TaskDefinition", {"metric_tags": {"a": "x"}}),
        ("SecurityGroupRule", {"ports": [-1]}),
        ("TaskGuidRequest", {}),
        ("Error", []),
    ],
)
def test_what_is_not_as_described(schema, value):
    assert not schema_of(schema).is_valid(value)


def test_bytes():
    assert json.loads(openapi.document_bytes("1.2.3")) == DOCUMENT
    assert openapi.document_bytes("1.2.3") is openapi.document_bytes("1.2.3")
