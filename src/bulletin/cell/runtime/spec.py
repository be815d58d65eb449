"""The OCI configuration of a container, as pure functions from facts to the document an OCI runtime reads.

What is refused to a task and why stands in the tables below; nothing here touches the machine. The one thing taken
from outside is what the machine offers (id range, capabilities, the compiled seccomp filter), handed in as values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = [
    "CAPABILITIES_DEFAULT",
    "CAPABILITIES_PRIVILEGED_USER",
    "HOSTNAME_CHARACTERS_MAX",
    "INIT_PATH",
    "NOFILE_DEFAULT",
    "Bind",
    "ContainerFacts",
    "IdRange",
    "Limits",
    "ProcessFacts",
    "Seccomp",
    "container_document",
    "cpu_shares",
    "pause_process",
    "process_document",
    "with_init",
]

Document = dict[str, Any]

#: cell.md 5.3: all that an unprivileged container may ever hold, and root in it does hold.
CAPABILITIES_DEFAULT: Final = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
#: cell.md 5.3: the ceiling of a process of a privileged container that is not root.
CAPABILITIES_PRIVILEGED_USER: Final = (*CAPABILITIES_DEFAULT, "CAP_SYS_ADMIN")

#: The kernel's __NEW_UTS_LEN; a guid may be longer.
HOSTNAME_CHARACTERS_MAX: Final = 64
#: cell.md 2.2: the runtime default of an absent ``nofile``.
NOFILE_DEFAULT: Final = 16_384
#: cell.md 5.2: fewer than 2 shares are refused by the kernel and raised to 2 by it on cgroup v1.
_CPU_SHARES_MIN: Final = 2

#: In /dev, a file system of the container's own, so that no file is planted in the image's tree.
INIT_PATH: Final = "/dev/.init"

_NAMESPACES: Final = ("pid", "ipc", "uts", "mount", "cgroup")

_MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_READONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

#: (major, minor) of the character devices every task may use; None is any minor.
_DEVICES: Final = (
    (1, 3),  # null
    (1, 5),  # zero
    (1, 7),  # full
    (1, 8),  # random
    (1, 9),  # urandom
    (5, 0),  # tty
    (5, 2),  # ptmx
    (136, None),  # pts/*
)
_FUSE: Final = (10, 229)


@dataclass(frozen=True, slots=True)
class IdRange:
    """Ids of the host that a user namespace maps 0 to ``size - 1`` to."""

    base: int
    size: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a whole container; 0 is none (cell.md 5.2)."""

    memory_bytes: int = 0
    pids: int = 0
    #: As ``cpu_shares`` gives them.
    cpu_shares: int = 0
    #: Whether the kernel accounts swap, so that memory and swap together can be bounded.
    swap: bool = True


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the host shown in the container, read-only."""

    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class Seccomp:
    """The filter, in whichever form the runtime takes: the OCI table, or annotations with the compiled program."""

    table: Mapping[str, Any] | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """One process: everything is looked up already, ids as the container sees them."""

    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = field(repr=False)
    #: Absolute.
    cwd: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    #: Both the soft and the hard limit of open files.
    nofile: int
    privileged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerFacts:
    """One container."""

    guid: str
    #: Where its root file system is mounted.
    rootfs: str
    process: ProcessFacts
    #: The capabilities this machine can give away at all; a privileged container gets these.
    capabilities: tuple[str, ...]
    #: None for a privileged container.
    ids: IdRange | None
    limits: Limits
    #: Absolute, below the mount points of the cgroup hierarchies.
    cgroup: str
    #: None for a privileged container.
    seccomp: Seccomp | None
    #: The init on the host.
    init: str
    binds: tuple[Bind, ...] = ()
    #: Path of a network namespace to join; None makes an empty one with the loopback only.
    network_namespace: str | None = None


def cpu_shares(weight: int, shares_max: int) -> int:
    """Shares for a ``cpu_weight`` of 1 to 100 (cell.md 5.2); 0 is the kernel's default."""
    if weight == 0:
        return 0
    return max(_CPU_SHARES_MIN, shares_max * weight // 100)


def with_init(process: ProcessFacts) -> ProcessFacts:
    """The same process under an init, which reaps orphans, passes signals on and ends with its status."""
    return _with_args(process, (INIT_PATH, "--", *process.args))


def pause_process() -> ProcessFacts:
    """An init that only reaps; the processes of the task join its container later.

    It is root of the container, so that no task of another user can signal it, but holds no capability.
    """
    return ProcessFacts(args=(INIT_PATH, "-P"), env=(), cwd="/", uid=0, gid=0, nofile=64)


def process_document(process: ProcessFacts, capabilities: Collection[str]) -> Document:
    """The ``process`` object of the OCI configuration, also what an exec takes.

    Args:
        process: what to run.
        capabilities: those this machine can give away.
    """
    ceiling, held = _capabilities(process, capabilities)
    return {
        "terminal": False,
        "user": {"uid": process.uid, "gid": process.gid, "additionalGids": list(process.groups)},
        "args": list(process.args),
        "env": [f"{name}={value}" for name, value in process.env],
        "cwd": process.cwd,
        "capabilities": {
            "bounding": ceiling,
            "permitted": held,
            "effective": held,
            # Inheritable or ambient ones would survive an exec by a user who should hold none.
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": process.nofile, "hard": process.nofile}],
        "noNewPrivileges": not process.privileged,
    }


def container_document(facts: ContainerFacts) -> Document:
    """The whole OCI configuration."""
    process = process_document(facts.process, facts.capabilities)
    if facts.process.args == pause_process().args:
        process["capabilities"] = {name: [] for name in process["capabilities"]}
    privileged = facts.ids is None
    document: Document = {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": facts.rootfs},
        "hostname": facts.guid[:HOSTNAME_CHARACTERS_MAX],
        "mounts": _mounts(facts),
        "linux": {
            "namespaces": _namespaces(facts),
            "cgroupsPath": facts.cgroup,
            "resources": _resources(facts.limits, privileged=privileged),
            "maskedPaths": [] if privileged else list(_MASKED_PATHS),
            "readonlyPaths": [] if privileged else list(_READONLY_PATHS),
        },
    }
    linux = document["linux"]
    if facts.ids is not None:
        mapping = [{"containerID": 0, "hostID": facts.ids.base, "size": facts.ids.size}]
        linux["uidMappings"] = mapping
        linux["gidMappings"] = mapping
    else:
        linux["devices"] = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}]
    if facts.seccomp is not None:
        if facts.seccomp.table is not None:
            linux["seccomp"] = facts.seccomp.table
        if facts.seccomp.annotations:
            document["annotations"] = dict(facts.seccomp.annotations)
    return document


