"""What a program needs to be started, from its first bytes. Pure: hostile bytes in, values out.

A container whose process is known starts it by its init, and of a failed start an init can tell no more than an exit
status. So what the kernel would answer ENOENT to is looked for before.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["HEAD_BYTES", "INTERPRETERS_MAX", "find_interpreter"]

#: The kernel reads 256 of a script; linkers put the header and the interpreter's name well within these.
HEAD_BYTES: Final = 4096
#: Scripts run by scripts: the kernel gives up after so many.
INTERPRETERS_MAX: Final = 5

_SCRIPT_BYTES: Final = 256
_ELF_64_LITTLE: Final = b"\x7fELF\x02\x01"
_ELF_64_BIG: Final = b"\x7fELF\x02\x02"
_PT_INTERP: Final = 3
_HEADERS_MAX: Final = 64


def find_interpreter(head: bytes) -> str | None:
    """The path of the program that runs this one.

    Args:
        head: the first ``HEAD_BYTES`` of the program, all when it has fewer.

    Returns:
        None when there is none, or it cannot be told.
    """
    if head.startswith(b"#!"):
        line = head[2:_SCRIPT_BYTES].partition(b"\n")[0].strip(b" \t")
        name = line.replace(b"\t", b" ").partition(b" ")[0]
    else:
        name = _elf_interpreter(head)
    if not name or b"\0" in name:
        return None
    return name.decode("utf-8", "surrogateescape")


def _elf_interpreter(head: bytes) -> bytes:
    if head.startswith(_ELF_64_LITTLE):
        order = "<"
    elif head.startswith(_ELF_64_BIG):
        order = ">"
    else:
        return b""
    try:
        (table,) = struct.unpack_from(f"{order}Q", head, 32)
        size, count = struct.unpack_from(f"{order}HH", head, 54)
        for number in range(min(count, _HEADERS_MAX)):
            kind, _, offset, _, _, length = struct.unpack_from(f"{order}IIQQQQ", head, table + number * size)
            if kind == _PT_INTERP and offset + length <= len(head):
                return head[offset : offset + length].rstrip(b"\0")
    except (struct.error, OverflowError):
        return b""  # The header is beyond the head, or nonsense.
    return b""
