"""The API in one table: paths, messages, handlers and who may call what (board-api.md section 2, design section 6).

A route that is not here does not exist. ``ROUTES`` is what the board serves; ``PHASE2_ROUTES`` is the rest of the
reference's API, whose answers can at least carry an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from google.protobuf.message import Message

from bulletin.wire.proto.bbs_pb2 import (
    CellsResponse,
    CompleteTaskRequest,
    DesireTaskRequest,
    DomainsResponse,
    ErrorOnlyResponse,
    FailTaskRequest,
    PingResponse,
    RejectTaskRequest,
    StartTaskRequest,
    StartTaskResponse,
    TaskByGuidRequest,
    TaskGuidRequest,
    TaskLifecycleResponse,
    TaskResponse,
    TasksRequest,
    TasksResponse,
    UpsertDomainRequest,
    UpsertDomainResponse,
)

__all__ = ["OWN_ROUTES", "PHASE2_ROUTES", "ROUTES", "Form", "OwnRoute", "Role", "Route", "by_path"]

#: How tasks are shown: as stored, or rewritten for older clients (board-api.md 2.3).
Form = Literal["v3", "v2"]


class Role(Enum):
    """What a caller is; one caller may be several (design promise S14)."""

    CLIENT = "client"
    CELL = "cell"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the API."""

    #: The reference's name; used in logs and metrics.
    name: str
    method: str
    path: str
    #: None: the body means nothing and is not parsed.
    request: type[Message] | None
    #: None: the answer is a stream of events.
    response: type[Message] | None
    #: The handler that serves it; several routes may share one.
    handler: str
    roles: frozenset[Role]
    form: Form = "v3"
    stream: bool = False
    #: False: whatever the body holds is thrown away (board-api.md 1.2).
    reads_body: bool = True
    #: The HTTP status of an answer with an error (board-api.md 1.3).
    error_status: int = 200

    @property
    def has_error(self) -> bool:
        """Whether an error can travel in the answer: not in a stream, and not in a PingResponse."""
        return self.response is not None and "error" in self.response.DESCRIPTOR.fields_by_name


@dataclass(frozen=True, slots=True)
class OwnRoute:
    """One route of ours that no BBS has."""

    name: str
    method: str
    #: ``{guid}`` stands for a task's guid.
    path: str
    #: What serves it.
    handler: str
    roles: frozenset[Role]
    #: Of its answer when all goes well.
    media_type: str
    #: Whether the answer is a stream of events, which goes on until one side leaves.
    stream: bool = False


_ANYONE: Final = frozenset(Role)
_CLIENT: Final = frozenset({Role.CLIENT, Role.OPERATOR})
#: Only the cell that runs a task starts and completes it (design promises S1 and S5): not even an operator does.
_CELL: Final = frozenset({Role.CELL})
_CELL_OR_OPERATOR: Final = frozenset({Role.CELL, Role.OPERATOR})


def _call(
    name: str,
    path: str,
    request: type[Message] | None,
    response: type[Message],
    handler: str,
    roles: frozenset[Role],
    form: Form = "v3",
) -> Route:
    return Route(name, "POST", path, request, response, handler, roles, form, reads_body=request is not None)


def _stream(name: str, path: str, form: Form) -> Route:
    return Route(name, "POST", path, None, None, "task_events", _CLIENT, form, stream=True, reads_body=False)


