"""One container, from its directories to their removal.

A container whose only process is known is made with it, under an init, and ``spawn`` only lets it go: by then the
engine has done all its work, while the board was being asked. Any other container is made with an init that does
nothing but reap, and each ``spawn`` is an exec of the engine.

Rule: what a call has begun it finishes, whatever becomes of the caller, so that nothing is ever half there without
somebody knowing. ``destroy`` may be called at any time and as often as need be.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bulletin.cell.runtime import mounts, spec
from bulletin.cell.runtime.api import (
    ContainerOrder,
    ContainerRefused,
    DestroyFailed,
    OutputSink,
    ProcessRefused,
    ResultUnreadable,
    Stream,
)
from bulletin.cell.runtime.engine import EngineFailed, Streams
from bulletin.cell.runtime.files import write_files
from bulletin.cell.runtime.machine import Machine
from bulletin.cell.runtime.process import ContainerProcess, init_runs
from bulletin.cell.runtime.removal import remove_tree
from bulletin.cell.runtime.resolution import ProcessContext, resolve_process
from bulletin.cell.runtime.rootfs import Rootfs
from bulletin.cell.runtime.spawn import Child, output_pipe
from bulletin.core import limits
from bulletin.core.actions import RunAction

__all__ = ["OneContainer", "Plan"]

_MIB: Final = 1024 * 1024
_PAUSE_SECONDS: Final = 0.0005
#: Below this the engine itself runs out of files before it gets to the process, so the process gets an exec of its
#: own, whose failure is the process's and not the container's.
_NOFILE_FOR_ENGINE: Final = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What a container is made from."""

    order: ContainerOrder
    #: Root directory of the image, with shifted ids where they cannot be shifted while mounting.
    image: Path
    image_env: tuple[tuple[str, str], ...]


