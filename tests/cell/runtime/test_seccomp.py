"""seccomp.py: the table, and that the compiled program does what the table says."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

import pytest

from bulletin.cell.runtime import seccomp

#: Calls by which containers were left, or the kernel of their machine was, and what would let them.
DANGEROUS = {
    "keyctl", "add_key", "request_key", "mount", "umount2", "mount_setattr", "open_tree", "move_mount", "fsopen",
    "fsconfig", "fsmount", "fspick", "pivot_root", "unshare", "setns", "bpf", "perf_event_open", "userfaultfd",
    "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "io_uring_setup",
    "io_uring_enter", "io_uring_register", "open_by_handle_at", "quotactl", "reboot", "swapon", "swapoff", "syslog",
    "acct", "settimeofday", "clock_settime", "iopl", "ioperm", "pidfd_getfd", "process_madvise", "kcmp",
}  # fmt: skip

ALLOW = 0x7FFF0000
REFUSE = 0x00050000


def allowed_names():
    return {name for rule in seccomp.RULES for name in rule.names}


def test_what_is_dangerous_is_in_no_rule():
    assert not DANGEROUS & allowed_names()
    assert not DANGEROUS - set(seccomp.REFUSED)


def test_clone3_answers_that_it_does_not_exist():
    assert "clone3" not in allowed_names() | set(seccomp.REFUSED)


def test_no_name_has_two_answers():
    names = [name for rule in seccomp.RULES for name in rule.names] + list(seccomp.REFUSED)
    assert len(names) == len(set(names))


def test_the_oci_table():
    table = seccomp.oci_table("x86_64")
    assert table["defaultAction"] == "SCMP_ACT_ERRNO"
    assert table["defaultErrnoRet"] == errno.ENOSYS
    assert table["architectures"] == ["SCMP_ARCH_X86_64"]
    by_name = {}
    for entry in table["syscalls"]:
        for name in entry["names"]:
            by_name.setdefault(name, []).append(entry)
    assert by_name["mount"][0]["action"] == "SCMP_ACT_ERRNO"
    assert by_name["read"] == [entry for entry in by_name["read"] if entry["action"] == "SCMP_ACT_ALLOW"]
    assert by_name["clone"][0]["args"] == [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    assert {entry["args"][0]["value"] for entry in by_name["socket"]} == {1, 2, 10, 16, 17}


def test_an_architecture_without_a_row_is_refused():
    with pytest.raises(seccomp.SeccompUnavailable, match="pdp11"):
        seccomp.oci_table("pdp11")


# -- the program, run by an interpreter of classic BPF ---------------------------------------------------------


def run_program(program, number, arguments=(), architecture=0xC000003E):
    """Interpret the filter on one call, as the kernel would (only the instructions libseccomp writes)."""
    arguments = [*arguments, *([0] * (6 - len(arguments)))]
    data = struct.pack("<iIQ6Q", number, architecture, 0, *arguments)
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    at = accumulator = 0
    while True:
        operation, if_true, if_false, k = code[at]
        at += 1
        match operation:
            case 0x20:  # load a word
                (accumulator,) = struct.unpack_from("<I", data, k)
            case 0x54:  # and
                accumulator &= k
            case 0x05:  # jump
                at += k
            case 0x15:
                at += if_true if accumulator == k else if_false
            case 0x25:
                at += if_true if accumulator > k else if_false
            case 0x35:
                at += if_true if accumulator >= k else if_false
            case 0x06:
                return k
            case _:
                raise AssertionError(f"instruction {operation:#x}")


@pytest.fixture(scope="module")
def program():
    if platform.machine() != "x86_64":
        pytest.skip("the numbers below are those of x86_64")
    try:
        return seccomp.compile_program()
    except seccomp.SeccompUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def number():
    library = ctypes.CDLL("libseccomp.so.2")
    return lambda name: library.seccomp_syscall_resolve_name(name.encode())


def test_every_plain_name_of_the_table_is_let_through(program, number):
    names = [name for rule in seccomp.RULES if not rule.values for name in rule.names if number(name) >= 0]
    assert len(names) > 250
    assert [name for name in names if run_program(program, number(name)) != ALLOW] == []


def test_every_refused_name_is_not_permitted(program, number):
    names = [name for name in seccomp.REFUSED if number(name) >= 0]
    assert len(names) > 50
    assert {run_program(program, number(name)) for name in names} == {REFUSE | errno.EPERM}


def test_whatever_else_there_is_does_not_exist(program, number):
    known = {number(name) for name in (*allowed_names(), *seccomp.REFUSED)}
    others = set(range(500)) - known
    assert number("clone3") in others
    assert {run_program(program, other) for other in others} == {REFUSE | errno.ENOSYS}


@pytest.mark.parametrize("flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_clone_with_a_namespace_flag_is_refused(program, number, flag):
    assert run_program(program, number("clone"), [flag | 17]) == REFUSE | errno.ENOSYS


def test_clone_for_processes_and_threads_is_let_through(program, number):
    assert run_program(program, number("clone"), [17]) == ALLOW
    assert run_program(program, number("clone"), [0x3D0F00]) == ALLOW


@pytest.mark.parametrize("family", range(46))
def test_socket_families(program, number, family):
    expected = ALLOW if family in (1, 2, 10, 16, 17) else REFUSE | errno.ENOSYS
    assert run_program(program, number("socket"), [family, 1, 0]) == expected


@pytest.mark.parametrize(
    ("value", "allowed"),
    [(0, True), (8, True), (0x20000, True), (0x20008, True), (0xFFFFFFFF, True), (0x40000, False), (0x400000, False)],
)
def test_personalities(program, number, value, allowed):
    assert (run_program(program, number("personality"), [value]) == ALLOW) is allowed


def test_other_architectures_and_the_x32_kind_end_the_process(program, number):
    assert run_program(program, number("read"), architecture=0x40000003) == 0x80000000
    assert run_program(program, 0x40000000 + number("read")) == 0x80000000
