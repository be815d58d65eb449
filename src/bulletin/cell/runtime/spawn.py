"""Starting processes from the cell: ``posix_spawn``, a pidfd, and the loop's own readiness; never a fork.

A fork copies the page tables of the whole cell, and some event loops fork inside their subprocess API; with a large
cell that is tens of milliseconds in which nothing else happens. ``posix_spawn`` borrows the memory instead. Ends are
seen through pidfds, so neither signals nor threads are needed, and a pid can never be mistaken for a later one.

Rules: every descriptor of the cell is close-on-exec; what a child shall have is passed on purpose. Every command has
a time limit, and its output a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = [
    "Child",
    "Command",
    "CommandTimedOut",
    "Finished",
    "PipeReader",
    "end_process",
    "end_strays",
    "kill_tree",
    "output_pipe",
    "run",
    "start",
]

#: What the interpreter or whoever started the cell may have set to be ignored, which an exec would hand on.
_DEFAULT_SIGNALS: Final = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGPIPE,
    signal.SIGTERM,
    signal.SIGCHLD,
    signal.SIGXFSZ,
)
#: Linux gives a pipe this much, so one read usually empties it.
_READ_BYTES: Final = 64 * 1024
#: Reads in one go, so that one loud process does not keep the loop from the others.
_READS_IN_ONE_GO: Final = 16
#: How long a killed process may take to be gone.
_KILL_SECONDS: Final = 10.0
#: A container runtime has two or three; the bound only keeps a fork bomb from holding the cell up.
_DESCENDANTS_MAX: Final = 64
_ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


#: Pids of the children that some ``Child`` stands for.
_watched: set[int] = set()


class CommandTimedOut(Exception):
    """A command did not end in time and was killed; the text names it."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to start. Standard streams that are None are /dev/null."""

    #: The first is an absolute path.
    argv: tuple[str, ...]
    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    #: Descriptors the child gets besides, as 3, 4, 5 and so on.
    kept: tuple[int, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: _ENVIRONMENT, repr=False)


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended."""

    #: 0 to 255; 128 + signal for a signalled one.
    status: int
    #: What it wrote to either stream, the first bytes up to the bound.
    stdout: bytes
    stderr: bytes


def start(command: Command) -> int:
    """Start a process, from whichever thread, in the namespaces of that thread.

    It leads a process group of its own, so that a Ctrl-C meant for the cell does not tear it down half way.

    Returns:
        Its pid. It is a child of this process, so the pid is its own until it has been waited for.

    Raises:
        OSError: it could not be started.
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    opened = [null]
    try:
        wanted = [null if fd is None else fd for fd in (command.stdin, command.stdout, command.stderr)]
        wanted.extend(command.kept)
        actions = []
        for number, fd in enumerate(wanted):
            source = fd
            if source < len(wanted):  # it would be overwritten by a stream before it is its own turn
                source = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, len(wanted))
                opened.append(source)
            actions.append((os.POSIX_SPAWN_DUP2, source, number))
        return os.posix_spawn(
            command.argv[0],
            command.argv,
            command.env,
            file_actions=actions,
            setpgroup=0,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
        )
    finally:
        for fd in opened:
            os.close(fd)


class Child:
    """A child of this process: one it started, or an orphan of its descendants that it inherited.

    Made and used on the loop. The child is reaped as soon as it ends, whether or not anyone waits.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        _watched.add(pid)
        self._loop = asyncio.get_running_loop()
        self._status: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._reap)

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._status.done()

    @property
    def ending(self) -> asyncio.Future[int]:
        """Its end, for ``asyncio.wait``; not to be cancelled."""
        return self._status

    async def wait(self) -> int:
        """Wait for its end; 128 + signal for a signalled process. Any number may wait, and be cancelled."""
        return await asyncio.shield(self._status)

    def signal(self, number: signal.Signals) -> None:
        """Signal it; nothing happens when it has ended."""
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def kill(self) -> bool:
        """Kill it and wait a bounded time. True when it is gone."""
        self.signal(signal.SIGKILL)
        done, _ = await asyncio.wait((self._status,), timeout=_KILL_SECONDS)
        return bool(done)

    def _let_go(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        _watched.discard(self.pid)

    def _reap(self) -> None:
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except OSError as error:
            self._let_go()
            self._status.set_exception(error)
            return
        if result is None:
            return
        self._let_go()
        exited = result.si_code == os.CLD_EXITED
        self._status.set_result(result.si_status if exited else 128 + result.si_status)


class PipeReader:
    """Hands what comes out of a pipe to a sink, on the loop. It owns the descriptor."""

    def __init__(self, fd: int, sink: Callable[[bytes], None]) -> None:
        self._fd = fd
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(fd, self._read)

    async def finish(self, timeout_seconds: float) -> None:
        """Wait until every writer is gone, at most so long; take what is there; close. May be called again."""
        if not self._ended.done():
            self._read()  # mostly the end is there already, before the loop has been told
        if not self._ended.done():
            await asyncio.wait((self._ended,), timeout=timeout_seconds)
        if not self._ended.done():
            self._read()
        self.close()

    def close(self) -> None:
        """Close at once; what has not been read is lost. May be called again."""
        if not self._ended.done():
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._ended.set_result(None)

    def _read(self) -> None:
        for _ in range(_READS_IN_ONE_GO):
            try:
                data = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self.close()
                return
            self._sink(data)


def output_pipe() -> tuple[int, int]:
    """A pipe whose reading side never blocks. Both sides are close-on-exec.

    Returns:
        The reading side and the writing side.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    return reading, writing


