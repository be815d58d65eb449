from __future__ import annotations

import pytest

from bulletin.wire.proto import bbs_pb2
from bulletin.wire.routes import OWN_ROUTES, PHASE2_ROUTES, ROUTES, Role, Route, by_path

#: board-api.md 2.1 and, after the blank line, design section 6: path, request, response, handler, form.
TABLE = """
/v1/ping                        -                   PingResponse          ping            v3
/v1/domains/list                -                   DomainsResponse       domains         v3
/v1/domains/upsert              UpsertDomainRequest UpsertDomainResponse  upsert_domain   v3
/v1/tasks/list.r3               TasksRequest        TasksResponse         tasks           v3
/v1/tasks/get_by_task_guid.r3   TaskByGuidRequest   TaskResponse          task_by_guid    v3
/v1/tasks/list.r2               TasksRequest        TasksResponse         tasks           v2
/v1/tasks/get_by_task_guid.r2   TaskByGuidRequest   TaskResponse          task_by_guid    v2
/v1/tasks/desire.r2             DesireTaskRequest   TaskLifecycleResponse desire_task     v3
/v1/tasks/start                 StartTaskRequest    StartTaskResponse     start_task      v3
/v1/tasks/cancel                TaskGuidRequest     TaskLifecycleResponse cancel_task     v3
/v1/tasks/fail                  FailTaskRequest     TaskLifecycleResponse fail_task       v3
/v1/tasks/reject                RejectTaskRequest   TaskLifecycleResponse reject_task     v3
/v1/tasks/complete              CompleteTaskRequest TaskLifecycleResponse complete_task   v3
/v1/tasks/resolving             TaskGuidRequest     TaskLifecycleResponse resolving_task  v3
/v1/tasks/delete                TaskGuidRequest     TaskLifecycleResponse delete_task     v3
/v1/events/tasks.r1             -                   -                     task_events     v3
/v1/events/tasks                -                   -                     task_events     v2
/v1/cells/list.r1               -                   CellsResponse         cells           v3

/v1/tasks/desire                DesireTaskRequest   TaskLifecycleResponse desire_task     v2
/v1/tasks/list                  TasksRequest        TasksResponse         tasks           v2
/v1/tasks/list.r1               TasksRequest        TasksResponse         tasks           v2
/v1/tasks/get_by_task_guid      TaskByGuidRequest   TaskResponse          task_by_guid    v2
/v1/tasks/get_by_task_guid.r1   TaskByGuidRequest   TaskResponse          task_by_guid    v2
"""
ROWS = [line.split() for line in TABLE.splitlines() if line]


def _name(kind: type | None) -> str:
    return "-" if kind is None else kind.__name__


def test_routes_are_those_of_the_specification():
    ours = [[r.path, _name(r.request), _name(r.response), r.handler, r.form] for r in ROUTES]
    assert ours == ROWS


@pytest.mark.parametrize("route", [*ROUTES, *PHASE2_ROUTES], ids=lambda route: route.name)
def test_every_row_makes_sense(route: Route):
    assert route.method == ("GET" if route.name in ("EventStream", "EventStream_r0") else "POST")
    assert route.path.startswith("/v1/")
    assert route.stream == (route.response is None)
    assert route.reads_body == (route.request is not None)
    assert route.roles


def test_names_and_paths_are_unique():
    routes = [*ROUTES, *PHASE2_ROUTES]
    assert len({r.name for r in routes}) == len(routes)
    assert len({r.path for r in routes}) == len(routes)
    assert not {r.path for r in routes} & {r.path for r in OWN_ROUTES}
    assert not {r.name for r in routes} & {r.name for r in OWN_ROUTES}


