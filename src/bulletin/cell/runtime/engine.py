"""OCI runtimes as engines: making, starting, entering and deleting containers.

Two of them, one behaviour: *crun*, several times as fast when it is given the compiled seccomp filter and runs from a
place where nobody can write to it (it makes a copy of itself at each run otherwise), and *runc*. What differs between
them is a row of a table.

Engines are run in the cell's mount namespace and inherit an open lock file, so a later process of the cell can tell
when the last of them is gone.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import platform
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol

from bulletin.cell.runtime import seccomp, spawn
from bulletin.cell.runtime.namespace import MountNamespace
from bulletin.cell.runtime.spec import Seccomp
from bulletin.core import limits

__all__ = ["KINDS", "Engine", "EngineFailed", "EngineKind", "OciEngine", "Streams", "last_error"]

_LOG_BYTES_MAX: Final = 64 * 1024


class EngineFailed(Exception):
    """The engine refused; the text is its own."""


@dataclass(frozen=True, slots=True)
class Streams:
    """Descriptors for a process's output, None for nowhere; they stay the caller's."""

    stdout: int | None = None
    stderr: int | None = None


class Engine(Protocol):
    """What makes containers out of bundles: directories with a ``config.json``.

    No call is to be cancelled: whoever may be cancelled shields it and waits for its end.
    """

    @property
    def name(self) -> str:
        """Its name, for people."""
        ...

    def seccomp(self) -> Seccomp:
        """The filter in the form this engine takes.

        Raises:
            SeccompUnavailable: there is none for this machine.
        """
        ...

    async def create(self, guid: str, prepare: Callable[[], Streams]) -> spawn.Child:
        """Make a container that waits for ``start`` before it runs its process.

        Args:
            guid: names the container, and its bundle among the bundles.
            prepare: writes the bundle; called in the mount namespace, so that nothing comes between it and the
                start of the engine.

        Returns:
            The container's init.

        Raises:
            EngineFailed: something of the container may be left; ``delete`` removes it.
        """
        ...

    async def start(self, guid: str) -> None:
        """Let a container that was made run its process.

        Raises:
            EngineFailed: it cannot be started.
        """
        ...

    async def execute(self, guid: str, name: str, prepare: Callable[[], Streams]) -> spawn.Child:
        """Start one more process in a running container.

        Args:
            guid: of the container.
            name: of the file in its bundle where ``prepare`` wrote what to run.
            prepare: called in the mount namespace.

        Returns:
            The process.

        Raises:
            EngineFailed: it cannot be started.
        """
        ...

    def forget(self, guid: str) -> bool:
        """Remove what the engine itself keeps of a container that has no process any more; in the mount namespace.

        Returns:
            Whether that is all there was to do but for its control groups; else ``delete`` has to be called.
        """
        ...

    async def delete(self, guid: str) -> None:
        """Remove a container, killing what runs in it. Does nothing when there is none.

        Raises:
            EngineFailed: something is left.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineKind:
    """How one OCI runtime differs from the others."""

    name: str
    #: Where it is found, in Debian's words.
    package: str
    #: Flags before the verb.
    flags: tuple[str, ...]
    #: It takes a compiled seccomp program by annotation.
    takes_program: bool
    #: A byte written to ``exec.fifo`` starts a container, which saves a whole run of the engine.
    starts_by_fifo: bool
    #: All it keeps of a container is a directory of plain files, so a container without processes can be deleted
    #: without running it, at a fifth of the cost.
    keeps_plain_files: bool
    #: It cannot work while a v2 hierarchy is mounted beside v1 ones.
    refuses_hybrid: bool


#: In the order they are tried.
KINDS: Final = (
    EngineKind("crun", "crun", ("--cgroup-manager=cgroupfs",), True, True, True, True),
    EngineKind("runc", "runc", (), False, False, False, False),
)

#: crun's name for a compiled seccomp filter in base64.
_PROGRAM_ANNOTATION: Final = "run.oci.seccomp_bpf_data"


