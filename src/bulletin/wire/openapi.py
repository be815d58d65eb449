"""The API described in OpenAPI 3.1, made from the tables that serve it: ``routes``, and the messages' descriptors.

JSON is described, as ``codec`` reads and writes it; protobuf bodies are named by their message. Nothing is described
twice: the words come from ``descriptions``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Final, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from bulletin.wire import descriptions
from bulletin.wire.codec import JSON, PROTOBUF
from bulletin.wire.openapi_own import OWN_SCHEMAS, own_operation
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.routes import OWN_ROUTES, PHASE2_ROUTES, ROUTES, Route

__all__ = ["document", "document_bytes"]

Json = dict[str, object]

_LATER: Final = "Of long-running processes (LRPs), which this board does not run: always an error that says so."

_INFO: Final = (
    "The board takes tasks, places them on cells and keeps their outcomes. The routes are those of Cloud Foundry "
    "Diego's BBS, in JSON: whoever sends `Content-Type: application/json` is answered in JSON, and a request without "
    "a body can ask for it with `Accept: application/json`; everything else is protobuf. Calls that were understood "
    "are answered with 200, refusals too: success means that `error` is left out. Fields at their default are left "
    "out of answers and may be left out of requests; unknown fields of requests are ignored; 64-bit numbers are "
    "strings in answers, and strings or numbers in requests."
)


@cache
def document_bytes(version: str) -> bytes:
    """``document``, encoded; made once."""
    return json.dumps(document(version)).encode("ascii")


def document(version: str) -> Json:
    """The whole description; ``version`` is the program's."""
    paths: dict[str, Json] = {}
    for route in (*ROUTES, *PHASE2_ROUTES):
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    for own in OWN_ROUTES:
        paths.setdefault(own.path, {})[own.method.lower()] = own_operation(own)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Bulletin board", "version": version, "description": _INFO},
        "servers": [{"url": "/", "description": "The board that served this."}],
        "security": [{"mutualTLS": []}, {}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": {**_schemas(_described()), **OWN_SCHEMAS},
            "responses": _RESPONSES,
            "parameters": {"RequestId": _REQUEST_ID},
            "securitySchemes": {
                "mutualTLS": {
                    "type": "mutualTLS",
                    "description": (
                        "A certificate of the board's authority. Its organizational units are roles (client, cell, "
                        "operator); x-bulletin-roles of an operation says which of them it takes. Without TLS, on "
                        "loopback, everybody may do everything."
                    ),
                }
            },
        },
    }


_TAGS: Final = {
    "tasks": "Tasks: what clients desire and cells run.",
    "cells": "The machines that run tasks.",
    "domains": "Who vouches for a set of tasks.",
    "events": "Changes of tasks, as they happen.",
    "board": "The board itself.",
    "later": "Long-running processes and evacuation: not supported.",
}

_REQUEST_ID: Final[Json] = {
    "name": "X-Vcap-Request-Id",
    "in": "header",
    "required": False,
    "description": "A trace id (32 hexadecimal digits, hyphens allowed): stands in the board's log lines.",
    "schema": {"type": "string"},
}

_RESPONSES: Final[Json] = {
    "NotRuling": {"description": "The board is not ready, or another one rules: try again, or another one."},
    "OtherOrigin": {
        "description": "Sent by a page of another site, or by a peer without a role that this takes.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    },
}


# -- operations --------------------------------------------------------------------------------------------------


def _operation(route: Route) -> Json:
    text = descriptions.ROUTES.get(route.name, _LATER)
    operation: Json = {
        "operationId": route.name,
        "summary": text.split(". ", maxsplit=1)[0].rstrip("."),
        "description": text,
        "tags": [_tag(route)],
        "x-bulletin-roles": sorted(role.value for role in route.roles),
        "parameters": [{"$ref": "#/components/parameters/RequestId"}],
        "responses": {
            str(route.error_status): _stream_answer(route) if route.response is None else _answer(route.response),
            "403": _forbidden(route),
            "503": {"$ref": "#/components/responses/NotRuling"},
        },
    }
    if route.name in descriptions.DEPRECATED:
        operation["deprecated"] = True
    if route.request is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.request)}
    return operation


def _tag(route: Route) -> str:
    if route.handler == "unsupported":
        return "later"
    if route.stream:
        return "events"
    return {"ping": "board", "cells": "cells", "domains": "domains", "upsert_domain": "domains"}.get(
        route.handler, "tasks"
    )


def _content(message: type[Message], examples: Json | None = None) -> Json:
    described: Json = {"schema": _reference(_descriptor(message))}
    if examples:
        described["examples"] = examples
    return {JSON: described, PROTOBUF: {"schema": {"description": f"The protobuf message {_name(message)}."}}}


def _answer(message: type[Message]) -> Json:
    examples: Json = {}
    if "error" in _descriptor(message).fields_by_name:
        refused = {"type": "ResourceNotFound", "message": "the requested resource could not be found"}
        if message is bbs_pb2.ErrorOnlyResponse:
            refused = {"type": "UnknownError", "message": "long-running processes (LRPs) are not supported yet"}
        examples["refused"] = {"summary": "A refusal", "value": {"error": refused}}
    if message is bbs_pb2.TaskLifecycleResponse:
        examples["done"] = {"summary": "Done", "value": {}}
    text = descriptions.MESSAGES[_name(message)]
    return {"description": text, "content": _content(message, examples)}


