"""The description that a running board serves, and the board held against it: schemathesis makes the requests."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from urllib.request import Request, urlopen

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode
from support.bulletin import BoardProcess

from bulletin.wire import openapi
from bulletin.wire.routes import OWN_ROUTES, PHASE2_ROUTES, ROUTES

#: Streams never end, and the link is a WebSocket: schemathesis would wait. They have tests of their own below.
ENDLESS = {route.name for route in (*ROUTES, *OWN_ROUTES) if route.stream} | {"Link"}
CALLED = [route.name for route in (*ROUTES, *PHASE2_ROUTES, *OWN_ROUTES) if route.name not in ENDLESS]
WITH_BODY = [route.name for route in ROUTES if route.request is not None]
#: Told by the status, because a Go client would come again for ever for 500, 502, 503 and 504 (board-api.md 11.4).
REFUSED_WITH_501 = {route.name for route in PHASE2_ROUTES if route.error_status == 501}
#: A call that makes no sense is answered with 200 and an error in it (board-api.md 1.3), which this check cannot know.
UNFIT_CHECKS = {"negative_data_rejection"}

TASK = {
    "root_fs": "docker:///busybox",
    "action": {"timeout_action": {"timeout_ms": "10", "action": {"run_action": {"path": "sh", "user": "root"}}}},
    "log_rate_limit": {"bytes_per_second": "-1"},
    "image_layers": [{"url": "u", "destination_path": "d", "layer_type": "SHARED", "media_type": "TGZ"}],
    "metric_tags": {"a": {"dynamic": "INDEX"}},
}


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BoardProcess]:
    """A board with a task in each state."""
    board = BoardProcess(tmp_path_factory.mktemp("board"))
    url = board.start()
    try:
        for guid in ("pending", "running", "completed", "resolving"):
            call(url, "/v1/tasks/desire.r2", {"task_guid": guid, "domain": "d", "task_definition": TASK})
        for guid in ("running", "completed", "resolving"):
            call(url, "/v1/tasks/start", {"task_guid": guid, "cell_id": "c"})
        for guid in ("completed", "resolving"):
            call(url, "/v1/tasks/complete", {"task_guid": guid, "cell_id": "c", "result": "\u2603 \x01 <&>"})
        call(url, "/v1/tasks/resolving", {"task_guid": "resolving"})
        call(url, "/v1/domains/upsert", {"domain": "d"})
        yield board
        board.stop()
    finally:
        if board.running:
            board.kill()


@pytest.fixture(scope="module")
def api(board: BoardProcess) -> schemathesis.schemas.BaseSchema:
    return schemathesis.openapi.from_url(board.url + "/openapi.json")


def call(url: str, path: str, message: dict[str, object]) -> dict[str, object]:
    request = Request(url + path, json.dumps(message).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=10) as response:
        answer = json.load(response)
    assert "error" not in answer, answer
    return answer


def test_what_is_served_is_the_description_of_this_program(board: BoardProcess):
    with urlopen(board.url + "/openapi.json", timeout=10) as response:
        assert response.headers["Content-Type"] == "application/json"
        assert json.load(response) == openapi.document(version("bulletin"))


def test_it_is_valid_openapi(api: schemathesis.schemas.BaseSchema):
    api.validate()
    operations = [operation for path in api.raw_schema["paths"].values() for operation in path.values()]
    assert sorted(operation["operationId"] for operation in operations) == sorted([*ENDLESS, *CALLED])


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, GenerationMode.POSITIVE) for name in CALLED] + [(name, GenerationMode.NEGATIVE) for name in WITH_BODY],
)
def test_requests_of_every_kind_are_answered_as_described(api, name: str, mode: GenerationMode):
    operation = api.find_operation_by_id(name)
    has_body = name in WITH_BODY
    unfit = UNFIT_CHECKS | ({"not_a_server_error"} if name in REFUSED_WITH_501 else set())
    excluded = CHECKS.get_by_names(sorted(unfit))

    @settings(
        max_examples=20 if has_body else 3,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode, media_type="application/json" if has_body else None))
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(headers={"Accept": "application/json"}, excluded_checks=excluded, timeout=10)

    check()


@pytest.mark.parametrize("name", sorted(ENDLESS - {"Link"}))
def test_streams_begin_as_described(api, board: BoardProcess, name: str):
    operation = api.find_operation_by_id(name)
    described = operation.definition.raw["responses"]["200"]["content"]
    host, _, port = board.url.removeprefix("http://").rpartition(":")
    with closing(socket.create_connection((host, int(port)), timeout=10)) as connection:
        head = f"{operation.method.upper()} {operation.path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(head.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert [f"\r\nContent-Type: {kind}".encode() in answer for kind in described] == [True]


def test_the_link_refuses_whoever_is_no_websocket(api, board: BoardProcess):
    api.find_operation_by_id("Link").Case().call_and_validate(timeout=10)


def test_the_description_does_not_promise_fields_that_requests_do_not_take(board: BoardProcess):
    """Every field of a definition, in JSON, comes back as it was sent."""
    call(board.url, "/v1/tasks/desire.r2", {"task_guid": "mirror", "domain": "d", "task_definition": TASK})
    task = call(board.url, "/v1/tasks/get_by_task_guid.r3", {"task_guid": "mirror"})["task"]
    assert task["task_definition"] == TASK
