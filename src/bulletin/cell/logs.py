r"""A task's output: bytes of its processes become lines, and the newest of them are kept (cell.md section 10).

Rules: output is split at ``\n`` and ``\r``; empty lines are dropped; a line of more than ``LOG_LINE_BYTES_MAX`` bytes
is split between two characters; an unterminated tail waits, and what the step says next is glued to it. The task's
``log_rate_limit`` applies to everything but the cell's own lines. The lines are kept whether or not the task has a
``log_guid``, because ``bulletin run`` shows them.

Wart: a line that arrives in pieces carries the time of its last piece.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

from bulletin.core.limits import LOG_LINE_BYTES_MAX, OUTPUT_BYTES_MAX
from bulletin.core.steps import StreamName
from bulletin.seams import Clock

__all__ = ["CellLines", "Line", "TaskLog"]

#: What a kept line takes beside its text, so that a million empty ones do not fit either.
_LINE_OVERHEAD_BYTES: Final = 32
#: After the rate limit was exceeded everything is dropped for so long.
_PENALTY_SECONDS: Final = 1.0


class Line(NamedTuple):
    """One line of output."""

    time_ns: int
    stream: StreamName
    source: str
    text: str


@dataclass(frozen=True, slots=True)
class CellLines:
    """The texts a cell itself writes into a task's output (cell.md 10.2)."""

    cell_id: str
    guid: str

    @property
    def creating(self) -> str:
        """Before the container is made."""
        return f"Cell {self.cell_id} creating container for instance {self.guid}"

    @property
    def created(self) -> str:
        """After it was made."""
        return f"Cell {self.cell_id} successfully created container for instance {self.guid}"

    def create_failed(self, error: str) -> str:
        """When it could not be made."""
        return f"Cell {self.cell_id} failed to create container for instance {self.guid}: {error}"

    @property
    def stopping(self) -> str:
        """Before a container that ran something is destroyed."""
        return f"Cell {self.cell_id} stopping instance {self.guid}"

    @property
    def destroying(self) -> str:
        """Before the container is destroyed."""
        return f"Cell {self.cell_id} destroying container for instance {self.guid}"

    @property
    def destroyed(self) -> str:
        """After it was destroyed."""
        return f"Cell {self.cell_id} successfully destroyed container for instance {self.guid}"

    @property
    def destroy_failed(self) -> str:
        """When something of it is left."""
        return f"Cell {self.cell_id} failed to destroy container for instance {self.guid}"


class TaskLog:
    """The output of one task.

    Args:
        clock: tells the time of a line, and refills the rate limit.
        bytes_per_second: the task's rate limit; None or -1 is unlimited, 0 silence.
        kept_bytes_max: what is kept, the newest first, counted in bytes of text with something for each line.
    """

    def __init__(
        self, clock: Clock, *, bytes_per_second: int | None = None, kept_bytes_max: int = OUTPUT_BYTES_MAX
    ) -> None:
        self._clock = clock
        self._limit: _RateLimit | None = None
        self._silent = bytes_per_second == 0
        if bytes_per_second is not None and bytes_per_second > 0:
            self._limit = _RateLimit(bytes_per_second, clock.monotonic())
        self._kept_bytes_max = kept_bytes_max
        self._kept_bytes = 0
        self._lines: deque[Line] = deque()
        self._tails: dict[tuple[int, StreamName], tuple[str, bytes]] = {}

    def write(self, step: int, stream: StreamName, source: str, data: bytes) -> None:
        """Take output of ``step`` as it comes."""
        if self._silent or not data:
            return
        key = (step, stream)
        tail = self._tails.get(key)
        if tail is not None:
            data = tail[1] + data
        *lines, rest = data.replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            if line:
                self._add_long(stream, source, line)
        while len(rest) > LOG_LINE_BYTES_MAX:
            piece, rest = _split_long(rest)
            self._add(stream, source, piece)
        if rest:
            self._tails[key] = (source, rest)
        elif tail is not None:
            del self._tails[key]

    def end(self, step: int) -> None:
        """The step has ended: what it left unterminated are lines too."""
        streams: tuple[StreamName, ...] = ("out", "err")
        for stream in streams:
            tail = self._tails.pop((step, stream), None)
            if tail is not None:
                self._add_long(stream, tail[0], tail[1])

    def say(self, stream: StreamName, source: str, text: str) -> None:
        """Write a line of the cell itself, past the rate limit."""
        self._keep(Line(self._clock.now_ns(), stream, source, text))

    def lines(self) -> tuple[Line, ...]:
        """The newest lines, oldest first."""
        return tuple(self._lines)

    def _add_long(self, stream: StreamName, source: str, line: bytes) -> None:
        while len(line) > LOG_LINE_BYTES_MAX:
            piece, line = _split_long(line)
            self._add(stream, source, piece)
        self._add(stream, source, line)

    def _add(self, stream: StreamName, source: str, line: bytes) -> None:
        if self._limit is not None:
            passed = self._limit.take(len(line), self._clock.monotonic())
            if not passed:
                if passed is None:
                    text = f"app instance exceeded log rate limit ({self._limit.bytes_per_second} bytes/sec)"
                    self.say("out", source, text)
                return
        self._keep(Line(self._clock.now_ns(), stream, source, line.decode("utf-8", "replace")))

    def _keep(self, line: Line) -> None:
        self._lines.append(line)
        self._kept_bytes += _cost(line)
        while self._kept_bytes > self._kept_bytes_max and len(self._lines) > 1:
            self._kept_bytes -= _cost(self._lines.popleft())


class _RateLimit:
    """A token bucket: ``bytes_per_second`` is its rate and its depth. Overflowing it costs a whole second."""

    def __init__(self, bytes_per_second: int, now: float) -> None:
        self.bytes_per_second = bytes_per_second
        self._tokens = float(bytes_per_second)
        self._filled_at = now
        self._shut_until = now

    def take(self, size_bytes: int, now: float) -> bool | None:
        """True: it may pass. None: the limit is exceeded with this one. False: it is dropped in silence."""
        if now < self._shut_until:
            return False
        self._tokens = min(float(self.bytes_per_second), self._tokens + (now - self._filled_at) * self.bytes_per_second)
        self._filled_at = now
        if size_bytes <= self._tokens:
            self._tokens -= size_bytes
            return True
        self._shut_until = now + _PENALTY_SECONDS
        return None


def _cost(line: Line) -> int:
    text = line.text
    size_bytes = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return size_bytes + len(line.source) + _LINE_OVERHEAD_BYTES


def _split_long(line: bytes) -> tuple[bytes, bytes]:
    """Cut off as much as a line may have, and not within a character."""
    cut = LOG_LINE_BYTES_MAX
    while cut > LOG_LINE_BYTES_MAX - 4 and line[cut] & 0xC0 == 0x80:
        cut -= 1
    if line[cut] & 0xC0 == 0x80:
        cut = LOG_LINE_BYTES_MAX  # not UTF-8 at all
    return line[:cut], line[cut:]
