"""Request bodies to messages and messages to answer bodies, in protobuf or JSON.

Protobuf is what clients of the BBS speak, whatever they say in ``Content-Type`` (board-api.md 1.2); JSON is for people
and shells, asked for by ``application/json``. JSON names fields as the .proto files do, enums by name, 64-bit numbers
as strings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Final, NamedTuple, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor
from google.protobuf.message import DecodeError, Message

from bulletin.core import errors
from bulletin.core.errors import Blame, ErrorType, TaskError
from bulletin.core.limits import (
    JSON_REQUEST_BYTES_MAX,
    REQUEST_BYTES_MAX,
    REQUEST_FIELDS_MAX,
    UNSCANNED_REQUEST_BYTES_MAX,
)
from bulletin.wire.jsontext import load_json
from bulletin.wire.jsonwriting import message_as_json
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.routes import Route
from bulletin.wire.scanning import scan

__all__ = [
    "JSON",
    "PROTOBUF",
    "accepts_json",
    "decode_answer",
    "decode_request",
    "encode_answer",
    "is_json",
    "message_from_json",
    "tasks_as_json",
    "transcode",
]

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"


def is_json(content_type: str) -> bool:
    """Whether ``content_type`` (a header's value, parameters allowed) is JSON's; all else means protobuf."""
    return content_type.partition(";")[0].strip().lower() == JSON


def accepts_json(accept: str) -> bool:
    """Whether ``accept`` (a header's value) names JSON: how a request without a body asks for it."""
    return any(is_json(part) for part in accept.split(","))


def decode_request(route: Route, body: bytes, content_type: str) -> Message:
    """The message of a request; an ``EmptyRequest`` for routes that have none.

    Raises:
        TaskError: InvalidRequest, ``the request received is invalid``, whatever is wrong with ``body``.
    """
    if route.request is None:
        return bbs_pb2.EmptyRequest()
    if is_json(content_type):
        return _from_json(route.request, body)
    return _from_protobuf(route.request, body)


def encode_answer(message: Message, content_type: str) -> bytes:
    """The body of an answer in the form of ``content_type``."""
    if not is_json(content_type):
        return message.SerializeToString()
    return message_as_json(message).encode()


def decode_answer(route: Route, body: bytes) -> Message:
    """The message of a protobuf answer.

    Raises:
        TaskError: InvalidProtobufMessage, when it cannot be read.
    """
    assert route.response is not None, f"{route.name} answers with a stream"
    try:
        return route.response.FromString(body)
    except DecodeError as error:
        text = f"failed to unmarshal proto: {error}"
        raise TaskError(ErrorType.INVALID_PROTOBUF_MESSAGE, text, Blame.PEER) from error


def transcode(route: Route, answer: bytes, content_type: str) -> bytes:
    """An answer that is encoded protobuf already, in the form of ``content_type``."""
    if not is_json(content_type):
        return answer
    return encode_answer(decode_answer(route, answer), content_type)


def tasks_as_json(tasks: Iterable[bytes]) -> Iterator[bytes]:
    """The JSON of a ``TasksResponse`` in pieces, one for each encoded task.

    JSON takes some ten times longer than protobuf, so a long listing is made piece by piece and the caller may let
    others have a turn in between.
    """
    opening = '{"tasks": ['
    for task in tasks:
        yield (opening + message_as_json(bbs_pb2.Task.FromString(task))).encode()
        opening = ", "
    yield b"{}" if opening != ", " else b"]}"


def _from_protobuf(kind: type[Message], body: bytes) -> Message:
    size = len(body)
    if size > REQUEST_BYTES_MAX:
        raise errors.bad_request()
    if size > UNSCANNED_REQUEST_BYTES_MAX:
        scan(body, kind, REQUEST_FIELDS_MAX)
    try:
        message = kind.FromString(body)
    except DecodeError as error:
        raise errors.bad_request() from error
    message.DiscardUnknownFields()
    if size <= UNSCANNED_REQUEST_BYTES_MAX and message.ByteSize() != size:
        # Something was unknown or written in another way than ours. A known field of a wrong type is among the unknown.
        scan(body, kind, REQUEST_FIELDS_MAX)
    return message


def _from_json(kind: type[Message], body: bytes) -> Message:
    if len(body) > JSON_REQUEST_BYTES_MAX:
        raise errors.bad_request()
    if not body.strip():
        # As in protobuf, where a request of defaults is no bytes at all.
        return kind()
    return message_from_json(kind, load_json(body))


def message_from_json(kind: type[Message], value: object) -> Message:
    """The message that ``value``, as JSON was read, stands for; unknown fields are passed over.

    Raises:
        TaskError: InvalidRequest, ``the request received is invalid``, whatever is wrong with ``value``.
    """
    _check_objects(value, cast("Descriptor", kind.DESCRIPTOR))
    message = kind()
    try:
        json_format.ParseDict(cast("dict[str, object]", value), message, ignore_unknown_fields=True)
    except _JSON_FAULTS as error:
        raise errors.bad_request() from error
    return message


#: json_format promises ParseError alone, but a value of the wrong kind gets as far as Python's own conversions.
_JSON_FAULTS: Final = (json_format.ParseError, ValueError, TypeError, AttributeError, KeyError, OverflowError)


def _check_objects(value: object, descriptor: Descriptor) -> None:
    """Refuse what json_format reads as something else.

    It takes a text or a list for an empty message, and passes over an enum's name that it does not know.
    """
    if not isinstance(value, dict):
        raise errors.bad_request()
    inner_types = _inner_types(descriptor)
    for name, member in value.items():
        inner = inner_types.get(name)
        if inner is None or member is None:
            continue
        if not inner.repeated:
            _check_member(member, inner)
        # That a list is a list and a map an object, json_format sees to.
        elif isinstance(member, list):
            for item in member:
                _check_member(item, inner)
        elif isinstance(member, dict):
            for item in member.values():
                _check_member(item, inner)


def _check_member(value: object, inner: _Inner) -> None:
    if isinstance(inner.descriptor, Descriptor):
        _check_objects(value, inner.descriptor)
    elif isinstance(value, str) and value not in inner.descriptor.values_by_name:
        raise errors.bad_request()


class _Inner(NamedTuple):
    descriptor: Descriptor | EnumDescriptor
    #: A list, or a map.
    repeated: bool


@cache
def _inner_types(descriptor: Descriptor) -> dict[str, _Inner]:
    """The fields of ``descriptor`` that hold messages or enums, by both names JSON may use."""
    found: dict[str, _Inner] = {}
    for field in descriptor.fields:
        inner: Descriptor | EnumDescriptor | None = field.message_type or field.enum_type
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name["value"]
            inner = entry.message_type or entry.enum_type
        if inner is not None:
            found[field.name] = found[field.json_name] = _Inner(inner, field.is_repeated)
    return found
