"""The machine as the container room uses it: opened once, with everything found out that does not change.

An engine is chosen by running a container with it: a version that is there but does not get along with this kernel
or this layout of control groups is told from one that does by nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from bulletin.cell.runtime import linux, mounts, spec
from bulletin.cell.runtime.api import RuntimeUnusable
from bulletin.cell.runtime.cgroups import Cgroups, Kind, parse_layout
from bulletin.cell.runtime.engine import KINDS, Engine, EngineFailed, EngineKind, OciEngine, Streams
from bulletin.cell.runtime.leftovers import CellLock, sweep
from bulletin.cell.runtime.namespace import MountNamespace
from bulletin.cell.runtime.seccomp import SeccompUnavailable
from bulletin.cell.runtime.settings import ContainersSettings
from bulletin.cell.runtime.spec import Seccomp
from bulletin.core import limits

__all__ = ["Machine", "find_init", "find_program", "held_capabilities", "open_machine"]

#: Names of the kernel's capabilities by their number.
_CAPABILITY_TEXT: Final = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
_CAPABILITIES: Final = tuple(f"CAP_{name}" for name in _CAPABILITY_TEXT.split())
#: Where distributions put the init besides PATH; podman brings one along.
_INIT_DIRECTORIES: Final = ("/usr/libexec/podman", "/usr/libexec/catatonit", "/usr/lib/podman")
_INIT: Final = "catatonit"
#: No guid has a dot in it.
_TEST_GUID: Final = "self.test"
_TEST_LIMITS: Final = spec.Limits(memory_bytes=64 * 1024 * 1024, pids=16, cpu_shares=512)
#: Files that every v1 control group has and that are no names for one; all others have a dot.
_CONTROL_FILES: Final = frozenset({"tasks", "notify_on_release", "release_agent"})
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Machine:
    """What containers are made with."""

    settings: ContainersSettings
    cgroups: Cgroups
    mounts: MountNamespace
    engine: Engine
    #: None when the operator turned it off.
    seccomp: Seccomp | None
    #: Path of the init in the mount namespace.
    init: str
    #: A user namespace with the ids of unprivileged containers; None where images cannot be shown shifted.
    user_namespace: int | None
    capabilities: tuple[str, ...]
    #: The cell's own hard limit of open files.
    nofile_max: int
    #: Takes everything down again.
    _opened: AsyncExitStack

    def group(self, guid: str) -> str:
        """A container's control group, named by its guid unless the kernel has the name taken."""
        name = f"{guid}.task" if guid in _CONTROL_FILES else guid
        return f"{self.settings.cgroup}/{name}"

    async def close(self) -> None:
        """Let go of everything; containers are destroyed already. Idempotent."""
        await self._opened.aclose()


async def open_machine(settings: ContainersSettings) -> Machine:
    """Open it.

    Raises:
        RuntimeUnusable: no container can run here; the text says what to do.
    """
    if os.geteuid() != 0:
        raise RuntimeUnusable("containers are made by root only: run the cell as root")
    init = find_init()
    if init is None:
        raise RuntimeUnusable(f"no init for containers: apt-get install {_INIT}")
    cgroups = Cgroups(parse_layout(_mountinfo()), _membership())
    if cgroups.layout.kind is Kind.NONE:
        raise RuntimeUnusable("no control groups are mounted: mount -t cgroup2 none /sys/fs/cgroup")
    async with AsyncExitStack() as stack:
        try:
            return await _open(settings, cgroups, init, stack)
        except OSError as error:
            message = f"the container room cannot be set up: {error}"
            raise RuntimeUnusable(message) from error


async def _open(settings: ContainersSettings, cgroups: Cgroups, init: str, stack: AsyncExitStack) -> Machine:
    lock = CellLock(settings)
    stack.callback(lock.close)
    await sweep(settings, cgroups, lock)
    stack.callback(cgroups.remove_empty, settings.cgroup_of_all)
    stack.push_async_callback(cgroups.remove, settings.cgroup)
    cgroups.make(settings.cgroup)
    linux.set_child_subreaper()
    stack.callback(_remove_if_empty, Path(settings.private))
    namespace = MountNamespace()
    stack.push_async_callback(namespace.close)
    await namespace.open()
    directory_fd = await namespace.run(lambda: _furnish(settings.private, init))
    stack.callback(os.close, directory_fd)

    opening = _Opening(settings, cgroups, namespace, directory_fd, lock.engines_fd)
    found = await opening.choose()
    stack.callback(os.close, found.user_namespace)
    can_shift = await namespace.run(lambda: _probe_shift(settings, found.user_namespace))
    return Machine(
        settings=settings,
        cgroups=cgroups,
        mounts=namespace,
        engine=found.engine,
        seccomp=found.seccomp,
        init=f"{settings.private}/init",
        user_namespace=found.user_namespace if can_shift else None,
        capabilities=held_capabilities(),
        nofile_max=_nofile_max(),
        _opened=stack.pop_all(),
    )


def _mountinfo() -> str:
    return Path("/proc/self/mountinfo").read_text("utf-8", "replace")


def _membership() -> str:
    return Path("/proc/self/cgroup").read_text("utf-8", "replace")