# One row a line, as in the specification's table: what a formatter makes of it takes 100 lines and cannot be compared.
# fmt: off
ROUTES: Final[tuple[Route, ...]] = (
    _call("Ping", "/v1/ping", None, PingResponse, "ping", _ANYONE),
    _call("Domains", "/v1/domains/list", None, DomainsResponse, "domains", _ANYONE),
    _call("UpsertDomain", "/v1/domains/upsert", UpsertDomainRequest, UpsertDomainResponse, "upsert_domain", _CLIENT),
    _call("Tasks", "/v1/tasks/list.r3", TasksRequest, TasksResponse, "tasks", _ANYONE),
    _call("TaskByGuid", "/v1/tasks/get_by_task_guid.r3", TaskByGuidRequest, TaskResponse, "task_by_guid", _ANYONE),
    _call("Tasks_r2", "/v1/tasks/list.r2", TasksRequest, TasksResponse, "tasks", _ANYONE, "v2"),
    _call("TaskByGuid_r2", "/v1/tasks/get_by_task_guid.r2", TaskByGuidRequest, TaskResponse, "task_by_guid", _ANYONE,
          "v2"),
    _call("DesireTask", "/v1/tasks/desire.r2", DesireTaskRequest, TaskLifecycleResponse, "desire_task", _CLIENT),
    _call("StartTask", "/v1/tasks/start", StartTaskRequest, StartTaskResponse, "start_task", _CELL),
    _call("CancelTask", "/v1/tasks/cancel", TaskGuidRequest, TaskLifecycleResponse, "cancel_task", _CLIENT),
    _call("FailTask", "/v1/tasks/fail", FailTaskRequest, TaskLifecycleResponse, "fail_task", _CLIENT),
    _call("RejectTask", "/v1/tasks/reject", RejectTaskRequest, TaskLifecycleResponse, "reject_task", _CELL_OR_OPERATOR),
    _call("CompleteTask", "/v1/tasks/complete", CompleteTaskRequest, TaskLifecycleResponse, "complete_task", _CELL),
    _call("ResolvingTask", "/v1/tasks/resolving", TaskGuidRequest, TaskLifecycleResponse, "resolving_task", _CLIENT),
    _call("DeleteTask", "/v1/tasks/delete", TaskGuidRequest, TaskLifecycleResponse, "delete_task", _CLIENT),
    _stream("TaskEventStream", "/v1/events/tasks.r1", "v3"),
    _stream("TaskEventStream_r0", "/v1/events/tasks", "v2"),
    _call("Cells", "/v1/cells/list.r1", None, CellsResponse, "cells", _ANYONE),
    # Gone from the reference, still in its public documents (design section 6).
    _call("DesireTask_r0", "/v1/tasks/desire", DesireTaskRequest, TaskLifecycleResponse, "desire_task", _CLIENT, "v2"),
    _call("Tasks_r0", "/v1/tasks/list", TasksRequest, TasksResponse, "tasks", _ANYONE, "v2"),
    _call("Tasks_r1", "/v1/tasks/list.r1", TasksRequest, TasksResponse, "tasks", _ANYONE, "v2"),
    _call("TaskByGuid_r0", "/v1/tasks/get_by_task_guid", TaskByGuidRequest, TaskResponse, "task_by_guid", _ANYONE,
          "v2"),
    _call("TaskByGuid_r1", "/v1/tasks/get_by_task_guid.r1", TaskByGuidRequest, TaskResponse, "task_by_guid", _ANYONE,
          "v2"),
)
# fmt: on


def _later(name: str, path: str) -> Route:
    return Route(name, "POST", path, None, ErrorOnlyResponse, "unsupported", _ANYONE, reads_body=False)


def _later_stream(name: str, method: str, path: str) -> Route:
    """501: the Go client takes 500, 502, 503 and 504 for a reason to come again, for ever (board-api.md 11.4)."""
    return Route(
        name, method, path, None, ErrorOnlyResponse, "unsupported", _ANYONE, reads_body=False, error_status=501
    )