class OciEngine:
    """An ``Engine`` that runs an OCI runtime's command line."""

    def __init__(
        self, kind: EngineKind, program: str, directory: str, directory_fd: int, mounts: MountNamespace, lock_fd: int
    ) -> None:
        """Wire it.

        Args:
            kind: which it is.
            program: path of the binary, in the mount namespace.
            directory: the cell's private directory: bundles are in ``bundles``, the engine's state in ``engine``.
            directory_fd: the same, open.
            mounts: where it is run.
            lock_fd: handed on to every run of it.
        """
        self._kind = kind
        self._directory = directory
        self._directory_fd = directory_fd
        self._mounts = mounts
        self._lock_fd = lock_fd
        self._failed = False
        self._running = 0
        self._base = (program, "--root", f"{directory}/engine", *kind.flags)

    @property
    def name(self) -> str:
        """See ``Engine``."""
        return self._kind.name

    def seccomp(self) -> Seccomp:
        """See ``Engine``."""
        if self._kind.takes_program:
            program = base64.b64encode(seccomp.compile_program()).decode("ascii")
            return Seccomp(annotations={_PROGRAM_ANNOTATION: program})
        return Seccomp(table=seccomp.oci_table(platform.machine()))

    async def create(self, guid: str, prepare: Callable[[], Streams]) -> spawn.Child:
        """See ``Engine``."""
        bundle = f"{self._directory}/bundles/{guid}"
        return await self._make(
            (*self._logging(bundle, "create"), "create", "--bundle", bundle, "--pid-file", f"{bundle}/create.pid"),
            guid,
            "create",
            prepare,
        )

    async def start(self, guid: str) -> None:
        """See ``Engine``."""
        if not (self._kind.starts_by_fifo and self._started_by_fifo(guid)):
            await self._run("start", "--", guid)

    async def execute(self, guid: str, name: str, prepare: Callable[[], Streams]) -> spawn.Child:
        """See ``Engine``."""
        bundle = f"{self._directory}/bundles/{guid}"
        verb = ("exec", "--detach", "--process", f"{bundle}/{name}", "--pid-file", f"{bundle}/{name}.pid")
        return await self._make((*self._logging(bundle, name), *verb), guid, name, prepare)

    def forget(self, guid: str) -> bool:
        """See ``Engine``."""
        if not self._kind.keeps_plain_files:
            return False
        directory = f"{self._directory}/engine/{guid}"
        try:
            for name in os.listdir(directory):
                os.unlink(f"{directory}/{name}")
            os.rmdir(directory)
        except OSError:
            return False
        return True

    async def delete(self, guid: str) -> None:
        """See ``Engine``."""
        await self._run("delete", "--force", "--", guid)

    def _logging(self, bundle: str, name: str) -> tuple[str, ...]:
        # The streams belong to the container already, so the engine must complain elsewhere.
        return ("--log", f"{bundle}/{name}.log", "--log-format", "json")

    async def _make(
        self, arguments: tuple[str, ...], guid: str, name: str, prepare: Callable[[], Streams]
    ) -> spawn.Child:
        """Run the engine so that it leaves a process behind, which becomes a child of this one."""

        def launch() -> int:
            streams = prepare()
            argv = (*self._base, *arguments, "--", guid)
            return spawn.start(spawn.Command(argv, stdout=streams.stdout, stderr=streams.stderr, kept=(self._lock_fd,)))

        bundle = f"bundles/{guid}"
        async with self._counted():
            engine = spawn.Child(await self._mounts.run(launch))
            _, pending = await asyncio.wait((engine.ending,), timeout=limits.ENGINE_SECONDS_MAX)
            if pending:
                await spawn.kill_tree(engine)
                self._fail(f"took longer than {limits.ENGINE_SECONDS_MAX:g} s")
            status = await engine.wait()
            if status != 0:
                self._fail(last_error(self._read(f"{bundle}/{name}.log")) or f"exit status {status}")
            return spawn.Child(int(self._read(f"{bundle}/{name}.pid")))

    def _fail(self, text: str) -> NoReturn:
        self._failed = True
        raise EngineFailed(f"{self.name}: {text}")

    @contextlib.asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        """Count a run of the engine, and clean up after failed ones when no other is under way.

        Only then is no child of the engine about to be handed over, and all that nobody watches are left over.
        """
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            if self._failed and not self._running:
                self._failed = False
                await spawn.end_strays(self.name)

    def _started_by_fifo(self, guid: str) -> bool:
        """Say "go" as the engine's ``start`` would; False when nobody listens there."""
        path = f"engine/{guid}/exec.fifo"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._directory_fd)
        except OSError:
            return False
        try:
            return os.write(fd, b"\0") == 1
        finally:
            os.close(fd)

    async def _run(self, *arguments: str) -> None:
        async def launch(command: spawn.Command) -> int:
            return await self._mounts.run(lambda: spawn.start(command))

        async with self._counted():
            try:
                finished = await spawn.run(
                    (*self._base, *arguments),
                    timeout_seconds=limits.ENGINE_SECONDS_MAX,
                    kept=(self._lock_fd,),
                    launch=launch,
                )
            except (OSError, spawn.CommandTimedOut) as error:
                self._fail(str(error))
            if finished.status != 0:
                text = finished.stderr.decode("utf-8", "replace").strip()
                self._fail(f"{arguments[0]}: {text or f'exit status {finished.status}'}")

    def _read(self, path: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory_fd)
            try:
                return os.read(fd, _LOG_BYTES_MAX).decode("utf-8", "replace")
            finally:
                os.close(fd)
        return ""


def last_error(log: str) -> str:
    """The text of the last error in an engine's JSON log; the log as it is when it has none.

    The rest of a line that several engines of one container wrote to at once is passed over.
    """
    found = ""
    for line in log.splitlines():
        with contextlib.suppress(ValueError):
            entry: Any = json.loads(line)
            if isinstance(entry, dict) and entry.get("level") == "error":
                found = str(entry.get("msg", ""))
    return found or log.strip()