def _with_args(process: ProcessFacts, args: tuple[str, ...]) -> ProcessFacts:
    return ProcessFacts(
        args=args,
        env=process.env,
        cwd=process.cwd,
        uid=process.uid,
        gid=process.gid,
        groups=process.groups,
        nofile=process.nofile,
        privileged=process.privileged,
    )


def _capabilities(process: ProcessFacts, available: Collection[str]) -> tuple[list[str], list[str]]:
    """The ceiling (bounding set) and what the process holds from its start (cell.md 5.3)."""
    if process.privileged and process.uid == 0:
        ceiling = list(available)
    elif process.privileged:
        ceiling = [name for name in CAPABILITIES_PRIVILEGED_USER if name in available]
    else:
        ceiling = [name for name in CAPABILITIES_DEFAULT if name in available]
    return ceiling, ceiling if process.uid == 0 else []


def _namespaces(facts: ContainerFacts) -> list[Document]:
    namespaces: list[Document] = [{"type": kind} for kind in _NAMESPACES]
    if facts.network_namespace is None:
        namespaces.append({"type": "network"})
    else:
        namespaces.append({"type": "network", "path": facts.network_namespace})
    if facts.ids is not None:
        namespaces.append({"type": "user"})
    return namespaces


def _mounts(facts: ContainerFacts) -> list[Document]:
    sealed = ["nosuid", "noexec", "nodev"]
    mounts: list[Document] = [
        _mount("/proc", "proc", "proc", sealed),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        _mount("/dev/shm", "tmpfs", "shm", [*sealed, "mode=1777", "size=65536k"]),  # noqa: S108 - a mount point
        _mount("/dev/mqueue", "mqueue", "mqueue", sealed),
        _mount("/sys", "sysfs", "sysfs", [*sealed, "ro"]),
        _mount(INIT_PATH, "bind", facts.init, ["bind", "ro", "nosuid", "nodev"]),
    ]
    mounts.extend(
        _mount(bind.destination, "bind", bind.source, ["rbind", "ro", "nosuid", "nodev"]) for bind in facts.binds
    )
    return mounts


def _mount(destination: str, kind: str, source: str, options: list[str]) -> Document:
    return {"destination": destination, "type": kind, "source": source, "options": options}


def _resources(limits: Limits, *, privileged: bool) -> Document:
    devices: list[Document] = [{"allow": False, "access": "rwm"}]
    for major, minor in (*_DEVICES, _FUSE) if privileged else _DEVICES:
        rule: Document = {"allow": True, "type": "c", "major": major, "access": "rwm"}
        if minor is not None:
            rule["minor"] = minor
        devices.append(rule)
    resources: Document = {"devices": devices}
    if limits.memory_bytes:
        resources["memory"] = {"limit": limits.memory_bytes}
        if limits.swap:
            # The limit of memory and swap together: equal to the memory's means no swap at all.
            resources["memory"]["swap"] = limits.memory_bytes
    if limits.pids:
        resources["pids"] = {"limit": limits.pids}
    if limits.cpu_shares:
        resources["cpu"] = {"shares": limits.cpu_shares}
    return resources
