"""Ways to talk to a board that tests compare: protobuf and JSON by hand, Bulletin's own client, and an event stream.

All give the same two things: ``model.Answer`` for a call, ``model.ModelTask`` for a task.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self

from google.protobuf import json_format
from google.protobuf.message import Message
from support.model import Answer, Call, Event, ModelTask

from bulletin import Client
from bulletin.client.errors import Refused
from bulletin.core.errors import ErrorType
from bulletin.core.model import Task
from bulletin.wire.proto import bbs_pb2 as bbs
from bulletin.wire.tasks import decode_definition

__all__ = ["ClientVoice", "Feed", "RawVoice", "Voice", "answer_of", "request_of", "task_of"]

TIMEOUT_SECONDS = 30.0

#: Call name to path and answer.
ROUTES: dict[str, tuple[str, type[Message]]] = {
    "desire": ("/v1/tasks/desire.r2", bbs.TaskLifecycleResponse),
    "start": ("/v1/tasks/start", bbs.StartTaskResponse),
    "cancel": ("/v1/tasks/cancel", bbs.TaskLifecycleResponse),
    "fail": ("/v1/tasks/fail", bbs.TaskLifecycleResponse),
    "reject": ("/v1/tasks/reject", bbs.TaskLifecycleResponse),
    "complete": ("/v1/tasks/complete", bbs.TaskLifecycleResponse),
    "resolving": ("/v1/tasks/resolving", bbs.TaskLifecycleResponse),
    "delete": ("/v1/tasks/delete", bbs.TaskLifecycleResponse),
}
TYPE_NAMES = {number: name for name, number in bbs.Error.Type.items()}
STATE_NAMES = {number: name for name, number in bbs.Task.State.items()}


def request_of(call: Call) -> Message:
    """The message a call sends."""
    match call.name:
        case "desire":
            definition = None if call.definition is None else bbs.TaskDefinition.FromString(call.definition)
            return bbs.DesireTaskRequest(task_definition=definition, task_guid=call.guid, domain=call.domain)
        case "start":
            return bbs.StartTaskRequest(task_guid=call.guid, cell_id=call.cell_id)
        case "complete":
            return bbs.CompleteTaskRequest(
                task_guid=call.guid,
                cell_id=call.cell_id,
                failed=call.failed,
                failure_reason=call.reason,
                result=call.result,
            )
        case "fail":
            return bbs.FailTaskRequest(task_guid=call.guid, failure_reason=call.reason)
        case "reject":
            return bbs.RejectTaskRequest(task_guid=call.guid, rejection_reason=call.reason)
    return bbs.TaskGuidRequest(task_guid=call.guid)


def answer_of(message: Any) -> Answer:
    """What an answer says, whatever its kind."""
    if message.HasField("error"):
        return Answer(TYPE_NAMES[message.error.type], message.error.message)
    return Answer(should_start=getattr(message, "should_start", False))


def task_of(task: bbs.Task) -> ModelTask:
    """A task as the wire shows it."""
    return ModelTask(
        guid=task.task_guid,
        domain=task.domain,
        definition=task.task_definition.SerializeToString(deterministic=True),
        url=task.task_definition.completion_callback_url,
        state=STATE_NAMES[task.state],
        created_at=task.created_at,
        updated_at=task.updated_at,
        first_completed_at=task.first_completed_at,
        cell_id=task.cell_id,
        result=task.result,
        failed=task.failed,
        failure_reason=task.failure_reason,
        rejection_count=task.rejection_count,
        rejection_reason=task.rejection_reason,
    )


class Voice(Protocol):
    """One way to talk to a board."""

    def call(self, call: Call) -> Answer: ...
    def get(self, guid: str) -> Answer | ModelTask: ...
    def list(self, domain: str = "", cell_id: str = "") -> list[ModelTask]: ...
    def upsert_domain(self, domain: str, ttl: int) -> Answer: ...
    def domains(self) -> list[str]: ...
    def close(self) -> None: ...


class RawVoice:
    """Bytes over one kept connection. Not for several threads."""

    def __init__(self, url: str, *, as_json: bool = False, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=timeout_seconds)
        self._is_json = as_json

    def post(self, path: str, body: bytes, content_type: str = "application/x-protobuf") -> bytes:
        """The body of a 200.

        Raises:
            OSError, http.client.HTTPException: no such answer came; the connection is made anew next time.
        """
        try:
            self._connection.request("POST", path, body, {"Content-Type": content_type})
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        if response.status != 200:
            raise http.client.HTTPException(f"{path}: {response.status} {answer[:200]!r}")
        assert response.headers["Content-Type"] == content_type
        return answer

    def ask(self, path: str, message: Message | None, kind: type[Message]) -> Any:
        """The message of an answer."""
        if not self._is_json:
            return kind.FromString(self.post(path, b"" if message is None else message.SerializeToString()))
        body = b""
        if message is not None:
            body = json.dumps(json_format.MessageToDict(message, preserving_proto_field_name=True)).encode()
        return json_format.Parse(self.post(path, body, "application/json"), kind())

    def call(self, call: Call) -> Answer:
        path, kind = ROUTES[call.name]
        return answer_of(self.ask(path, request_of(call), kind))

    def get(self, guid: str) -> Answer | ModelTask:
        answer = self.ask("/v1/tasks/get_by_task_guid.r3", bbs.TaskByGuidRequest(task_guid=guid), bbs.TaskResponse)
        return answer_of(answer) if answer.HasField("error") else task_of(answer.task)

    def list(self, domain: str = "", cell_id: str = "") -> list[ModelTask]:
        request = bbs.TasksRequest(domain=domain, cell_id=cell_id)
        answer = self.ask("/v1/tasks/list.r3", request, bbs.TasksResponse)
        assert not answer.HasField("error"), answer.error
        return [task_of(task) for task in answer.tasks]

    def upsert_domain(self, domain: str, ttl: int) -> Answer:
        request = bbs.UpsertDomainRequest(domain=domain, ttl=ttl)
        return answer_of(self.ask("/v1/domains/upsert", request, bbs.UpsertDomainResponse))

    def domains(self) -> list[str]:
        answer = self.ask("/v1/domains/list", None, bbs.DomainsResponse)
        assert not answer.HasField("error"), answer.error
        return list(answer.domains)

    def close(self) -> None:
        self._connection.close()


class ClientVoice:
    """Bulletin's own blocking client."""

    def __init__(self, url: str) -> None:
        self._client = Client(url, timeout_seconds=TIMEOUT_SECONDS, retries=1)

    def call(self, call: Call) -> Answer:
        client = self._client
        match call.name:
            case "desire":
                assert call.definition is not None
                definition = decode_definition(bbs.TaskDefinition.FromString(call.definition))
                return _refused(lambda: client.desire(call.guid, call.domain, definition))
            case "start":
                return _refused(lambda: client.start(call.guid, call.cell_id))
            case "complete":
                return _refused(
                    lambda: client.complete(
                        call.guid, call.cell_id, failed=call.failed, failure_reason=call.reason, result=call.result
                    )
                )
            case "fail":
                return _refused(lambda: client.fail(call.guid, call.reason))
            case "reject":
                return _refused(lambda: client.reject(call.guid, call.reason))
        return _refused(lambda: getattr(client, call.name)(call.guid))

    def get(self, guid: str) -> Answer | ModelTask:
        found: list[Task] = []
        refused = _refused(lambda: found.append(self._client.task(guid)))
        return _client_task(found[0]) if found else refused

    def list(self, domain: str = "", cell_id: str = "") -> list[ModelTask]:
        return [_client_task(task) for task in self._client.tasks(domain, cell_id)]

    def upsert_domain(self, domain: str, ttl: int) -> Answer:
        return _refused(lambda: self._client.upsert_domain(domain, ttl))

    def domains(self) -> list[str]:
        return self._client.domains()

    def close(self) -> None:
        self._client.close()


