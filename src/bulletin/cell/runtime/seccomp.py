"""Which system calls an unprivileged task may make: the table, its OCI form, and its compiled form.

An allow-list. What is named nowhere answers ENOSYS, so that a C library falls back to an older call; what is refused
on purpose answers EPERM. The rule of thumb for the table: what needs a capability outside ``CAPABILITIES_DEFAULT``,
makes or enters namespaces, mounts, loads code into the kernel, reaches state that is not namespaced (keyrings, the
clock, swap, kernel log) or has a long record of holes (io_uring, userfaultfd, bpf, perf) is not in it.

The runtime would compile the table at each start, which costs more than all the rest of starting a container; so
where it takes a compiled program the table is compiled once, by libseccomp, as a binary tree. Only calls of the
native 64-bit kind are let through: a filter cannot see the arguments of ``socketcall`` and ``ipc`` of 32-bit x86,
so letting those in would undo the rule for sockets. 32-bit programs therefore end with SIGSYS.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["ARCHITECTURES", "RULES", "Rule", "SeccompUnavailable", "compile_program", "oci_table"]

#: ``platform.machine()`` to the name OCI gives it.
ARCHITECTURES: Final = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


@dataclass(frozen=True, slots=True)
class Rule:
    """Calls let through, when the argument at ``index``, under ``mask``, is one of ``values`` (all, when empty)."""

    names: tuple[str, ...]
    index: int = 0
    mask: int = 0
    values: tuple[int, ...] = ()


#: All CLONE_NEW* flags that ``clone`` takes: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
_NAMESPACE_FLAGS: Final = 0x7E02_0000
#: AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET; so neither AF_VSOCK, which reaches the host of a virtual machine
#: whatever the network namespace, nor the many families hardly anyone uses or audits.
_SOCKET_FAMILIES: Final = (1, 2, 10, 16, 17)
#: PER_LINUX, PER_LINUX32, each with UNAME26 or without, and the query.
_PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFF_FFFF)

_FILES: Final = """
    access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
    fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr
    fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr ioctl lchown lgetxattr link
    linkat listxattr llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat name_to_handle_at
    newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat
    readv removexattr rename renameat renameat2 rmdir setxattr stat statfs statx symlink symlinkat sync
    sync_file_range syncfs truncate umask unlink unlinkat utime utimensat utimes write writev chroot
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch fanotify_mark
    landlock_add_rule landlock_create_ruleset landlock_restrict_self
"""
_WAITING: Final = """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit poll ppoll pselect6 select signalfd
    signalfd4 timerfd_create timerfd_gettime timerfd_settime
"""
_PIPES_AND_SOCKETS: Final = """
    accept accept4 bind connect getpeername getsockname getsockopt listen pipe pipe2 recvfrom recvmmsg recvmsg sendfile
    sendmmsg sendmsg sendto setsockopt shutdown socketpair splice tee
"""
_MEMORY: Final = """
    brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap
    mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease
    remap_file_pages
"""
_PROCESSES: Final = """
    capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getcpu getegid geteuid getgid
    getgroups getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid
    ioprio_get ioprio_set kill pause pidfd_open pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev
    ptrace restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
    sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid
    setgroups setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setuid sigaltstack tgkill
    tkill vfork wait4 waitid arch_prctl modify_ldt
"""
_THE_REST: Final = """
    alarm adjtimex clock_adjtime clock_getres clock_gettime clock_nanosleep futex futex_requeue futex_wait futex_waitv
    futex_wake getitimer getrandom gettimeofday mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink
    msgctl msgget msgrcv msgsnd nanosleep semctl semget semop semtimedop setitimer shmat shmctl shmdt shmget sysinfo
    time timer_create timer_delete timer_getoverrun timer_gettime timer_settime times uname
"""


def _names(*texts: str) -> tuple[str, ...]:
    return tuple(name for text in texts for name in text.split())


RULES: Final = (
    Rule(_names(_FILES, _WAITING, _PIPES_AND_SOCKETS, _MEMORY, _PROCESSES, _THE_REST)),
    Rule(("clone",), index=0, mask=_NAMESPACE_FLAGS, values=(0,)),
    Rule(("socket",), index=0, values=_SOCKET_FAMILIES),
    Rule(("personality",), index=0, values=_PERSONALITIES),
)

#: Refused on purpose with EPERM, the answer a program expects that lacks the right. ``clone3`` is not here: its flags
#: lie in memory where a filter cannot look, and ENOSYS makes C libraries take ``clone`` instead.
_REFUSED_TEXT: Final = """
    acct add_key bpf clock_settime create_module delete_module fanotify_init finit_module fsconfig fsmount fsopen
    fspick get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load
    kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages nfsservctl
    open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise quotactl quotactl_fd reboot
    request_key set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday swapoff swapon sysfs
    syslog umount2 unshare uselib userfaultfd ustat vhangup vmsplice
