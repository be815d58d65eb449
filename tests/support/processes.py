"""Serving processes under test: started, waited for, stopped, killed, and found again when they leave something.

A serving process prints one line ``ready ADDRESS`` to its standard output when it serves and logs to its standard
error, which goes to a file here. Every process carries a mark in its environment that its children inherit, so a
child that outlives its parent is found wherever it was adopted.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["ProcessFailed", "ServingProcess", "children", "descendants", "marked", "run_bulletin"]

#: The environment variable that marks every process started here.
MARK = "BULLETIN_TEST_PROCESS"
BULLETIN = (sys.executable, "-m", "bulletin")
#: A lone interpreter on a busy machine needs seconds to import; ten times that is a hang.
START_SECONDS = 60.0
#: The longest a graceful stop may take: the containers get ten seconds to end by themselves (cell.md 2.2).
STOP_SECONDS = 30.0


class ProcessFailed(AssertionError):
    """A process under test did not start, did not stop, or ended by itself; the text has the end of its log."""


class ServingProcess:
    """One ``python -m bulletin ...`` that serves until it is told to stop.

    Args:
        arguments: what follows ``python -m bulletin``.
        log: the file its standard error is appended to.
        environment: added to this process's own environment.
        program: another program that behaves alike.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] | None = None,
    ) -> None:
        self.arguments = list(arguments)
        self._program = list(program or BULLETIN)
        self.log = log
        self.mark = uuid.uuid4().hex
        self._environment = {**_environment(environment or {}), MARK: self.mark}
        self._process: subprocess.Popen[bytes] | None = None
        self._address = ""
        self._output = b""

    @property
    def address(self) -> str:
        """What its ready line said: a URL or a cell id."""
        return self._address

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def pids(self) -> list[int]:
        """The process itself and everything below it."""
        return [self.pid, *descendants(self.pid)]

    def start(self, within_seconds: float = START_SECONDS) -> str:
        """Start it and wait for its ready line; returns what the line said.

        Raises:
            ProcessFailed: it ended, said something else, or was not ready in time.
        """
        assert not self.running, "already running"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._program, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
            )
        try:
            self._address = self._await_ready(time.monotonic() + within_seconds)
        except BaseException:
            self.kill()
            raise
        return self._address

    def stop(self, within_seconds: float = STOP_SECONDS) -> int:
        """Ask it to stop by SIGTERM; returns its exit code. What it printed after its ready line is a failure."""
        assert self._process is not None, "not started"
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProcessFailed(self._story(f"still there {within_seconds} s after SIGTERM")) from None
        rest = self._close_output()
        if rest:
            raise ProcessFailed(self._story(f"printed after its ready line: {rest!r}"))
        return code

    def kill(self) -> None:
        """End it and all that it started by SIGKILL, at once. Nothing happens when it is gone."""
        assert self._process is not None, "not started"
        if self.running:
            self._process.kill()
        self._process.wait()
        self._close_output()
        for pid in marked(self.mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_alone(self) -> None:
        """End it by SIGKILL and leave what it started alone, as a crash does."""
        assert self._process is not None, "not started"
        self._process.kill()
        self._process.wait()
        self._close_output()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def _await_ready(self, deadline: float) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        output = b""
        while b"\n" not in output:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise ProcessFailed(self._story("not ready in time"))
            chunk = os.read(descriptor, 4096)
            if not chunk:
                raise ProcessFailed(self._story(f"ended with {self._process.wait()} before it was ready"))
            output += chunk
        line, _, self._output = output.partition(b"\n")
        word, _, address = line.decode(errors="replace").partition(" ")
        if word != "ready" or not address:
            raise ProcessFailed(self._story(f"said {line!r} instead of being ready"))
        return address

    def _close_output(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        if self._process.stdout.closed:
            return b""
        # A child that outlived it may hold the pipe open, so only what is there now is read.
        descriptor = self._process.stdout.fileno()
        rest, self._output = self._output, b""
        while select.select([descriptor], [], [], 0)[0]:
            chunk = os.read(descriptor, 4096)
            if not chunk:
                break
            rest += chunk
        self._process.stdout.close()
        return rest

    def _story(self, what: str) -> str:
        return f"{' '.join([*self._program, *self.arguments])}: {what}; the end of its log:\n{self.log_text()[-4000:]}"


def run_bulletin(
    *arguments: str, within_seconds: float = START_SECONDS, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command of bulletin to its end, whatever that is."""
    return subprocess.run(
        [*BULLETIN, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within_seconds,
        check=False,
        env=_environment(environment or {}),
    )


def _environment(added: Mapping[str, str]) -> dict[str, str]:
    """This process's own, without the settings of bulletin that whoever runs the tests may have."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BULLETIN_")} | dict(added)


def children(pid: int) -> list[int]:
    """The processes whose parent is ``pid``; zombies too."""
    return [child for child, parent in _parents() if parent == pid]


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``, nearest first."""
    below: dict[int, list[int]] = {}
    for child, parent in _parents():
        below.setdefault(parent, []).append(child)
    found: list[int] = []
    pending = [pid]
    while pending:
        generation = [child for parent in pending for child in below.get(parent, [])]
        found += generation
        pending = generation
    return found


def marked(mark: str) -> list[int]:
    """The processes that carry the mark in their environment, wherever they hang in the tree."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for pid in _pids():
        with suppress(OSError):
            if needle in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def _pids() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def _parents() -> Iterator[tuple[int, int]]:
    for pid in _pids():
        with suppress(OSError):
            # The command may hold spaces and brackets: the fields are counted from the last bracket.
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            yield pid, int(fields[1])