def _refused(call: Callable[[], object]) -> Answer:
    try:
        return Answer(should_start=call() is True)
    except Refused as error:
        return Answer(TYPE_NAMES[ErrorType(error.type).value], error.text)


def _client_task(task: Task) -> ModelTask:
    definition = bbs.TaskDefinition.FromString(task.definition.encoded)
    return ModelTask(
        guid=task.guid,
        domain=task.domain,
        definition=definition.SerializeToString(deterministic=True),
        url=task.definition.completion_callback_url,
        state=task.state.label,
        created_at=task.created_at,
        updated_at=task.updated_at,
        first_completed_at=task.first_completed_at,
        cell_id=task.cell_id,
        result=task.result,
        failed=task.failed,
        failure_reason=task.failure_reason,
        rejection_count=task.rejection_count,
        rejection_reason=task.rejection_reason,
    )


EVENTS: dict[str, type[Message]] = {
    "task_created": bbs.TaskCreatedEvent,
    "task_changed": bbs.TaskChangedEvent,
    "task_removed": bbs.TaskRemovedEvent,
}


class Feed:
    """A subscriber: reads a board's task events on a thread of its own until the stream ends.

    Leaving the block cuts the connection. ``is_orderly`` tells, once it ended, whether the board said goodbye.
    """

    def __init__(self, url: str, path: str = "/v1/events/tasks.r1") -> None:
        self._changed = threading.Condition()
        self.events: list[Event] = []
        self.ended = False
        self.is_orderly = False
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS)
        self._socket.sendall(f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n".encode())
        self._stream = self._socket.makefile("rb")
        assert self._stream.readline() == b"HTTP/1.1 200 OK\r\n"
        while self._stream.readline() != b"\r\n":
            pass
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Cut the connection, and end the thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(TIMEOUT_SECONDS)
        assert not self._thread.is_alive()
        self._stream.close()
        self._socket.close()

    def take(self, count: int, within_seconds: float = 20.0) -> list[Event]:
        """The first ``count`` events, once they have come."""
        deadline = time.monotonic() + within_seconds
        with self._changed:
            while len(self.events) < count and not self.ended:
                left = deadline - time.monotonic()
                assert left > 0, f"{len(self.events)} events came, not {count}"
                self._changed.wait(left)
            return self.events[:count]

    def wait_for_end(self, within_seconds: float = 20.0) -> list[Event]:
        """Every event, once the stream has ended."""
        self._thread.join(within_seconds)
        assert not self._thread.is_alive(), "the stream did not end"
        return self.events

    def _read(self) -> None:
        try:
            name, data = "", ""
            for line in self._lines():
                key, _, value = line.decode().partition(": ")
                if key == "id":
                    assert int(value) == len(self.events), "ids count from 0 on each connection"
                elif key == "event":
                    name = value
                elif key == "data":
                    data = value
                elif not key and data:
                    self._add(name, data)
                    data = ""
        except (OSError, ValueError):
            pass  # cut
        finally:
            with self._changed:
                self.ended = True
                self._changed.notify_all()

    def _lines(self) -> Iterator[bytes]:
        """The lines inside the chunks; only the chunk of length 0 makes an end orderly (board-api.md 11.1)."""
        rest = b""
        while size := int(self._stream.readline().partition(b";")[0], 16):
            *lines, rest = (rest + self._stream.read(size)).split(b"\n")
            yield from lines
            assert self._stream.readline() == b"\r\n"
        self.is_orderly = not rest

    def _add(self, name: str, data: str) -> None:
        message: Any = EVENTS[name].FromString(base64.b64decode(data, validate=True))
        if name == "task_changed":
            event = Event(name, task_of(message.after), task_of(message.before))
        else:
            event = Event(name, task_of(message.task))
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()
