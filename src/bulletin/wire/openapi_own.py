"""The part of the API's description that tells of our own routes, which have no protobuf messages."""

from __future__ import annotations

from typing import Final

from bulletin.wire import descriptions
from bulletin.wire.routes import OwnRoute

__all__ = ["OWN_SCHEMAS", "own_operation"]

Json = dict[str, object]

_NANOSECONDS: Final[Json] = {"type": "integer", "format": "int64", "description": "Nanoseconds since the Unix epoch."}

OWN_SCHEMAS: Final[Json] = {
    "Refusal": {
        "type": "object",
        "description": "Why there is no answer.",
        "properties": {"error": {"type": "string"}},
        "required": ["error"],
    },
    "OutputLine": {
        "type": "object",
        "description": "One line of a task's output.",
        "properties": {
            "time_ns": _NANOSECONDS,
            "stream": {"type": "string", "enum": ["out", "err"]},
            "source": {"type": "string", "description": "The action's log source."},
            "text": {"type": "string"},
        },
        "required": ["time_ns", "stream", "source", "text"],
    },
    "CallbackAttempts": {
        "type": "object",
        "description": "The newest attempts to tell an outcome, oldest first.",
        "properties": {"attempts": {"type": "array", "items": {"$ref": "#/components/schemas/CallbackAttempt"}}},
        "required": ["attempts"],
    },
    "CallbackAttempt": {
        "type": "object",
        "description": "One attempt to tell an outcome.",
        "properties": {
            "at_ns": _NANOSECONDS,
            "duration_ns": {"type": "integer", "format": "int64"},
            "status": {"type": "integer", "description": "The status of the answer; 0: none came."},
            "problem": {"type": "string", "description": "Why it does not count as told; empty: it does."},
        },
        "required": ["at_ns", "duration_ns", "status", "problem"],
    },
}


def own_operation(route: OwnRoute) -> Json:
    """What the description says of ``route``."""
    text = descriptions.ROUTES[route.name]
    return {
        "operationId": route.name,
        "summary": text.split(". ", maxsplit=1)[0].rstrip("."),
        "description": text,
        "tags": [_TAGS[route.name]],
        "x-bulletin-roles": sorted(role.value for role in route.roles),
        "parameters": [*_PARAMETERS.get(route.name, []), {"$ref": "#/components/parameters/RequestId"}],
        "responses": {
            **_ANSWERS[route.name],
            "403": {"$ref": "#/components/responses/OtherOrigin"},
            "503": {"$ref": "#/components/responses/NotRuling"},
        },
    }


_TAGS: Final = {
    "Link": "cells",
    "TaskOutput": "tasks",
    "TaskCallbacks": "tasks",
    "TaskEvents": "events",
    "Metrics": "board",
    "OpenAPI": "board",
}


def _json(schema: str) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _refusal(text: str) -> Json:
    return {"description": text, "content": _json("Refusal")}


def _guid(text: str) -> Json:
    return {"name": "guid", "in": "path", "required": True, "description": text, "schema": _GUID}


_GUID: Final[Json] = {"type": "string", "minLength": 1, "pattern": "^[^/]+$"}
_EVENT: Final = (
    "id: 7-42\n"
    "event: task_removed\n"
    'data: {"task": {"task_definition": {"root_fs": "docker:///busybox"}, "task_guid": "g", "domain": "d"}}\n\n'
)

_PARAMETERS: Final[dict[str, list[Json]]] = {
    "TaskOutput": [_guid("The task's.")],
    "TaskCallbacks": [_guid("The task's.")],
    "TaskEvents": [
        {"name": "guid", "in": "query", "description": "Only of this task.", "schema": {"type": "string"}},
        {"name": "domain", "in": "query", "description": "Only of this domain.", "schema": {"type": "string"}},
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "The last id that came: `<epoch>-<sequence>`.",
            "schema": {"type": "string"},
        },
    ],
}

_ANSWERS: Final[dict[str, Json]] = {
    "Link": {
        "101": {"description": "The link is open."},
        "400": {
            "description": "Not a WebSocket's handshake.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
    },
    "TaskOutput": {
        "200": {
            "description": "Lines, each an OutputLine.",
            "content": {
                "application/x-ndjson": {
                    "schema": {"type": "string"},
                    "example": '{"time_ns": 1795460453480163097, "stream": "out", "source": "TASK", "text": "hello"}\n',
                }
            },
        },
        "404": _refusal("No output is kept of this task."),
        "500": _refusal("The store failed."),
    },
    "TaskCallbacks": {
        "200": {"description": "The attempts; none when none was made.", "content": _json("CallbackAttempts")},
        "404": _refusal("There is no such task."),
        "500": _refusal("The board cannot say."),
    },
    "TaskEvents": {
        "200": {
            "description": (
                'Server-sent events task_created and task_removed with `{"task": Task}`, task_changed with '
                '`{"before": Task, "after": Task}`, and missed with `{"reason": text}`.'
            ),
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "examples": {"removed": {"summary": "A task went", "value": _EVENT}},
                }
            },
        },
        "400": _refusal("A filter that there is not."),
    },
    "Metrics": {"200": {"description": "All metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
    "OpenAPI": {
        "200": {
            "description": "An OpenAPI 3.1 document.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    },
}
