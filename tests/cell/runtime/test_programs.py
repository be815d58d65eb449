"""programs.py: interpreters of scripts and of dynamically linked programs."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.cell.runtime.programs import HEAD_BYTES, find_interpreter


@pytest.mark.parametrize(
    ("head", "interpreter"),
    [
        (b"#!/bin/sh\n", "/bin/sh"),
        (b"#!/bin/sh", "/bin/sh"),
        (b"#! \t/usr/bin/env python3 -u\nimport x", "/usr/bin/env"),
        (b"#!/bin/sh\t-e\n", "/bin/sh"),
        (b"#!/bin/sh\r\n", "/bin/sh\r"),
        (b"#!relative\n", "relative"),
        (b"#!\n/bin/sh", None),
        (b"#!", None),
        (b"#!/bin/\0sh\n", None),
        (b"#!/" + b"x" * 400, "/" + "x" * 253),
        (b"", None),
        (b"echo no program\n", None),
        (b"\x7fELF", None),
        (b"\x7fELF\x01\x01" + b"\0" * 100, None),
    ],
)
def test_heads(head, interpreter):
    assert find_interpreter(head) == interpreter


def elf(order, name, *, at=200, table=64, size=56, kind=3, length=None):
    magic = b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02")
    head = bytearray(magic.ljust(64, b"\0"))
    struct.pack_into(f"{order}Q", head, 32, table)
    struct.pack_into(f"{order}HH", head, 54, size, 2)
    other = struct.pack(f"{order}IIQQQQQQ", 1, 5, 0, 0, 0, 0, 0, 0)
    mine = struct.pack(f"{order}IIQQQQQQ", kind, 4, at, 0, 0, len(name) if length is None else length, 0, 0)
    return bytes(head + other + mine).ljust(at, b"\0") + name


@pytest.mark.parametrize("order", ["<", ">"])
def test_dynamically_linked_programs(order):
    assert find_interpreter(elf(order, b"/lib/ld-musl-x86_64.so.1\0")) == "/lib/ld-musl-x86_64.so.1"
    assert find_interpreter(elf(order, b"/lib/ld.so\0", kind=2)) is None
    assert find_interpreter(elf(order, b"/lib/ld.so\0", length=10**6)) is None
    assert find_interpreter(elf(order, b"/lib/ld.so\0", table=2**63)) is None
    assert find_interpreter(elf(order, b"/lib/ld.so\0", table=10**5)) is None


def test_the_machines_own_shell():
    head = Path("/bin/sh").read_bytes()[:HEAD_BYTES]
    interpreter = find_interpreter(head)
    assert interpreter is None or Path(interpreter).exists()


@given(st.binary(max_size=300))
def test_no_bytes_break_it(head):
    for beginning in (b"", b"#!", b"\x7fELF\x02\x01", b"\x7fELF\x02\x02"):
        find_interpreter(beginning + head)