#: LRPs and evacuation (board-api.md 2.2). Every response there has ``error`` as field 1.
PHASE2_ROUTES: Final[tuple[Route, ...]] = (
    _later("ActualLRPs", "/v1/actual_lrps/list"),
    _later("ActualLRPsByProcessGuids", "/v1/actual_lrps/list_by_process_guids"),
    _later("ActualLRPGroups", "/v1/actual_lrp_groups/list"),
    _later("ActualLRPGroupsByProcessGuid", "/v1/actual_lrp_groups/list_by_process_guid"),
    _later("ActualLRPGroupsByProcessGuidAndIndex", "/v1/actual_lrp_groups/get_by_process_guid_and_index"),
    _later("ClaimActualLRP", "/v1/actual_lrps/claim"),
    _later("StartActualLRP", "/v1/actual_lrps/start.r1"),
    _later("StartActualLRP_r0", "/v1/actual_lrps/start"),
    _later("CrashActualLRP", "/v1/actual_lrps/crash"),
    _later("FailActualLRP", "/v1/actual_lrps/fail"),
    _later("RemoveActualLRP", "/v1/actual_lrps/remove"),
    _later("RetireActualLRP", "/v1/actual_lrps/retire"),
    _later("RemoveEvacuatingActualLRP", "/v1/actual_lrps/remove_evacuating"),
    _later("EvacuateClaimedActualLRP", "/v1/actual_lrps/evacuate_claimed"),
    _later("EvacuateCrashedActualLRP", "/v1/actual_lrps/evacuate_crashed"),
    _later("EvacuateStoppedActualLRP", "/v1/actual_lrps/evacuate_stopped"),
    _later("EvacuateRunningActualLRP", "/v1/actual_lrps/evacuate_running.r1"),
    _later("EvacuateRunningActualLRP_r0", "/v1/actual_lrps/evacuate_running"),
    _later("DesiredLRPs", "/v1/desired_lrps/list.r3"),
    _later("DesiredLRPByProcessGuid", "/v1/desired_lrps/get_by_process_guid.r3"),
    _later("DesiredLRPs_r2", "/v1/desired_lrps/list.r2"),
    _later("DesiredLRPByProcessGuid_r2", "/v1/desired_lrps/get_by_process_guid.r2"),
    _later("DesiredLRPSchedulingInfos", "/v1/desired_lrp_scheduling_infos/list"),
    _later("DesiredLRPSchedulingInfoByProcessGuid", "/v1/desired_lrp_scheduling_infos/get_by_process_guid"),
    _later("DesiredLRPRoutingInfos", "/v1/desired_lrp_routing_infos/list"),
    _later("DesireDesiredLRP", "/v1/desired_lrp/desire.r2"),
    _later("UpdateDesireLRP", "/v1/desired_lrp/update"),
    _later("RemoveDesiredLRP", "/v1/desired_lrp/remove"),
    _later_stream("EventStream", "GET", "/v1/events.r1"),
    _later_stream("EventStream_r0", "GET", "/v1/events"),
    _later_stream("LRPInstanceEventStream", "POST", "/v1/events/lrp_instances.r1"),
    _later_stream("LrpInstanceEventStream_r0", "POST", "/v1/events/lrp_instances"),
)


_OPERATOR: Final = frozenset({Role.OPERATOR})
_LINKED: Final = frozenset({Role.CELL})

# fmt: off
OWN_ROUTES: Final[tuple[OwnRoute, ...]] = (
    OwnRoute("Link", "GET", "/v1/link", "link", _LINKED, "application/x-protobuf"),
    OwnRoute("TaskOutput", "GET", "/v1/tasks/{guid}/output", "task_output", _CLIENT, "application/x-ndjson"),
    OwnRoute("TaskCallbacks", "GET", "/v1/tasks/{guid}/callbacks", "task_callbacks", _CLIENT, "application/json"),
    OwnRoute("TaskEvents", "GET", "/v1/task_events", "task_events", _CLIENT, "text/event-stream", stream=True),
    OwnRoute("OpenAPI", "GET", "/openapi.json", "openapi", _ANYONE, "application/json"),
    OwnRoute("Metrics", "GET", "/metrics", "metrics", _OPERATOR, "text/plain"),
)
# fmt: on


def by_path(routes: Iterable[Route] = ROUTES) -> dict[str, dict[str, Route]]:
    """``routes`` for a dispatcher: path to method to route. A path without the method asked for is a 405."""
    table: dict[str, dict[str, Route]] = {}
    for route in routes:
        methods = table.setdefault(route.path, {})
        assert route.method not in methods, f"{route.method} {route.path} stands twice"
        methods[route.method] = route
    return table