async def _start_here(command: Command) -> int:
    return start(command)


async def run(
    argv: Sequence[str],
    *,
    timeout_seconds: float,
    output_bytes_max: int = 64 * 1024,
    env: Mapping[str, str] | None = None,
    kept: tuple[int, ...] = (),
    launch: Callable[[Command], Awaitable[int]] = _start_here,
) -> Finished:
    """Run a command to its end with no input. Cancelling the call kills the command and all below it.

    Args:
        argv: the first is an absolute path.
        timeout_seconds: after that it is killed with all its descendants.
        output_bytes_max: of each stream; the rest is read and thrown away.
        env: the whole environment; a plain one when left out.
        kept: descriptors it gets besides.
        launch: starts it, for whoever wants it started elsewhere than in the calling thread.

    Raises:
        CommandTimedOut: it took too long.
        OSError: it could not be started.
    """
    pipes = (output_pipe(), output_pipe())
    collected = (bytearray(), bytearray())
    readers: list[PipeReader] = []
    try:
        command = Command(
            tuple(argv),
            stdout=pipes[0][1],
            stderr=pipes[1][1],
            kept=kept,
            env=_ENVIRONMENT if env is None else env,
        )
        child = await _launch(command, launch)
        for (reading, _), buffer in zip(pipes, collected, strict=True):
            readers.append(PipeReader(reading, _bounded(buffer, output_bytes_max)))
    finally:
        for reading, writing in pipes:
            os.close(writing)
            if not readers:
                os.close(reading)
    try:
        async with asyncio.timeout(timeout_seconds):
            status = await child.wait()
        for reader in readers:
            await reader.finish(1.0)
    except TimeoutError:
        await kill_tree(child)
        message = f"{argv[0]} took longer than {timeout_seconds:g} s"
        raise CommandTimedOut(message) from None
    except asyncio.CancelledError:
        await kill_tree(child)
        raise
    finally:
        for reader in readers:
            reader.close()
    return Finished(status, bytes(collected[0]), bytes(collected[1]))


async def _launch(command: Command, launch: Callable[[Command], Awaitable[int]]) -> Child:
    """Start it and have it watched, even when the caller is cancelled in between."""
    starting = asyncio.ensure_future(launch(command))
    try:
        return Child(await asyncio.shield(starting))
    except asyncio.CancelledError:
        await asyncio.wait((starting,))
        if not starting.cancelled() and starting.exception() is None:
            await kill_tree(Child(starting.result()))
        raise


def _bounded(buffer: bytearray, bytes_max: int) -> Callable[[bytes], None]:
    def keep(data: bytes) -> None:
        buffer.extend(data[: bytes_max - len(buffer)])

    return keep


async def end_process(pidfd: int) -> bool:
    """Kill a process and wait a bounded time; it is reaped if it is, or becomes, a child of this one.

    Args:
        pidfd: stays open.

    Returns:
        Whether it is gone.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pidfd, lambda: None if ended.done() else ended.set_result(None))
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await asyncio.wait((ended,), timeout=_KILL_SECONDS)
    finally:
        loop.remove_reader(pidfd)
    if ended.done():
        _reap(pidfd)
    return ended.done()


def _reap(pidfd: int) -> None:
    with contextlib.suppress(ChildProcessError):  # somebody else's
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


async def end_strays(name: str) -> None:
    """End children that nobody stands for and whose command's name begins so.

    A command that fails may leave children of its own, which this process inherits as a subreaper, dead or about to
    be. Others in this process may have children too, so neither all can be ended nor any that somebody watches; and
    no such command may just be under way.
    """
    for stray in [os.pidfd_open(pid) for pid in _unwatched_children(name)]:
        try:
            await end_process(stray)
        finally:
            os.close(stray)


def _unwatched_children(name: str) -> list[int]:
    pids: list[int] = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            pids += map(int, Path(f"/proc/self/task/{task}/children").read_text("ascii").split())
    return [pid for pid in pids if pid not in _watched and _command(pid).startswith(name)]


def _command(pid: int) -> str:
    # It stands in parentheses and may have any character in it.
    _, _, after = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").partition("(")
    return after.rpartition(") ")[0]


async def kill_tree(child: Child) -> None:
    """Kill a child and its descendants, which become children of this process when it is a subreaper."""
    child.signal(signal.SIGSTOP)  # so that it starts nothing more while it is looked at
    orphans = _descendants(child.pid)
    try:
        await child.kill()
        for orphan in orphans:
            await end_process(orphan)
    finally:
        for orphan in orphans:
            os.close(orphan)


def _descendants(pid: int) -> list[int]:
    """Pidfds of all below a process, nearest first."""
    found: list[int] = []
    parents = [pid]
    while parents and len(found) < _DESCENDANTS_MAX:
        parent = parents.pop(0)
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii").split()
            for text in children:
                found.append(os.pidfd_open(int(text)))
                parents.append(int(text))
    return found