"""
REFUSED: Final = _names(_REFUSED_TEXT)


class SeccompUnavailable(Exception):
    """The table cannot be compiled here: no libseccomp, or an architecture without a row."""


def oci_table(machine: str) -> dict[str, Any]:
    """The ``linux.seccomp`` object of the OCI configuration, for a runtime that compiles it itself.

    Raises:
        SeccompUnavailable: no row for the architecture.
    """
    syscalls: list[dict[str, Any]] = [
        {"names": list(REFUSED), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM},
    ]
    for rule in RULES:
        if not rule.values:
            syscalls.append({"names": list(rule.names), "action": "SCMP_ACT_ALLOW"})
        for value in rule.values:
            match = {"index": rule.index, "value": value, "op": "SCMP_CMP_EQ"}
            if rule.mask:
                match = {"index": rule.index, "value": rule.mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
            syscalls.append({"names": list(rule.names), "action": "SCMP_ACT_ALLOW", "args": [match]})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "architectures": [_architecture(machine)],
        "syscalls": syscalls,
    }


def _architecture(machine: str) -> str:
    try:
        return ARCHITECTURES[machine]
    except KeyError:
        message = f"no seccomp profile for the architecture {machine}"
        raise SeccompUnavailable(message) from None


# -- libseccomp -------------------------------------------------------------------------------------------------

_ACT_ALLOW: Final = 0x7FFF_0000
_ACT_ERRNO: Final = 0x0005_0000
_ACT_KILL_PROCESS: Final = 0x8000_0000
_CMP_EQ: Final = 4
_CMP_MASKED_EQ: Final = 7
_ATTRIBUTE_ON_OTHER_ARCHITECTURE: Final = 2
_ATTRIBUTE_OPTIMIZE: Final = 8
_OPTIMIZE_BINARY_TREE: Final = 2
_UNKNOWN_SYSCALL: Final = -1


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        message = "libseccomp.so.2 is not installed: apt-get install libseccomp2"
        raise SeccompUnavailable(message) from None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_release.restype = None
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    )
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return library


def compile_program() -> bytes:
    """Compile the table for this machine.

    Returns:
        Classic BPF, eight bytes an instruction.

    Raises:
        SeccompUnavailable: no libseccomp, or no row for the architecture.
    """
    _architecture(platform.machine())
    library = _library()
    context = library.seccomp_init(_ACT_ERRNO | errno.ENOSYS)
    if not context:
        message = "libseccomp gives no filter"
        raise SeccompUnavailable(message)
    try:
        _call(library.seccomp_attr_set(context, _ATTRIBUTE_ON_OTHER_ARCHITECTURE, _ACT_KILL_PROCESS))
        _call(library.seccomp_attr_set(context, _ATTRIBUTE_OPTIMIZE, _OPTIMIZE_BINARY_TREE))
        for name in REFUSED:
            _add(library, context, _ACT_ERRNO | errno.EPERM, name, None)
        for rule in RULES:
            for name in rule.names:
                for comparison in _comparisons(rule):
                    _add(library, context, _ACT_ALLOW, name, comparison)
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _comparisons(rule: Rule) -> list[_Comparison | None]:
    if not rule.values:
        return [None]
    if rule.mask:
        return [_Comparison(rule.index, _CMP_MASKED_EQ, rule.mask, value) for value in rule.values]
    return [_Comparison(rule.index, _CMP_EQ, value, 0) for value in rule.values]


def _add(library: ctypes.CDLL, context: int, action: int, name: str, comparison: _Comparison | None) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number == _UNKNOWN_SYSCALL:
        return  # Newer than the library, or of another architecture: the default answer holds.
    count, array = (0, None) if comparison is None else (1, ctypes.byref(comparison))
    _call(library.seccomp_rule_add_array(context, action, number, count, array))


def _export(library: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("seccomp")
    try:
        _call(library.seccomp_export_bpf(context, fd))
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def _call(returned: int) -> None:
    if returned < 0:
        raise SeccompUnavailable(f"libseccomp: {os.strerror(-returned)}")