@pytest.mark.parametrize("own", OWN_ROUTES, ids=lambda own: own.name)
def test_our_own_routes_only_read(own):
    assert own.method == "GET"
    assert own.roles
    assert own.stream == (own.media_type == "text/event-stream")
    assert own.path.count("{") == own.path.count("{guid}") <= 1


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("Link", {Role.CELL}),
        ("TaskOutput", {Role.CLIENT, Role.OPERATOR}),
        ("TaskCallbacks", {Role.CLIENT, Role.OPERATOR}),
        ("TaskEvents", {Role.CLIENT, Role.OPERATOR}),
        ("Metrics", {Role.OPERATOR}),
        ("OpenAPI", {Role.CLIENT, Role.CELL, Role.OPERATOR}),
    ],
)
def test_who_may_read_what_of_ours(name: str, roles: set[Role]):
    assert [own.roles for own in OWN_ROUTES if own.name == name] == [roles]
    assert name in {own.name for own in OWN_ROUTES}


@pytest.mark.parametrize(
    ("handler", "roles"),
    [
        ("ping", {Role.CLIENT, Role.CELL, Role.OPERATOR}),
        ("domains", {Role.CLIENT, Role.CELL, Role.OPERATOR}),
        ("upsert_domain", {Role.CLIENT, Role.OPERATOR}),
        ("tasks", {Role.CLIENT, Role.CELL, Role.OPERATOR}),
        ("task_by_guid", {Role.CLIENT, Role.CELL, Role.OPERATOR}),
        ("desire_task", {Role.CLIENT, Role.OPERATOR}),
        ("start_task", {Role.CELL}),
        ("cancel_task", {Role.CLIENT, Role.OPERATOR}),
        ("fail_task", {Role.CLIENT, Role.OPERATOR}),
        ("reject_task", {Role.CELL, Role.OPERATOR}),
        ("complete_task", {Role.CELL}),
        ("resolving_task", {Role.CLIENT, Role.OPERATOR}),
        ("delete_task", {Role.CLIENT, Role.OPERATOR}),
        ("task_events", {Role.CLIENT, Role.OPERATOR}),
        ("cells", {Role.CLIENT, Role.CELL, Role.OPERATOR}),
    ],
)
def test_who_may_call_what(handler: str, roles: set[Role]):
    served = [r for r in ROUTES if r.handler == handler]
    assert served
    assert all(r.roles == roles for r in served)


def test_phase_two_answers_can_carry_an_error():
    assert len(PHASE2_ROUTES) == 32
    assert {r.response for r in PHASE2_ROUTES} == {bbs_pb2.ErrorOnlyResponse}
    field = bbs_pb2.ErrorOnlyResponse.DESCRIPTOR.fields_by_name["error"]
    assert (field.number, field.message_type) == (1, bbs_pb2.Error.DESCRIPTOR)


def test_streams_of_phase_two_refuse_in_a_way_that_no_client_repeats():
    refusing = {r.name for r in PHASE2_ROUTES if r.error_status != 200}
    assert refusing == {"EventStream", "EventStream_r0", "LRPInstanceEventStream", "LrpInstanceEventStream_r0"}
    assert {r.error_status for r in PHASE2_ROUTES if r.name in refusing} == {501}
    assert {r.error_status for r in ROUTES} == {200}


def test_which_answers_can_carry_an_error():
    without = {r.name for r in (*ROUTES, *PHASE2_ROUTES) if not r.has_error}
    assert without == {"Ping", "TaskEventStream", "TaskEventStream_r0"}


def test_every_response_but_ping_has_its_error_first():
    for route in ROUTES:
        if route.response is not None and route.name != "Ping":
            assert route.response.DESCRIPTOR.fields_by_number[1].message_type is bbs_pb2.Error.DESCRIPTOR


def test_by_path():
    table = by_path()
    assert len(table) == len(ROUTES)
    assert table["/v1/ping"] == {"POST": ROUTES[0]}
    both = by_path([*ROUTES, *PHASE2_ROUTES])
    assert both["/v1/actual_lrps/start.r1"]["POST"].name == "StartActualLRP"
    with pytest.raises(AssertionError, match="stands twice"):
        by_path([*ROUTES, ROUTES[0]])
