"""The asynchronous client of a board, which is any board that speaks the BBS's wire (board-api.md section 2)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl as tls
import uuid
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from google.protobuf.message import Message

from bulletin.client.decoding import read_attempt, read_cell, read_line, read_reason, read_task, write_definition
from bulletin.client.errors import (
    InvalidRequest,
    OutputNotFound,
    TaskExists,
    TaskNotFound,
    WaitTimeout,
    refusal,
)
from bulletin.client.following import Following
from bulletin.client.subscriptions import follow
from bulletin.client.transport import Transport
from bulletin.client.values import Cell, Followed, Outcome, OutputLine
from bulletin.client.waits import RECONNECT_SECONDS, Wait, Waits
from bulletin.core.definition import TaskDefinition
from bulletin.core.errors import ErrorType
from bulletin.core.model import CallbackAttempt, Task
from bulletin.core.operations import Event
from bulletin.trust.contexts import client_context
from bulletin.trust.files import TlsFiles
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.tasks import parse_definition

__all__ = ["DEFAULT_URL", "FAILOVER_SECONDS", "AsyncClient"]

#: Where ``bulletin up`` and ``bulletin board`` listen unless told otherwise.
DEFAULT_URL: Final = "http://127.0.0.1:8889"
_TIMEOUT_SECONDS: Final = 30.0
_ATTEMPTS: Final = 3
#: A standby that takes over needs its predecessor's lease to run out (3 s) and the tasks to be loaded.
FAILOVER_SECONDS: Final = 15.0


class AsyncClient:
    """A client of a board and its standbys, for use in one event loop.

    ``async with AsyncClient() as client: outcome = await client.run(definition)``. Connections are opened when they are
    first needed and kept; leaving the block (or ``aclose``) closes them.

    Args:
        url: the board, ``http://`` or ``https://``; several, separated by commas or as a sequence, if it has standbys.
            The one that answered last is asked first, the next one when it refuses, is silent, or answers 503.
        timeout_seconds: for one attempt of one call, from the connection to the last byte.
        retries: how often a call asks each board; a failure of transport is tried again after 0.5 s, an error in an
            answer never (board-api.md 1.4).
        failover_seconds: with several boards, how long a call goes on asking them in turn at least.
        reconnect_seconds: how long ``wait``, ``run`` and ``follow`` bear that no board answers.
        ca: for https: the authorities to trust, a PEM file; None trusts the machine's.
        cert: for https: our certificate, a PEM file; needs ``ca``.
        key: the certificate's key, a PEM file; None looks for it in ``cert``.
        ssl: for https, instead of the three files.

    Every method but ``events`` and ``follow`` may raise ``BoardUnreachable`` (no answer) and ``Refused`` (an error in
    the answer, ``Forbidden`` for want of a role); those named in a method are kinds of the latter to be expected there.

    Raises:
        ValueError: an argument makes no sense.
        TrustError: a file cannot be used.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        timeout_seconds: float = _TIMEOUT_SECONDS,
        retries: int = _ATTEMPTS,
        failover_seconds: float = FAILOVER_SECONDS,
        reconnect_seconds: float = RECONNECT_SECONDS,
        ca: Path | str | None = None,
        cert: Path | str | None = None,
        key: Path | str | None = None,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        self._transport = Transport(
            url,
            timeout_seconds=timeout_seconds,
            retries=retries,
            failover_seconds=failover_seconds,
            ssl=_choose_context(ssl, ca, cert, key),
        )
        self._reconnect_seconds = reconnect_seconds
        self._waits: Waits | None = None

    @property
    def url(self) -> str:
        """Of the board that is asked first: the one that answered last."""
        return self._transport.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection; waits under way fail. Idempotent."""
        if self._waits is not None:
            waits, self._waits = self._waits, None
            await waits.close()
        await self._transport.close()

    # -- tasks: clients ------------------------------------------------------------------------------------------

    async def desire(self, guid: str, domain: str, definition: TaskDefinition) -> None:
        """Ask for a task to be run. When this returns, the board has it durably.

        A desire whose answer was lost is sent again; when the board then says that the guid exists, the task it has is
        compared, and one of the same domain and definition is taken for ours.

        Args:
            guid: ``[A-Za-z0-9_-]``, 1 to 255 characters, unused.
            domain: 1 to 255 characters; tasks are listed by it.
            definition: what to run.

        Raises:
            InvalidRequest: ``problems`` names what is wrong.
            TaskExists: there is a task of that guid.
        """
        message = write_definition(definition)
        request = bbs_pb2.DesireTaskRequest(task_definition=message, task_guid=guid, domain=domain)
        try:
            await self._lifecycle("/v1/tasks/desire.r2", request, guid)
        except TaskExists as error:
            if not error.repeated or not await self._is_stored(guid, domain, message):
                raise

    async def task(self, guid: str) -> Task:
        """The task as it is now.

        Raises:
            TaskNotFound: there is none.
        """
        request = bbs_pb2.TaskByGuidRequest(task_guid=guid)
        answer = await self._transport.call(
            "/v1/tasks/get_by_task_guid.r3", request, bbs_pb2.TaskResponse, subject=guid
        )
        return read_task(answer.task)

    async def tasks(self, domain: str = "", cell_id: str = "") -> list[Task]:
        """All tasks, or those of a domain, of a cell, or of both; in no particular order."""
        request = bbs_pb2.TasksRequest(domain=domain, cell_id=cell_id)
        answer = await self._transport.call("/v1/tasks/list.r3", request, bbs_pb2.TasksResponse)
        return [read_task(task) for task in answer.tasks]

    async def cancel(self, guid: str) -> None:
        """End a task that has not ended: it is Completed at once, failed with ``task was cancelled``.

        Raises:
            TaskNotFound, InvalidTransition: there is none, or it has ended.
        """
        await self._lifecycle("/v1/tasks/cancel", bbs_pb2.TaskGuidRequest(task_guid=guid), guid)

    async def fail(self, guid: str, reason: str) -> None:
        """End a task that has not ended: it is Completed at once, failed with ``reason``.

        Raises:
            TaskNotFound, InvalidTransition: there is none, or it has ended.
        """
        await self._lifecycle("/v1/tasks/fail", bbs_pb2.FailTaskRequest(task_guid=guid, failure_reason=reason), guid)

    async def resolving(self, guid: str) -> None:
        """Take on the telling of a completed task's outcome; of several callers one succeeds.

        Raises:
            TaskNotFound, InvalidTransition: there is none, or it is not Completed.
        """
        await self._lifecycle("/v1/tasks/resolving", bbs_pb2.TaskGuidRequest(task_guid=guid), guid)

    async def delete(self, guid: str) -> None:
        """Remove a task that is Resolving.

        Raises:
            TaskNotFound, InvalidTransition: there is none, or it is not Resolving.
        """
        await self._lifecycle("/v1/tasks/delete", bbs_pb2.TaskGuidRequest(task_guid=guid), guid)

    # -- tasks: cells --------------------------------------------------------------------------------------------

    async def start(self, guid: str, cell_id: str) -> bool:
        """Claim a task for a cell, before any of its code runs.

        Returns:
            Whether to run it; False when the same cell has it already.

        Raises:
            TaskNotFound, InvalidTransition: there is none, or it is not Pending.
        """
        request = bbs_pb2.StartTaskRequest(task_guid=guid, cell_id=cell_id)
        answer = await self._transport.call("/v1/tasks/start", request, bbs_pb2.StartTaskResponse, subject=guid)
        return answer.should_start

    async def complete(
        self, guid: str, cell_id: str, *, failed: bool = False, failure_reason: str = "", result: str = ""
    ) -> None:
        """Tell the outcome of a task, as the cell that runs it.

        Raises:
            TaskNotFound, InvalidTransition, RunningOnAnotherCell: it is not that cell's running task.
        """
        request = bbs_pb2.CompleteTaskRequest(
            task_guid=guid, cell_id=cell_id, failed=failed, failure_reason=failure_reason, result=result
        )
        await self._lifecycle("/v1/tasks/complete", request, guid)

    async def reject(self, guid: str, reason: str) -> None:
        """Give a task back that could not be started; it is placed again, or failed after enough rejections.

        Raises:
            TaskNotFound, InvalidRequest, InvalidTransition: there is none, or it has ended.
        """
        request = bbs_pb2.RejectTaskRequest(task_guid=guid, rejection_reason=reason)
        await self._lifecycle("/v1/tasks/reject", request, guid)

    # -- tasks: outcomes -----------------------------------------------------------------------------------------

    async def wait(self, guid: str, timeout_seconds: float | None = None) -> Task:
        """Wait until a task is Completed or Resolving.

        Any number of waits share one event stream; nothing is polled. A task that is removed while it is waited for
        is given as it was last.

        Args:
            guid: the task.
            timeout_seconds: None waits for as long as it takes.

        Raises:
            TaskNotFound: there is none.
            TaskGone: it was removed unseen, while the connection was cut.
            WaitTimeout: it did not end in time; it goes on.
        """
        waits = self._open_waits()
        async with waits.watching(guid) as wait:
            await waits.find(wait)
            return await _ended(wait, timeout_seconds)

    async def run(
        self,
        definition: TaskDefinition,
        *,
        guid: str | None = None,
        domain: str = "default",
        timeout_seconds: float | None = None,
    ) -> Outcome:
        """Desire a task and wait for its end: one request and one event.

        Args:
            definition: what to run.
            guid: None makes a random one.
            domain: the task's.
            timeout_seconds: for the wait, once the board has the task; None waits for as long as it takes. A task that
                is late goes on; cancel it if it is not wanted any more.

        Raises:
            InvalidRequest, TaskExists: as ``desire``.
            TaskGone, WaitTimeout: as ``wait``.
        """
        guid = str(uuid.uuid4()) if guid is None else guid
        waits = self._open_waits()
        async with waits.watching(guid) as wait:
            await self.desire(guid, domain, definition)
            await waits.confirm(wait)
            return Outcome(await _ended(wait, timeout_seconds))

    async def output(self, guid: str) -> list[OutputLine]:
        """The kept output of an ended task, oldest first. A board of Bulletin has it; a BBS does not.

        Raises:
            OutputNotFound: there is none, and why.
        """
        # A guid that came from a user must not become another path.
        path = f"/v1/tasks/{quote(guid, safe='')}/output"
        status, content_type, body = await self._transport.get(path)
        if status == _NOT_FOUND:
            raise OutputNotFound(guid, read_reason(content_type, body))
        if status != _OK or content_type != "application/x-ndjson":
            raise refusal(0, f"it answered {status} {content_type} to {path}", self.url)
        try:
            return [read_line(line) for line in body.split(b"\n") if line]
        except (ValueError, KeyError, TypeError) as error:
            raise refusal(ErrorType.INVALID_JSON, "the kept output cannot be read", guid) from error

    async def callback_attempts(self, guid: str) -> list[CallbackAttempt]:
        """The newest attempts to tell a task's outcome to its callback, oldest first; a BBS keeps none.

        Raises:
            TaskNotFound: there is no such task.
        """
        path = f"/v1/tasks/{quote(guid, safe='')}/callbacks"
        status, content_type, body = await self._transport.get(path)
        if status == _NOT_FOUND:
            if content_type == "application/json":
                raise refusal(ErrorType.RESOURCE_NOT_FOUND, read_reason(content_type, body), guid)
            return []  # a server without the route
        if status != _OK or content_type != "application/json":
            raise refusal(0, f"it answered {status} {content_type} to {path}", self.url)
        try:
            return [read_attempt(attempt) for attempt in json.loads(body)["attempts"]]
        except (ValueError, KeyError, TypeError) as error:
            raise refusal(ErrorType.INVALID_JSON, "the callback attempts cannot be read", guid) from error

    # -- everything else -----------------------------------------------------------------------------------------

    async def ping(self) -> bool:
        """Whether the board says that it is there."""
        return (await self._transport.call("/v1/ping", None, bbs_pb2.PingResponse)).available

    async def domains(self) -> list[str]:
        """The fresh domains."""
        return list((await self._transport.call("/v1/domains/list", None, bbs_pb2.DomainsResponse)).domains)

    async def upsert_domain(self, domain: str, ttl_seconds: int) -> None:
        """Say that a domain is fresh for ``ttl_seconds``; 0 is for ever.

        Raises:
            InvalidRequest: no name, or a ``ttl_seconds`` that does not fit 32 bits.
        """
        if not 0 <= ttl_seconds < 2**32:
            raise InvalidRequest(ErrorType.INVALID_REQUEST, f"ttl_seconds: {ttl_seconds} is not from 0 to 4294967295")
        request = bbs_pb2.UpsertDomainRequest(domain=domain, ttl=ttl_seconds)
        await self._transport.call("/v1/domains/upsert", request, bbs_pb2.UpsertDomainResponse)

    async def cells(self) -> list[Cell]:
        """The cells that are present."""
        answer = await self._transport.call("/v1/cells/list.r1", None, bbs_pb2.CellsResponse)
        return [read_cell(cell) for cell in answer.cells]

    async def events(self) -> AsyncGenerator[Event, None]:
        """Every event of every task from now on, each ``TaskCreated``, ``TaskChanged`` or ``TaskRemoved``.

        A connection that is cut is opened again; what happened in between is lost. The iterator ends when the board
        ends the stream in an orderly way: it stops, or this subscriber was more than 1,024 events behind.

        Raises:
            BoardUnreachable: four connections failed in a row. A board that answers 503 is asked again for ever.
        """
        async with contextlib.aclosing(follow(self._transport)) as events:
            async for event in events:
                yield event

    async def follow(self, *, guid: str = "", domain: str = "", after: str = "") -> AsyncGenerator[Followed, None]:
        """Events of tasks, resumed exactly after every cut, restart or takeover; what cannot be is told.

        A board of Bulletin keeps its last events (4,096 unless configured) and gives those that a subscriber has not
        had. Where it cannot, ``Missed`` comes in their place: the subscriber was away for longer, another board took
        over, or the board is a BBS, which keeps none. The iterator does not end by itself.

        Args:
            guid: only events of this task.
            domain: only events of tasks of this domain.
            after: ``Followed.position`` of the last event that is known, from whatever client; empty begins with what
                happens from now on.

        Raises:
            BoardUnreachable: no board answered for ``reconnect_seconds``.
        """
        following = Following(self._transport, self._reconnect_seconds, guid=guid, domain=domain, after=after)
        async with contextlib.aclosing(following.events()) as events:
            async for event in events:
                yield event

    # -- helpers -------------------------------------------------------------------------------------------------

    async def _lifecycle(self, path: str, request: Message, guid: str) -> None:
        await self._transport.call(path, request, bbs_pb2.TaskLifecycleResponse, subject=guid)

    async def _is_stored(self, guid: str, domain: str, definition: bbs_pb2.TaskDefinition) -> bool:
        """Whether the board has this very task. A board may keep the password to itself, so that is left out."""
        try:
            stored = await self.task(guid)
        except TaskNotFound:
            return False
        theirs, ours = parse_definition(stored.definition), bbs_pb2.TaskDefinition()
        ours.CopyFrom(definition)
        theirs.image_password = ours.image_password = ""
        return stored.domain == domain and theirs == ours

    def _open_waits(self) -> Waits:
        if self._waits is None:
            self._waits = Waits(self._transport, self.task, reconnect_seconds=self._reconnect_seconds)
        return self._waits


def _choose_context(
    context: tls.SSLContext | None, ca: Path | str | None, cert: Path | str | None, key: Path | str | None
) -> tls.SSLContext | None:
    """The context that the arguments of a client ask for; None: the machine's authorities, no certificate of ours."""
    if context is not None:
        if (ca, cert, key) != (None, None, None):
            raise ValueError("ssl stands in for ca, cert and key: pass the one or the others")
        return context
    if cert is None:
        if key is not None:
            raise ValueError("key needs cert: pass the certificate of the key too")
        return None if ca is None else client_context(None, Path(ca))
    if ca is None:
        raise ValueError("cert needs ca: pass the authority that signed the board's certificate too")
    return client_context(TlsFiles(Path(ca), Path(cert), Path(cert if key is None else key)))


_OK: Final = 200
_NOT_FOUND: Final = 404


async def _ended(wait: Wait, timeout_seconds: float | None) -> Task:
    try:
        async with asyncio.timeout(timeout_seconds) as deadline:
            return await wait.ended()
    except TimeoutError as error:
        if timeout_seconds is None or not deadline.expired():
            raise
        raise WaitTimeout(wait.guid, timeout_seconds) from error
