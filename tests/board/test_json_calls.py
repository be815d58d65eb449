"""JSON on every route, asked for in either way; errors and long listings too. And the routes of phase 2, by name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from support.served import Served, serve_board

from bulletin.wire.proto import bbs_pb2 as bbs
from bulletin.wire.routes import PHASE2_ROUTES, ROUTES, Route

JSON = "application/json"
CALLS = [route for route in (*ROUTES, *PHASE2_ROUTES) if not route.stream]
DEFINITION = {"root_fs": "docker:///busybox", "action": {"run_action": {"path": "sh", "user": "root"}}}


@pytest.fixture
async def board() -> AsyncIterator[Served]:
    async with serve_board() as served:
        yield served


async def ask(board: Served, route: Route, body: bytes = b"", **headers: str) -> dict:
    """The answer as JSON."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with board.session.request(route.method, board.url + route.path, data=body, headers=sent) as response:
        assert response.status == route.error_status
        assert response.headers["Content-Type"] == JSON
        return await response.json()


def named(name: str) -> Route:
    return next(route for route in CALLS if route.name == name)


@pytest.mark.parametrize("route", CALLS, ids=lambda route: route.name)
async def test_every_call_answers_json_with_json(board, route):
    answer = await ask(board, route, b"{}", Content_Type="application/json; charset=utf-8")
    if route.handler in ("ping", "domains", "cells", "tasks"):
        assert answer == ({"available": True} if route.name == "Ping" else {})
    elif route.handler == "unsupported":
        assert answer["error"]["type"] == "UnknownError"
    else:
        assert answer["error"]["type"] == "InvalidRequest"


@pytest.mark.parametrize("route", [route for route in CALLS if route.request], ids=lambda route: route.name)
async def test_json_that_cannot_be_read_is_refused_in_json(board, route):
    for body in (b"{", b"[]", b'{"task_guid": 1, "domain": 1}', b"\xff"):
        answer = await ask(board, route, body, Content_Type=JSON)
        assert answer == {"error": {"type": "InvalidRequest", "message": "the request received is invalid"}}


@pytest.mark.parametrize("route", [route for route in CALLS if not route.request], ids=lambda route: route.name)
async def test_where_nothing_is_sent_accept_asks_for_json(board, route):
    assert await ask(board, route, Accept="text/html, application/json") == await ask(board, route, Content_Type=JSON)


async def test_the_content_type_decides_where_there_is_a_body(board):
    headers = {"Content-Type": "application/x-protobuf", "Accept": JSON}
    async with board.session.post(board.url + "/v1/tasks/list.r3", data=b"", headers=headers) as response:
        assert response.headers["Content-Type"] == "application/x-protobuf"


async def test_results_with_every_kind_of_character_come_back(board):
    await board.desire("g")
    await board.start("g", "c")
    result = '\x01\x1f\u2028<&>"\\\U0001f600\ufeff\r\n'
    body = json.dumps({"task_guid": "g", "cell_id": "c", "result": result}).encode()
    assert await ask(board, named("CompleteTask"), body, Content_Type=JSON) == {}
    got = await ask(board, named("TaskByGuid"), b'{"taskGuid": "g"}', Content_Type=JSON)
    assert got["task"]["result"] == result


async def test_a_long_listing_is_the_same_in_json(board):
    await asyncio.gather(*[board.desire(f"g{number}", annotation=str(number)) for number in range(45)])
    listed = await ask(board, named("Tasks"), b"", Content_Type=JSON)
    assert sorted(task["task_guid"] for task in listed["tasks"]) == sorted(f"g{number}" for number in range(45))
    listed = await ask(board, named("Tasks"), b'{"domain": "other"}', Content_Type=JSON)
    assert listed == {}


@pytest.mark.parametrize("version", ["r0", "r1", "r2"])
async def test_older_forms_in_json(board, version):
    layer = {"url": "u", "destination_path": "/d", "layer_type": "SHARED", "media_type": "TGZ"}
    body = {"task_guid": "g", "domain": "d", "task_definition": {**DEFINITION, "image_layers": [layer]}}
    assert await ask(board, named("DesireTask_r0"), json.dumps(body).encode(), Content_Type=JSON) == {}
    got = await ask(board, named(f"TaskByGuid_{version}"), b'{"task_guid": "g"}', Content_Type=JSON)
    assert "image_layers" not in got["task"]["task_definition"]
    assert got["task"]["task_definition"]["cached_dependencies"] == [{"from": "u", "to": "/d", "cache_key": "u"}]
    listed = await ask(board, named(f"Tasks_{version}"), b"{}", Content_Type=JSON)
    assert listed["tasks"] == [got["task"]]


@pytest.mark.parametrize("route", PHASE2_ROUTES, ids=lambda route: route.name)
async def test_phase_two_refuses_in_the_type_of_its_answer(board, route):
    for body in (b"", b"\x0a\x01x", b"\xff garbage"):
        async with board.session.request(route.method, board.url + route.path, data=body) as response:
            assert response.status == (501 if route.path.startswith("/v1/events") else 200)
            assert response.headers["Content-Type"] == "application/x-protobuf"
            error = bbs.ErrorOnlyResponse.FromString(await response.read()).error
        assert error.type == bbs.Error.UnknownError
        assert "not supported" in error.message


@pytest.mark.parametrize("route", PHASE2_ROUTES, ids=lambda route: route.name)
async def test_phase_two_has_its_methods_too(board, route):
    other = "GET" if route.method == "POST" else "POST"
    async with board.session.request(other, board.url + route.path) as response:
        assert (response.status, response.headers["Allow"]) == (405, route.method)
