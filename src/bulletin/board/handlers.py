"""One short function for each route: a checked message in, the encoded answer out.

A handler is ``async (reign, message, form) -> bytes | Iterator[bytes]``: the whole protobuf answer (empty for plain
success), or, for a listing, the encoded tasks one by one. A refusal is raised as ``TaskError``. Handlers see neither
HTTP nor the store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from bulletin.board.reign import Reign
from bulletin.core.errors import ErrorType, TaskError, bad_request, unstorable
from bulletin.core.limits import IDENTIFIER_CHARACTERS_MAX
from bulletin.core.operations import Cancel, Complete, Delete, Desire, Fail, Operation, Reject, Resolving, Start
from bulletin.wire import tasks as wire_tasks
from bulletin.wire import validation
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.routes import Form

__all__ = ["HANDLERS", "Answer", "Handler"]

Answer = bytes | Iterator[bytes]
Handler = Callable[[Reign, Any, Form], Awaitable[Answer]]

_PING: Final = bbs_pb2.PingResponse(available=True).SerializeToString()
_SHOULD_START: Final = bbs_pb2.StartTaskResponse(should_start=True).SerializeToString()
_SECOND_NS: Final = 1_000_000_000
#: "for ever", as the reference stores it (board-api.md section 12).
_FOR_EVER_NS: Final = 2**63 - 1


async def ping(_reign: Reign, _message: None, _form: Form) -> Answer:
    """Say that the board is there."""
    return _PING


async def desire_task(reign: Reign, message: bbs_pb2.DesireTaskRequest, _form: Form) -> Answer:
    """Take a task on; answered once it is durable."""
    definition = reign.definitions.take(message)
    return await _apply(reign, Desire(message.task_guid, message.domain, definition))


async def task_by_guid(reign: Reign, message: bbs_pb2.TaskByGuidRequest, form: Form) -> Answer:
    """Show one task."""
    validation.check_guid(message)
    task = await reign.writer.read(message.task_guid)
    if task is None:
        raise TaskError(ErrorType.RESOURCE_NOT_FOUND)
    return wire_tasks.task_response(wire_tasks.encode_task_as(task, form))


async def tasks(reign: Reign, message: bbs_pb2.TasksRequest, form: Form) -> Answer:
    """Show all tasks, or those of a domain and of a cell."""
    everything = await reign.writer.snapshot()
    domain, cell_id = message.domain, message.cell_id
    chosen = (
        task
        for task in everything
        if (not domain or task.domain == domain) and (not cell_id or task.cell_id == cell_id)
    )
    return (wire_tasks.encode_task_as(task, form) for task in chosen)


async def start_task(reign: Reign, message: bbs_pb2.StartTaskRequest, _form: Form) -> Answer:
    """A cell claims a task."""
    validation.check_start(message)
    step = await reign.writer.apply(Start(message.task_guid, message.cell_id))
    return _SHOULD_START if step.should_start else b""


async def complete_task(reign: Reign, message: bbs_pb2.CompleteTaskRequest, _form: Form) -> Answer:
    """A cell tells an outcome."""
    validation.check_complete(message)
    return await _apply(
        reign,
        Complete(message.task_guid, message.cell_id, message.failed, message.failure_reason, message.result),
    )


async def cancel_task(reign: Reign, message: bbs_pb2.TaskGuidRequest, _form: Form) -> Answer:
    """A client takes a task back; its container is stopped in the background."""
    validation.check_guid(message)
    return await _apply(reign, Cancel(message.task_guid))


async def fail_task(reign: Reign, message: bbs_pb2.FailTaskRequest, _form: Form) -> Answer:
    """Fail a task."""
    validation.check_fail(message)
    return await _apply(reign, Fail(message.task_guid, message.failure_reason))


async def reject_task(reign: Reign, message: bbs_pb2.RejectTaskRequest, _form: Form) -> Answer:
    """Put a task back, or fail it after too many tries."""
    validation.check_reject(message)
    return await _apply(reign, Reject(message.task_guid, message.rejection_reason))


async def resolving_task(reign: Reign, message: bbs_pb2.TaskGuidRequest, _form: Form) -> Answer:
    """Take the telling of an outcome on; one caller wins."""
    validation.check_guid(message)
    return await _apply(reign, Resolving(message.task_guid))


async def delete_task(reign: Reign, message: bbs_pb2.TaskGuidRequest, _form: Form) -> Answer:
    """Remove a resolved task."""
    validation.check_guid(message)
    return await _apply(reign, Delete(message.task_guid))


async def cells(reign: Reign, _message: None, _form: Form) -> Answer:
    """Show the cells that are here."""
    return bbs_pb2.CellsResponse(cells=reign.cells.presences()).SerializeToString()


async def domains(reign: Reign, _message: None, _form: Form) -> Answer:
    """Show the fresh domains."""
    now = (reign.clock.now_ns() + _SECOND_NS // 2) // _SECOND_NS * _SECOND_NS
    fresh = [domain for domain, until in reign.writer.domains.items() if until > now]
    return bbs_pb2.DomainsResponse(domains=fresh).SerializeToString()


async def upsert_domain(reign: Reign, message: bbs_pb2.UpsertDomainRequest, _form: Form) -> Answer:
    """Keep a domain fresh for a time."""
    validation.check_domain(message)
    if len(message.domain) > IDENTIFIER_CHARACTERS_MAX:
        raise bad_request()
    if "\0" in message.domain:
        raise unstorable()
    until = reign.clock.now_ns() + message.ttl * _SECOND_NS if message.ttl else _FOR_EVER_NS
    await reign.writer.upsert_domain(message.domain, until)
    return b""


async def unsupported(_reign: Reign, _message: None, _form: Form) -> Answer:
    """A route of the reference's API that belongs to long-running processes."""
    raise TaskError(
        ErrorType.UNKNOWN_ERROR, "long-running processes (LRPs) are not supported yet; this board runs tasks"
    )


async def _apply(reign: Reign, operation: Operation) -> bytes:
    await reign.writer.apply(operation)
    return b""


HANDLERS: Final[dict[str, Handler]] = {
    handler.__name__: handler
    for handler in (
        ping,
        desire_task,
        task_by_guid,
        tasks,
        start_task,
        complete_task,
        cancel_task,
        fail_task,
        reject_task,
        resolving_task,
        delete_task,
        cells,
        domains,
        upsert_domain,
        unsupported,
    )
}
