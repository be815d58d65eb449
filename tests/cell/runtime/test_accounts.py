"""accounts.py: users from hostile text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.cell.runtime.accounts import ID_MAX, Account, find_account

PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
vcap:x:2000:2001:a,b:/home/vcap:/bin/sh
1000:x:1234:1234::/home/number:/bin/sh
nohome:x:5:5:::
relative:x:6:6::home:/bin/sh
vcap:x:3:3::/second:/bin/sh
"""
GROUP = b"""\
root:x:0:
wheel:x:10:root,vcap
audio:x:29:someone,vcap,other
again:x:10:vcap
bad:x:abc:vcap
short:x:7
prefix:x:8:vcapx
"""


def test_the_first_line_of_a_name_counts():
    assert find_account("vcap", PASSWD, GROUP) == Account(2000, 2001, (10, 29), "/home/vcap")


def test_root():
    assert find_account("root", PASSWD, GROUP) == Account(0, 0, (10,), "/root")


@pytest.mark.parametrize("name", ["alice", "", "2000", "2000:2000", "vcap:x", "x", "VCAP", "vcap\n"])
def test_others_are_unknown(name):
    assert find_account(name, PASSWD, GROUP) is None


def test_a_number_is_a_name_like_any_other():
    assert find_account("1000", PASSWD, GROUP) == Account(1234, 1234, (), "/home/number")


@pytest.mark.parametrize("name", ["nohome", "relative"])
def test_a_home_that_is_no_absolute_path_is_the_root_directory(name):
    account = find_account(name, PASSWD, GROUP)
    assert account is not None
    assert account.home == "/"


def test_root_is_there_even_without_a_file_and_nobody_else():
    assert find_account("root", b"", b"") == Account(0, 0, (), "/")
    assert find_account("vcap", b"", b"") is None


@pytest.mark.parametrize(
    "line",
    [
        b"vcap:x:2000",
        b"vcap:x:2000:2000:::",
        b"vcap:x:-1:0::/:/bin/sh",
        b"vcap:x:0x0:0::/:/bin/sh",
        b"vcap:x: 1:0::/:/bin/sh",
        b"vcap:x::0::/:/bin/sh",
        b"vcap:x:1:::/:/bin/sh",
        b"vcap:x:4294967295:0::/:/bin/sh",
        b"vcap:x:99999999999:0::/:/bin/sh",
        b"vcap:x:\xd9\xa1:0::/:/bin/sh",
    ],
)
def test_lines_that_make_no_sense_are_passed_over(line):
    good = b"vcap:x:7:8::/good:/bin/sh"
    found = find_account("vcap", line + b"\n" + good, b"")
    assert found is not None
    expected = Account(2000, 2000, (), "/") if line == b"vcap:x:2000:2000:::" else Account(7, 8, (), "/good")
    assert found == expected


def test_the_highest_id_is_one_below_the_kernels_no_id():
    line = f"vcap:x:{ID_MAX}:{ID_MAX}::/:/bin/sh".encode()
    assert find_account("vcap", line, b"") == Account(ID_MAX, ID_MAX, (), "/")


@given(st.text(min_size=1, max_size=8), st.binary(max_size=200), st.binary(max_size=200))
def test_no_text_breaks_it(name, passwd, group):
    account = find_account(name, passwd, group)
    assert account is None or (0 <= account.uid <= ID_MAX and account.home.startswith("/"))
