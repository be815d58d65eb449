"""A walk over encoded protobuf that allocates nothing: for what the parser does not look at.

Two things matter before or beside parsing. A body of many empty messages takes fifty times its size once parsed, so a
large one is counted first. And a known field of the wrong wire type, which the parser keeps as unknown, is an error
to a BBS (board-api.md 1.3).
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from bulletin.core import errors

__all__ = ["scan"]

_VARINT: Final = 0
_FIXED64: Final = 1
_DELIMITED: Final = 2
_GROUP_START: Final = 3
_GROUP_END: Final = 4
_FIXED32: Final = 5

_FIXED64_TYPES: Final = frozenset(
    {FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_SFIXED64}
)
_FIXED32_TYPES: Final = frozenset(
    {FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_FIXED32, FieldDescriptor.TYPE_SFIXED32}
)
_DELIMITED_TYPES: Final = frozenset(
    {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE}
)


class _Field(NamedTuple):
    wire_types: tuple[int, ...]
    #: The type of a submessage, None for everything else.
    inner: Descriptor | None


class _Malformed(Exception):
    """The parser is going to refuse this, at this place or before."""


def scan(body: bytes, kind: type[Message], fields_max: int) -> None:
    """Walk over ``body``, an encoded ``kind``, in the order the parser reads it, up to where it is malformed if it is.

    Raises:
        TaskError: InvalidRequest, when a known field has the wrong wire type, or there are more than ``fields_max``
            fields, those of submessages included.
    """
    try:
        _walk(body, cast("Descriptor", kind.DESCRIPTOR), fields_max)
    except (_Malformed, IndexError):
        return


def _walk(body: bytes, descriptor: Descriptor, fields_max: int) -> None:
    fields = _fields(descriptor)
    position, end = 0, len(body)
    #: Where the outer messages end, and what they are.
    outer: list[tuple[int, dict[int, _Field]]] = []
    for _ in range(fields_max + 1):
        while position == end:
            if not outer:
                return
            end, fields = outer.pop()
        tag, position = _read_varint(body, position)
        wire_type = tag & 7
        field = fields.get(tag >> 3)
        if field is not None and wire_type not in field.wire_types:
            raise errors.bad_request()
        if wire_type == _GROUP_START:
            # Nothing in a group is known to us.
            outer.append((end, fields))
            fields = {}
        elif wire_type == _GROUP_END:
            if not outer:
                raise _Malformed
            end, fields = outer.pop()
        elif wire_type == _DELIMITED and field is not None and field.inner is not None:
            length, position = _read_varint(body, position)
            outer.append((end, fields))
            end, fields = position + length, _fields(field.inner)
        else:
            position = _skip(body, position, wire_type)
        if position > end or end > len(body):
            raise _Malformed
    raise errors.bad_request()


def _skip(body: bytes, position: int, wire_type: int) -> int:
    if wire_type == _VARINT:
        return _read_varint(body, position)[1]
    if wire_type == _DELIMITED:
        length, position = _read_varint(body, position)
        return position + length
    if wire_type == _FIXED64:
        return position + 8
    if wire_type == _FIXED32:
        return position + 4
    raise _Malformed


def _read_varint(body: bytes, position: int) -> tuple[int, int]:
    byte = body[position]
    position += 1
    if byte < 0x80:
        return byte, position
    value = byte & 0x7F
    for shift in range(7, 70, 7):
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _Malformed


@cache
def _fields(descriptor: Descriptor) -> dict[int, _Field]:
    return {field.number: _Field(_wire_types(field), field.message_type) for field in descriptor.fields}


def _wire_types(field: FieldDescriptor) -> tuple[int, ...]:
    if field.type in _DELIMITED_TYPES:
        return (_DELIMITED,)
    if field.type in _FIXED64_TYPES:
        plain = _FIXED64
    elif field.type in _FIXED32_TYPES:
        plain = _FIXED32
    else:
        plain = _VARINT
    # Repeated numbers are read packed and unpacked (board-api.md 3.1).
    return (plain, _DELIMITED) if field.is_repeated else (plain,)
