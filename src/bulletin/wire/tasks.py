"""Tasks: ``core.model.Task`` to and from the wire's ``Task`` (board-api.md section 3).

The board stores a definition as its canonical bytes, and a task goes out by laying those bytes between a tag and the
other fields, so that neither a listing nor an event parses or encodes a definition again. Canonical means: protobuf
in field order, without unknown fields, without defaults, maps sorted by key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf.message import DecodeError, Message

from bulletin.core.errors import Blame, ErrorType, TaskError
from bulletin.core.model import Definition, Task, TaskState
from bulletin.wire.actions import decode_action, encode_action
from bulletin.wire.definitions import decode_definition, encode_definition
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.routes import Form, Route
from bulletin.wire.splicing import delimited

__all__ = [
    "decode_action",
    "decode_definition",
    "decode_task",
    "describe",
    "encode_action",
    "encode_definition",
    "encode_task",
    "encode_task_as",
    "encode_task_v2",
    "error_response",
    "parse_definition",
    "recall_definition",
    "summarise",
    "task_response",
    "tasks_response",
]

#: Task.task_definition = 1; TaskResponse.task = 2; TasksResponse.tasks = 2: field number and wire type.
_DEFINITION_TAG: Final = b"\x0a"
_TASK_TAG: Final = b"\x12"
#: TaskDefinition.image_layers = 25. Bytes without this tag hold no layer, whatever else they hold.
_IMAGE_LAYERS_TAG: Final = b"\xca\x01"


# -- definitions -------------------------------------------------------------------------------------------------


def summarise(message: bbs_pb2.TaskDefinition) -> Definition:
    """The canonical bytes of ``message`` and the facts decisions need. ``message`` loses its unknown fields."""
    message.DiscardUnknownFields()
    return describe(message, message.SerializeToString(deterministic=True))


def recall_definition(encoded: bytes) -> Definition:
    """The definition that ``summarise`` once made ``encoded`` of; a third of its work.

    Raises:
        DecodeError: the bytes are not a definition.
    """
    return describe(bbs_pb2.TaskDefinition.FromString(encoded), encoded)


def describe(message: bbs_pb2.TaskDefinition, encoded: bytes) -> Definition:
    """The facts of ``message`` beside ``encoded``, its canonical bytes."""
    return Definition(
        encoded,
        message.root_fs,
        message.memory_mb,
        message.disk_mb,
        message.max_pids,
        tuple(message.placement_tags),
        tuple([mount.driver for mount in message.volume_mounts]),
        message.completion_callback_url,
    )


def parse_definition(definition: Definition) -> bbs_pb2.TaskDefinition:
    """The message behind the stored bytes.

    Raises:
        TaskError: Deserialize, when the bytes are not a definition.
    """
    try:
        return bbs_pb2.TaskDefinition.FromString(definition.encoded)
    except DecodeError as error:
        raise TaskError(ErrorType.DESERIALIZE, blame=Blame.ENVIRONMENT) from error


# -- tasks -------------------------------------------------------------------------------------------------------


def encode_task(task: Task) -> bytes:
    """``task`` as an encoded ``Task`` message, with its definition as stored."""
    return delimited(_DEFINITION_TAG, task.definition.encoded) + _encode_scalars(task)


def encode_task_v2(task: Task) -> bytes:
    """``task`` as older clients read it: image layers told as cached dependencies and downloads (board-api.md 2.3).

    Raises:
        TaskError: Deserialize, when the stored definition cannot be read.
    """
    encoded = task.definition.encoded
    if _IMAGE_LAYERS_TAG in encoded:
        message = parse_definition(task.definition)
        _replace_layers(message)
        encoded = message.SerializeToString(deterministic=True)
    return delimited(_DEFINITION_TAG, encoded) + _encode_scalars(task)


def encode_task_as(task: Task, form: Form) -> bytes:
    """``task`` in the form a route or a stream shows tasks in."""
    return encode_task(task) if form == "v3" else encode_task_v2(task)


def decode_task(message: bbs_pb2.Task) -> Task:
    """The task that ``message`` tells of. ``message`` loses its unknown fields.

    Raises:
        TaskError: InvalidProtobufMessage, when the state is none we know.
    """
    try:
        state = TaskState(message.state)
    except ValueError as error:
        text = f"task {message.task_guid!r} has the unknown state {int(message.state)}"
        raise TaskError(ErrorType.INVALID_PROTOBUF_MESSAGE, text, Blame.PEER) from error
    return Task(
        guid=message.task_guid,
        domain=message.domain,
        definition=summarise(message.task_definition),
        state=state,
        created_at=message.created_at,
        updated_at=message.updated_at,
        first_completed_at=message.first_completed_at,
        cell_id=message.cell_id,
        result=message.result,
        failed=message.failed,
        failure_reason=message.failure_reason,
        rejection_count=message.rejection_count,
        rejection_reason=message.rejection_reason,
    )


# -- answers -----------------------------------------------------------------------------------------------------


def task_response(task: bytes) -> bytes:
    """An encoded ``TaskResponse`` around an encoded task."""
    return delimited(_TASK_TAG, task)


def tasks_response(tasks: Iterable[bytes]) -> Iterator[bytes]:
    """An encoded ``TasksResponse`` in pieces, one for each encoded task; their concatenation is the message."""
    for task in tasks:
        yield delimited(_TASK_TAG, task)


def error_response(route: Route, error: TaskError) -> Message:
    """The answer of ``route`` that carries ``error``; ``route`` is not a stream and not Ping, which has no errors."""
    assert route.response is not None, f"{route.name} answers with a stream"
    response = route.response()
    field = response.error  # type: ignore[attr-defined]
    # An Error with only defaults still has to be there: presence is what makes it a failure.
    field.SetInParent()
    field.type = int(error.type)
    field.message = error.message
    return response


# -- parts -------------------------------------------------------------------------------------------------------


def _encode_scalars(task: Task) -> bytes:
    return bbs_pb2.Task(
        task_guid=task.guid,
        domain=task.domain,
        created_at=task.created_at,
        updated_at=task.updated_at,
        first_completed_at=task.first_completed_at,
        state=task.state,  # type: ignore[arg-type]  # the same numbers; a cast would cost a call for every task sent
        cell_id=task.cell_id,
        result=task.result,
        failed=task.failed,
        failure_reason=task.failure_reason,
        rejection_count=task.rejection_count,
        rejection_reason=task.rejection_reason,
    ).SerializeToString()


_ALGORITHM_NAMES: Final = {
    bbs_pb2.ImageLayer.SHA256: "sha256",
    bbs_pb2.ImageLayer.SHA512: "sha512",
}


def _replace_layers(message: bbs_pb2.TaskDefinition) -> None:
    dependencies = []
    downloads = []
    for layer in message.image_layers:
        if layer.layer_type == bbs_pb2.ImageLayer.SHARED:
            dependencies.append(_layer_as_dependency(layer))
        elif layer.layer_type == bbs_pb2.ImageLayer.EXCLUSIVE:
            downloads.append(_layer_as_download(layer, message.legacy_download_user))
    if dependencies:
        dependencies.extend(message.cached_dependencies)
        del message.cached_dependencies[:]
        message.cached_dependencies.extend(dependencies)
    if downloads:
        all_downloads = bbs_pb2.Action(parallel_action=bbs_pb2.ParallelAction(actions=downloads))
        both = bbs_pb2.SerialAction(actions=[all_downloads, message.action])
        message.action.CopyFrom(bbs_pb2.Action(serial_action=both))
    del message.image_layers[:]


def _layer_as_dependency(layer: bbs_pb2.ImageLayer) -> bbs_pb2.CachedDependency:
    algorithm = _ALGORITHM_NAMES.get(layer.digest_algorithm, "")
    return bbs_pb2.CachedDependency(
        name=layer.name,
        to=layer.destination_path,
        cache_key=f"{algorithm}:{layer.digest_value}" if layer.digest_value else layer.url,
        checksum_algorithm=algorithm,
        checksum_value=layer.digest_value,
        **{"from": layer.url},
    )


def _layer_as_download(layer: bbs_pb2.ImageLayer, user: str) -> bbs_pb2.Action:
    algorithm = _ALGORITHM_NAMES.get(layer.digest_algorithm, "")
    download = bbs_pb2.DownloadAction(
        artifact=layer.name,
        to=layer.destination_path,
        cache_key=f"{algorithm}:{layer.digest_value}",
        user=user,
        checksum_algorithm=algorithm,
        checksum_value=layer.digest_value,
        **{"from": layer.url},
    )
    return bbs_pb2.Action(download_action=download)