def _furnish(private: str, init: str) -> int:
    """Set up the private directory; answers it open."""
    mounts.make_private_directory(private)
    for name in ("engine", "bundles"):
        os.mkdir(f"{private}/{name}", 0o711)
    # A copy, since a privileged container could write through to the original by mounting it anew.
    shutil.copy(init, f"{private}/init.copy")
    mounts.show_read_only(f"{private}/init.copy", f"{private}/init")
    return os.open(private, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _probe_shift(settings: ContainersSettings, user_namespace: int) -> bool:
    """Whether images can be shown with shifted ids; OSError when containers cannot have file systems at all."""
    directory = settings.containers / _TEST_GUID
    directory.mkdir(0o700)
    try:
        try:
            mounts.try_root(str(directory), user_namespace, settings.ids)
        except OSError:
            mounts.try_root(str(directory), None, None)
            return False
        return True
    finally:
        directory.rmdir()


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()


@dataclass(frozen=True, slots=True)
class _Found:
    engine: Engine
    seccomp: Seccomp | None
    #: A namespace with the ids of unprivileged containers, taken from the test container.
    user_namespace: int


@dataclass(frozen=True, slots=True)
class _Opening:
    """Choosing the engine."""

    settings: ContainersSettings
    cgroups: Cgroups
    namespace: MountNamespace
    directory_fd: int
    lock_fd: int

    async def choose(self) -> _Found:
        """Take the first engine with which a container runs.

        Raises:
            RuntimeUnusable: none does; the text has each one's complaint.
        """
        complaints: list[str] = []
        for kind in KINDS:
            if self.settings.engine not in ("auto", kind.name):
                continue
            hybrid = kind.refuses_hybrid and self.cgroups.layout.kind is Kind.HYBRID
            for hiding in (False, True) if hybrid else (False,):
                try:
                    if hiding:
                        await self.namespace.run(self._hide_unified)
                    return await self._try(kind)
                except (EngineFailed, SeccompUnavailable, OSError) as error:
                    complaints.append(f"{kind.name}: {error}")
        packages = " ".join(kind.package for kind in KINDS if self.settings.engine in ("auto", kind.name))
        message = f"no container runtime works here ({'; '.join(complaints)}): apt-get install {packages} {_INIT}"
        raise RuntimeUnusable(message)

    def _hide_unified(self) -> None:
        unified = self.cgroups.layout.unified
        assert unified is not None
        linux.umount(unified, detach=True)

    async def _try(self, kind: EngineKind) -> _Found:
        program = find_program(kind.name)
        if program is None:
            raise EngineFailed("not installed")
        private = self.settings.private
        shown = f"{private}/{kind.name}"
        if not await self.namespace.run(lambda: os.path.exists(shown)):
            await self.namespace.run(lambda: mounts.show_read_only(program, shown))
        engine = OciEngine(kind, shown, private, self.directory_fd, self.namespace, self.lock_fd)
        seccomp = engine.seccomp() if self.settings.seccomp else None
        try:
            return _Found(engine, seccomp, await self._run_test(engine, seccomp))
        finally:
            await self._clean_up(engine)

    async def _clean_up(self, engine: Engine) -> None:
        # Whatever an engine that does not work left of its container is in the way of the next one's.
        group = f"{self.settings.cgroup}/{_TEST_GUID}"
        await self.cgroups.kill(group)
        with contextlib.suppress(EngineFailed):
            await engine.delete(_TEST_GUID)
        await self.cgroups.remove(group)
        for place in ("bundles", "engine"):
            path = f"{self.settings.private}/{place}/{_TEST_GUID}"
            await self.namespace.run(partial(shutil.rmtree, path, ignore_errors=True))

    async def _run_test(self, engine: Engine, seccomp: Seccomp | None) -> int:
        """Run a container of which nothing is wanted but a good end; answers its user namespace, open."""
        init = await engine.create(_TEST_GUID, lambda: self._prepare_test(seccomp))
        with ExitStack() as stack:
            try:
                user_namespace = os.open(f"/proc/{init.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, user_namespace)
                await engine.start(_TEST_GUID)
                _, pending = await asyncio.wait(
                    (asyncio.ensure_future(init.wait()),), timeout=limits.ENGINE_SECONDS_MAX
                )
            finally:
                await init.kill()
            status = await init.wait()
            if pending or status != 0:
                raise EngineFailed(f"a test container {'did not end' if pending else f'ended with status {status}'}")
            stack.pop_all()
            return user_namespace

    def _prepare_test(self, seccomp: Seccomp | None) -> Streams:
        bundle = f"{self.settings.private}/bundles/{_TEST_GUID}"
        ids = self.settings.ids
        os.mkdir(bundle, 0o711)
        os.mkdir(f"{bundle}/rootfs", 0o755)
        os.chown(f"{bundle}/rootfs", ids.base, ids.base)
        facts = spec.ContainerFacts(
            guid=_TEST_GUID,
            rootfs=f"{bundle}/rootfs",
            process=replace(spec.pause_process(), args=(spec.INIT_PATH, "--version")),
            capabilities=held_capabilities(),
            ids=ids,
            limits=replace(_TEST_LIMITS, swap=self.cgroups.limits_swap),
            cgroup=f"{self.settings.cgroup}/{_TEST_GUID}",
            seccomp=seccomp,
            init=f"{self.settings.private}/init",
        )
        Path(f"{bundle}/config.json").write_text(json.dumps(spec.container_document(facts)), "ascii")
        return Streams()


def find_program(name: str) -> str | None:
    """Path of a system program, wherever the cell's own PATH points."""
    return shutil.which(name, path=_PATH)


def find_init() -> str | None:
    """Path of the init, None when there is none."""
    return find_program(_INIT) or shutil.which(_INIT, path=os.pathsep.join(_INIT_DIRECTORIES))


def held_capabilities() -> tuple[str, ...]:
    """Names of the capabilities this process holds and may hand on."""
    masks = {}
    for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        name, _, value = line.partition(":")
        if name in ("CapEff", "CapBnd"):
            masks[name] = int(value, 16)
    held = masks["CapEff"] & masks["CapBnd"]
    return tuple(name for number, name in enumerate(_CAPABILITIES) if held >> number & 1)


def _nofile_max() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 2**31 - 1 if hard == resource.RLIM_INFINITY else hard
