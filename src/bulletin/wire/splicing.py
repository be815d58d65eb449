"""Protobuf by hand, as far as joining encoded messages needs it: a tag, a length, the bytes.

A message that holds another one is its own fields with the other's bytes between them, so a stored message travels
inside a new one without being parsed or encoded again.
"""

from __future__ import annotations

from typing import Final

__all__ = ["delimited", "varint"]

#: Lengths below this take one byte, which is most of them.
_ONE_BYTE_END: Final = 0x80
_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(_ONE_BYTE_END))


def varint(value: int) -> bytes:
    """Encode ``value`` (>= 0) as protobuf's base-128 integer, the shortest way."""
    if value < _ONE_BYTE_END:
        return _ONE_BYTE[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    digits = bytearray()
    while value >= _ONE_BYTE_END:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def delimited(tag: bytes, payload: bytes) -> bytes:
    """``payload`` as a length-delimited field; ``tag`` is the encoded field number with wire type 2."""
    return b"%b%b%b" % (tag, varint(len(payload)), payload)