def _forbidden(route: Route) -> Json:
    if not route.has_error:
        return {"$ref": "#/components/responses/OtherOrigin"}
    assert route.response is not None
    needed = " or ".join(sorted(role.value for role in route.roles))
    value = {"error": {"type": "InvalidRequest", "message": f"{route.name} needs the role {needed}"}}
    examples: Json = {"role": {"summary": "A peer without the role", "value": value}}
    return {
        "description": "The peer has no role that this takes, or the request was sent by a page of another site.",
        "content": {**_content(route.response, examples), "text/plain": {"schema": {"type": "string"}}},
    }


def _stream_answer(route: Route) -> Json:
    form = "" if route.form == "v3" else " in the form of older clients"
    return {
        "description": (
            f"Server-sent events task_created, task_changed and task_removed{form}: `data` is the event's protobuf "
            "message (TaskCreatedEvent, TaskChangedEvent, TaskRemovedEvent) in base64, `id` counts from 0 on each "
            "connection. Comments are signs of life. A subscriber that falls far behind is ended in an orderly way."
        ),
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "examples": {
                    "removed": {
                        "summary": "A task went",
                        "value": "id: 0\nevent: task_removed\ndata: CgYKABICZzA=\n\n",
                    }
                },
            }
        },
    }


# -- schemas -----------------------------------------------------------------------------------------------------


def _described() -> list[Descriptor]:
    messages: list[type[Message]] = [bbs_pb2.TaskCreatedEvent, bbs_pb2.TaskChangedEvent, bbs_pb2.TaskRemovedEvent]
    for route in (*ROUTES, *PHASE2_ROUTES):
        messages += [message for message in (route.request, route.response) if message is not None]
    return [_descriptor(message) for message in messages]


def _schemas(roots: Iterable[Descriptor]) -> Json:
    """A schema for each of ``roots`` and for all they are made of, in alphabetical order."""
    waiting: list[Descriptor | EnumDescriptor] = list(roots)
    found: Json = {}
    while waiting:
        descriptor = waiting.pop()
        name = _schema_name(descriptor)
        if name in found:
            continue
        if isinstance(descriptor, EnumDescriptor):
            found[name] = _enum_schema(descriptor)
            continue
        found[name] = _message_schema(descriptor)
        for field in descriptor.fields:
            entry = field.message_type
            if entry is not None and entry.GetOptions().map_entry:
                field = entry.fields_by_name["value"]  # noqa: PLW2901 - what a map holds stands for the map
            inner = field.message_type or field.enum_type
            if inner is not None:
                waiting.append(inner)
    return dict(sorted(found.items()))


def _message_schema(descriptor: Descriptor) -> Json:
    schema: Json = {
        "type": "object",
        "description": descriptions.MESSAGES[descriptor.name],
        "properties": {field.name: _field_schema(field) for field in descriptor.fields},
    }
    required = descriptions.REQUIRED.get(descriptor.name)
    if required:
        schema["required"] = list(required)
    return schema


def _enum_schema(descriptor: EnumDescriptor) -> Json:
    names = [value.name for value in descriptor.values]
    return {
        "description": "One of the names; a number where this version has no name for it.",
        "anyOf": [{"type": "string", "enum": names}, {"type": "integer", "format": "int32", **_bounds(31)}],
    }


def _field_schema(field: FieldDescriptor) -> Json:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        schema: Json = {"type": "object", "additionalProperties": _value_schema(entry.fields_by_name["value"])}
    elif field.is_repeated:
        schema = {"type": "array", "items": _value_schema(field)}
    else:
        schema = dict(_value_schema(field))
    text = descriptions.FIELDS.get(f"{cast('Descriptor', field.containing_type).name}.{field.name}")
    return {**schema, "description": text} if text else schema


def _value_schema(field: FieldDescriptor) -> Json:
    inner = field.message_type or field.enum_type
    return _reference(inner) if inner is not None else _SCALARS[field.cpp_type]


def _bounds(bits: int) -> Json:
    return {"minimum": -(2**bits), "maximum": 2**bits - 1}


_SCALARS: Final[dict[int, Json]] = {
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32", **_bounds(31)},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "format": "uint32", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.CPPTYPE_INT64: {
        "type": ["string", "integer"],
        "format": "int64",
        "pattern": "^(0|-?[1-9][0-9]{0,18})$",
        **_bounds(63),
    },
    FieldDescriptor.CPPTYPE_UINT64: {
        "type": ["string", "integer"],
        "format": "uint64",
        "pattern": "^(0|[1-9][0-9]{0,19})$",
        "minimum": 0,
        "maximum": 2**64 - 1,
    },
}


def _reference(descriptor: Descriptor | EnumDescriptor) -> Json:
    return {"$ref": f"#/components/schemas/{_schema_name(descriptor)}"}


def _schema_name(descriptor: Descriptor | EnumDescriptor) -> str:
    """``Task``, ``Task.State``."""
    containing = descriptor.containing_type
    return descriptor.name if containing is None else f"{containing.name}.{descriptor.name}"


def _descriptor(message: type[Message]) -> Descriptor:
    return cast("Descriptor", message.DESCRIPTOR)


def _name(message: type[Message]) -> str:
    return _descriptor(message).name