class OneContainer:
    """An ``api.Container``; ``make`` comes before everything else."""

    def __init__(self, plan: Plan, machine: Machine, on_destroyed: Callable[[], None]) -> None:
        """Say what to make.

        Args:
            plan: what.
            machine: with what.
            on_destroyed: called once, when nothing of it is left.
        """
        order = plan.order
        self._plan = plan
        self._machine = machine
        self._on_destroyed = on_destroyed
        self._guid = order.guid
        self._ids = None if order.definition.privileged else machine.settings.ids
        self._directory = str(machine.settings.containers / order.guid)
        self._bundle = f"{machine.settings.private}/bundles/{order.guid}"
        self._group = machine.group(order.guid)
        self._sole = order.sole_run if order.sole_run is not None and _suits_engine(order.sole_run) else None
        self._context = ProcessContext(
            image_env=plan.image_env,
            task_env=order.definition.environment_variables,
            addresses=machine.settings.addresses,
            nofile_max=machine.nofile_max,
            privileged=order.definition.privileged,
        )
        self._rootfs: Rootfs | None = None
        self._init: Child | None = None
        self._refusal: ProcessRefused | None = None
        #: Reading sides of the sole process's output until it is spawned.
        self._outputs: dict[Stream, int] = {}
        self._processes: list[ContainerProcess] = []
        self._spawned = 0
        self._spawning: set[asyncio.Task[ContainerProcess]] = set()
        self._ending = False
        self._destroying: asyncio.Task[None] | None = None
        #: The most memory it held at once, known when it has been destroyed and the kernel tells.
        self.memory_peak_bytes: int | None = None

    @property
    def guid(self) -> str:
        """The task's guid."""
        return self._guid

    # -- making -------------------------------------------------------------------------------------------------

    async def make(self) -> None:
        """Make it. Not to be cancelled; after a failure ``destroy`` removes what there is.

        Raises:
            ContainerRefused: it cannot be made.
        """
        writing: list[int] = []

        def prepare() -> Streams:
            self._prepare_root()
            process = self._prepare_process()
            streams = Streams()
            if self._sole is not None:
                streams = self._open_pipes(process, self._outputs, writing)
            binds = write_files(self._bundle, self._guid, self._plan.order.definition.volume_mounted_files)
            self._write("config.json", spec.container_document(self._facts(process, binds)))
            return streams

        try:
            self._init = await self._machine.engine.create(self._guid, prepare)
            if self._sole is None:
                await self._machine.engine.start(self._guid)
        except ProcessRefused as refusal:
            # The container is well; it is ``spawn`` that is refused.
            self._refusal = refusal
        except EngineFailed as error:
            raise ContainerRefused(str(error)) from error
        except OSError as error:
            message = f"unable to make the root file system: {error.strerror}"
            raise ContainerRefused(message) from error
        finally:
            for fd in writing:
                os.close(fd)

    def _prepare_root(self) -> None:
        definition = self._plan.order.definition
        namespace = None if self._ids is None else self._machine.user_namespace
        mounts.prepare_upper(self._directory, self._plan.image, None if namespace is None else self._ids)
        os.mkdir(self._bundle, 0o711)
        target = f"{self._bundle}/rootfs"
        os.mkdir(target, 0o711)
        mounts.mount_root(self._directory, self._plan.image, target, namespace, privileged=definition.privileged)
        self._rootfs = Rootfs(target, self._ids)

    def _prepare_process(self) -> spec.ProcessFacts:
        if self._sole is None:
            return spec.pause_process()
        assert self._rootfs is not None
        return spec.with_init(resolve_process(self._sole, self._rootfs, self._context))

    def _facts(self, process: spec.ProcessFacts, binds: tuple[spec.Bind, ...]) -> spec.ContainerFacts:
        definition = self._plan.order.definition
        machine = self._machine
        return spec.ContainerFacts(
            guid=self._guid,
            rootfs=f"{self._bundle}/rootfs",
            process=process,
            capabilities=machine.capabilities,
            ids=self._ids,
            limits=spec.Limits(
                memory_bytes=definition.memory_mb * _MIB,
                pids=definition.max_pids,
                cpu_shares=spec.cpu_shares(definition.cpu_weight, machine.settings.cpu_shares_max),
                swap=machine.cgroups.limits_swap,
            ),
            cgroup=self._group,
            seccomp=None if definition.privileged else machine.seccomp,
            init=machine.init,
            binds=binds,
        )

    def _open_pipes(self, process: spec.ProcessFacts, reading: dict[Stream, int], writing: list[int]) -> Streams:
        shift = 0 if self._ids is None else self._ids.base
        for stream in Stream:
            reading[stream], fd = output_pipe()
            writing.append(fd)
            # Owned by the process's user, who may so open it again as /dev/stdout.
            os.fchown(fd, process.uid + shift, process.gid + shift)
        return Streams(*writing)

    def _write(self, name: str, document: spec.Document) -> None:
        data = json.dumps(document, separators=(",", ":")).encode("ascii")
        fd = os.open(f"{self._bundle}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb", buffering=0) as file:
            file.write(data)

    # -- running ------------------------------------------------------------------------------------------------

    async def spawn(self, run: RunAction, output: OutputSink) -> ContainerProcess:
        """See ``api.Container``."""
        if self._refusal is not None:
            raise self._refusal
        if self._ending:
            raise ProcessRefused("the container is being destroyed")
        starting = self._let_go(run, output) if self._sole is not None else self._execute(run, output)
        task = asyncio.ensure_future(starting)
        self._spawning.add(task)
        task.add_done_callback(self._spawning.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait((task,))
            if task.exception() is None:
                task.result().child.signal(signal.SIGKILL)
            raise

    async def _let_go(self, run: RunAction, output: OutputSink) -> ContainerProcess:
        if self._spawned or run != self._sole or self._init is None:
            raise ProcessRefused("the container was made for one other process")
        self._spawned += 1
        process = self._watch(self._init, self._outputs, output, is_init=True)
        self._outputs = {}
        try:
            await self._machine.engine.start(self._guid)
        except EngineFailed as error:
            raise ProcessRefused(str(error)) from error
        return process

    async def _execute(self, run: RunAction, output: OutputSink) -> ContainerProcess:
        self._spawned += 1
        name = f"process.{self._spawned}"
        reading: dict[Stream, int] = {}
        writing: list[int] = []

        def prepare() -> Streams:
            assert self._rootfs is not None
            process = resolve_process(run, self._rootfs, self._context)
            self._write(name, spec.process_document(process, self._machine.capabilities))
            return self._open_pipes(process, reading, writing)

        child: Child | None = None
        await self._wait_for_init()
        try:
            child = await self._machine.engine.execute(self._guid, name, prepare)
            return self._watch(child, reading, output, is_init=False)
        except EngineFailed as error:
            text = str(error)
            if not _suits_engine(run):
                text = f"too many open files: {text}"  # whatever it failed at, for want of them
            raise ProcessRefused(text) from error
        except OSError as error:
            message = f"unable to start the process: {error.strerror}"
            raise ProcessRefused(message) from error
        finally:
            for fd in (*writing, *(reading.values() if child is None else ())):
                os.close(fd)

    async def _wait_for_init(self) -> None:
        """Wait until the init is itself, a millisecond after the start: before, crun fails at times to enter."""
        deadline = time.monotonic() + limits.ENGINE_SECONDS_MAX
        while self._init is not None and not self._init.ended and not init_runs(self._init.pid):
            if time.monotonic() > deadline:
                raise ProcessRefused("the container does not start")
            await asyncio.sleep(_PAUSE_SECONDS)

    def _watch(
        self, child: Child, reading: dict[Stream, int], output: OutputSink, *, is_init: bool
    ) -> ContainerProcess:
        def out_of_memory() -> bool:
            return self._machine.cgroups.out_of_memory(self._group)

        process = ContainerProcess(child, reading, output, out_of_memory, is_init=is_init)
        self._processes.append(process)
        return process

    # -- ending -------------------------------------------------------------------------------------------------

    async def read_result(self, path: str, bytes_max: int) -> bytes:
        """See ``api.Container``. What lay on a file system of the container's own, as /dev/shm, is gone by then."""
        if not await self._end():
            raise ResultUnreadable("the container's processes do not end")
        rootfs = self._rootfs
        if rootfs is None:
            raise ResultUnreadable("the container is gone")
        return await asyncio.to_thread(rootfs.read_result, path, bytes_max)

    async def destroy(self) -> None:
        """See ``api.Container``. Whoever calls while it is under way waits for the same end."""
        task = self._destroying
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            self._destroying = asyncio.ensure_future(self._destroy())
        assert self._destroying is not None
        await asyncio.shield(self._destroying)

    async def _end(self) -> bool:
        """Kill all that runs, and wait a bounded time. True when nothing runs any more."""
        self._ending = True
        if self._spawning:
            await asyncio.wait(tuple(self._spawning))
        children = [process.child for process in self._processes]
        if self._init is not None and self._init not in children:
            children.append(self._init)
        # The kernel ends the whole pid namespace with its init; but the init is only gone when those we started from
        # outside have been reaped here, so all are waited for together.
        ended = await asyncio.gather(*(child.kill() for child in reversed(children)))
        return all(ended)

    async def _destroy(self) -> None:
        machine = self._machine
        try:
            if not await self._end() or (self._init is None and not await machine.cgroups.kill(self._group)):
                raise DestroyFailed("processes of the container do not end")
            self.memory_peak_bytes = machine.cgroups.memory_peak_bytes(self._group) or self.memory_peak_bytes
            for process in self._processes:
                process.close()
            if not await machine.mounts.run(self._take_down):
                await machine.engine.delete(self._guid)
            if not await asyncio.to_thread(self._remove) and not await machine.cgroups.remove(self._group):
                raise DestroyFailed("a control group of the container cannot be removed")
        except (EngineFailed, OSError) as error:
            raise DestroyFailed(str(error)) from error
        self._on_destroyed()

    def _take_down(self) -> bool:
        """Undo what is in the mount namespace. True when the engine need not be asked to delete the container."""
        for fd in self._outputs.values():
            os.close(fd)
        self._outputs = {}
        if self._rootfs is not None:
            self._rootfs.close()
            self._rootfs = None
        mounts.unmount(f"{self._bundle}/rootfs")
        shutil.rmtree(self._bundle, ignore_errors=True)  # ours alone, in memory, and nothing below is mounted
        return self._init is not None and self._machine.engine.forget(self._guid)

    def _remove(self) -> bool:
        """Remove what the container wrote, and its control groups; False while those are in use."""
        remove_tree(self._directory)
        return self._machine.cgroups.try_remove(self._group)


def _suits_engine(run: RunAction) -> bool:
    nofile = run.resource_limits.nofile
    return nofile is None or nofile >= _NOFILE_FOR_ENGINE
