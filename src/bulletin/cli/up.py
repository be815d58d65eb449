"""``bulletin up``: a board and a cell on this machine, each a process of its own, as in a cluster of a thousand.

No event loop: a selector over the children's pidfds, their standard outputs and a pipe of signals. Rules: the cell
starts when the board serves, and stops before it; neither is started again; each has a session of its own, so that a
Ctrl-C of the terminal reaches only us; should we be killed, the kernel ends them (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Final, NoReturn, Self

from cyclopts import Parameter

from bulletin.cli import printing
from bulletin.cli.board import BoardOptions, make_board_settings
from bulletin.cli.cell import CellOptions, make_cell_settings
from bulletin.cli.exits import FAILED, OK
from bulletin.cli.options import DEFAULT_DATA, DataDirectory
from bulletin.cli.serving import InsecurePlainHttp, LogLevel, as_arguments, as_environment

__all__ = ["EPILOGUE", "Children", "up"]

EPILOGUE: Final = """\
Needs root. Prints "ready http://HOST:PORT" on standard output once a task can
run, and nothing else; logs of both are JSON lines on standard error. SIGTERM
and Ctrl-C stop both, exit status 0. If one ends by itself the other is stopped
and the exit status is 1.

Examples:
  bulletin up
  bulletin up --listen 127.0.0.1:0 --data /tmp/b --memory-mb 2048"""

#: From its start to its ready line; a store of a million tasks, or a machine full of leftovers, takes a while.
_READY_SECONDS: Final = 120.0
#: From SIGTERM to SIGKILL of one child. A cell gives its containers 10 s and destroys them.
_STOP_SECONDS: Final = 45.0
#: A ready line is short; a child that writes more than this without a newline is not one of ours.
_LINE_BYTES_MAX: Final = 4096
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def up(
    *,
    listen: Annotated[
        str,
        Parameter(
            env_var="BULLETIN_LISTEN", help="HOST:PORT of the board; port 0 takes a free one.", show_default=True
        ),
    ] = "127.0.0.1:8889",
    data: DataDirectory = DEFAULT_DATA,
    board_options: BoardOptions | None = None,
    cell_options: CellOptions | None = None,
    insecure_plain_http: InsecurePlainHttp = False,
    log_level: LogLevel = "info",
) -> int:
    """Run a board and a cell on this machine."""
    board_options, cell_options = board_options or BoardOptions(), cell_options or CellOptions()
    # What cannot be is refused here, with the same words, before anything is started.
    make_board_settings(listen, data, board_options, insecure_plain_http=insecure_plain_http, log_level=log_level)
    make_cell_settings(
        "http://127.0.0.1:1", data, cell_options, insecure_plain_http=insecure_plain_http, log_level=log_level
    )
    common = [f"--data={data}", f"--log-level={log_level}", *(["--insecure-plain-http"] if insecure_plain_http else [])]
    with Children() as children:
        try:
            url = children.start(
                "board", [f"--listen={listen}", *common, *as_arguments(board_options)], as_environment(board_options)
            )
            children.start(
                "cell", [f"--board={url}", *common, *as_arguments(cell_options)], as_environment(cell_options)
            )
            sys.stdout.write(f"ready {url}\n")
            sys.stdout.flush()
            children.watch()
        except Stopped:
            return OK
        except ChildEnded as ended:
            printing.error(str(ended), "its own words stand above; `bulletin doctor` checks the machine")
            return FAILED
        finally:
            children.stop()


class Stopped(Exception):
    """A signal told us to stop."""


class ChildEnded(Exception):
    """A child ended, or did not become ready; the text says which and how."""


@dataclass(slots=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    pidfd: int
    #: What it wrote of its ready line.
    said: bytes = b""
    #: What follows ``ready ``; empty as long as it is not.
    ready: str = ""

    def ended(self) -> ChildEnded:
        status = self.process.wait()
        how = f"with status {status}" if status >= 0 else f"by signal {-status} ({signal.strsignal(-status)})"
        return ChildEnded(f"the {self.name} ended {how}")


class Children:
    """The processes of ``bulletin up``. Use as a context manager; leaving it leaves none behind.

    Args:
        program: what stands before the command's name.
        ready_seconds, stop_seconds: see the constants.
    """

    def __init__(
        self,
        program: Sequence[str] = (sys.executable, "-m", "bulletin"),
        *,
        ready_seconds: float = _READY_SECONDS,
        stop_seconds: float = _STOP_SECONDS,
    ) -> None:
        self._program = tuple(program)
        self._ready_seconds = ready_seconds
        self._stop_seconds = stop_seconds
        self._children: list[_Child] = []
        self._selector = selectors.DefaultSelector()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.callback(self._selector.close)
        self._selector.register(self._stack.enter_context(_signal_pipe()), selectors.EVENT_READ, None)
        self._stack.callback(self._kill)
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def start(self, command: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
        """Start ``bulletin COMMAND`` and wait for its ready line. Returns what the line says.

        Args:
            command: what stands behind ``bulletin``.
            arguments: what stands behind that.
            environment: its whole environment; ours when left out.

        Raises:
            Stopped: a signal came first.
            ChildEnded: it, or one started before, ended; or it did not become ready in time.
        """
        child = self._spawn(command, arguments, environment)
        deadline = time.monotonic() + self._ready_seconds
        while not child.ready:
            if not self._step(deadline - time.monotonic()):
                raise ChildEnded(f"the {command} was not ready within {self._ready_seconds:g} s")
        return child.ready

    def watch(self) -> NoReturn:
        """Wait until there is a reason to stop.

        Raises:
            Stopped, ChildEnded: the reason.
        """
        while True:
            self._step(None)

    def stop(self) -> None:
        """End what runs, the last started first; another signal meanwhile ends it at once."""
        for child in reversed(self._children):
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
                self._wait_for(child, time.monotonic() + self._stop_seconds)

    def _wait_for(self, child: _Child, deadline: float) -> None:
        while child.process.poll() is None:
            try:
                if self._step(deadline - time.monotonic()):
                    continue
                printing.error(f"the {child.name} did not stop in time and was killed")
            except Stopped:
                printing.say(f"told to stop again: the {child.name} is killed")
            except ChildEnded:
                # One that stops was told to; of the others this is not the time to speak.
                continue
            child.process.kill()
            child.process.wait()

    def _step(self, seconds: float | None) -> bool:
        """Wait for one thing to happen and take note of it; False when none did in ``seconds``."""
        happened = self._selector.select(None if seconds is None else max(0.0, seconds))
        for key, _ in happened:
            child: _Child | None = key.data
            if child is None:
                self._take_signals(key.fd)
            elif key.fd == child.pidfd:
                self._forget(child)
                raise child.ended()
            else:
                self._take_output(child, key.fd)
        return bool(happened)

    def _take_signals(self, descriptor: int) -> None:
        if os.read(descriptor, 1024):
            raise Stopped

    def _take_output(self, child: _Child, descriptor: int) -> None:
        data = os.read(descriptor, _LINE_BYTES_MAX)
        if not data:
            self._selector.unregister(descriptor)
            return
        if child.ready:
            _pass_on(data)
            return
        child.said += data
        line, newline, rest = child.said.partition(b"\n")
        if newline or len(line) > _LINE_BYTES_MAX:
            word, _, place = line.decode("utf-8", "replace").partition(" ")
            if word != "ready" or not place:
                raise ChildEnded(f"the {child.name} said {line[:200]!r} instead of ready")
            child.ready = place
            _pass_on(rest)

    def _spawn(self, command: str, arguments: Sequence[str], environment: Mapping[str, str] | None) -> _Child:
        process = subprocess.Popen(
            [*self._program, command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - there are no other threads here
        )
        assert process.stdout is not None
        child = _Child(command, process, os.pidfd_open(process.pid))
        self._children.append(child)
        os.set_blocking(process.stdout.fileno(), False)
        self._selector.register(child.pidfd, selectors.EVENT_READ, child)
        self._selector.register(process.stdout.fileno(), selectors.EVENT_READ, child)
        return child

    def _forget(self, child: _Child) -> None:
        assert child.process.stdout is not None
        self._selector.unregister(child.pidfd)
        with contextlib.suppress(KeyError):
            self._selector.unregister(child.process.stdout.fileno())

    def _kill(self) -> None:
        for child in reversed(self._children):
            child.process.kill()
            child.process.wait()
            os.close(child.pidfd)
            if child.process.stdout is not None:
                child.process.stdout.close()
        self._children.clear()


def _pass_on(data: bytes) -> None:
    """By the contract there is nothing more to say; whatever it is, it is not for our standard output."""
    if data:
        sys.stderr.write(data.decode("utf-8", "replace"))
        sys.stderr.flush()


@contextlib.contextmanager
def _signal_pipe() -> Iterator[int]:
    """A descriptor from which a byte can be read for each signal that would stop us."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def take(_number: int, _frame: FrameType | None) -> None:
        """The byte in the pipe is all that is needed."""

    old_wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    old = {number: signal.signal(number, take) for number in _SIGNALS}
    try:
        yield reader
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_wakeup)
        os.close(reader)
        os.close(writer)


def _die_with(parent: int) -> Callable[[], None]:
    """What a child does before it becomes itself: ask the kernel to be told to stop when we are gone."""
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(FAILED)

    return arrange


_PR_SET_PDEATHSIG: Final = 1
