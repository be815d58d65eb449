"""The access log: a line when a request is taken up and one when it is done (board-api.md 14.3).

Off, it costs nothing: nothing is wrapped. On, a line is put into memory; a thread of its own writes what has gathered
within a second, so that a slow disk never keeps a request. When more waits than ``ACCESS_LOG_WAITING_BYTES_MAX``, or
the disk refuses, lines are dropped and counted (``bulletin_access_log_dropped_total``). After ``reopen`` lines go to a
file that is opened anew: move the old one away, then send the board SIGHUP.

A line holds the request's path without its query, and no header, no body.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web

from bulletin.board.metrics import BoardMetrics
from bulletin.board.settings import Address
from bulletin.core import limits
from bulletin.seams import Clock
from bulletin.telemetry.redaction import clean_text

__all__ = ["AccessLog"]

log = structlog.get_logger("bulletin.board.access")

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_FLUSH_SECONDS: Final = 1.0
#: What has gathered is written at once when it is as much as this.
_FLUSH_BYTES: Final = 128 * 1024
#: A disk that does not take the last lines in this time does not keep the board from stopping.
_CLOSE_SECONDS_MAX: Final = 5.0
_MODE: Final = 0o640

#: How a certificate's names are called in a line, and whether there may be several.
_NAMES: Final = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU"}


class AccessLog:
    """One board's access log; lines may be put between ``open`` and ``close``.

    Args:
        path: appended to; made, readable for its group, when it is not there.
        metrics: told of what is dropped.
        clock: tells timestamps and durations.
    """

    def __init__(self, path: Path, metrics: BoardMetrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._file = _File(path)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="access-log")
        self._sessions = count(1)
        self._lines: list[bytes] = []
        self._gathered_bytes = 0
        self._written_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[int] | None = None
        self._failing = False
        self._closed = False

    def open(self) -> None:
        """Open the file.

        Raises:
            OSError: it cannot be opened.
        """
        self._file.open()

    def wrap(self, handle: Handle) -> Handle:
        """``handle``, with a line before and one after it."""

        async def logged(request: web.BaseRequest) -> web.StreamResponse:
            data = _describe(request, next(self._sessions))
            started = self._clock.monotonic()
            self._put("serving", data)
            try:
                return await handle(request)
            finally:
                self._put("done", f'{data},"duration":{round((self._clock.monotonic() - started) * 1e9)}')

        return logged

    def reopen(self) -> None:
        """Write into a new file of the same name from here on; nothing once it is closed."""
        if self._closed:
            return
        self._flush()
        self._thread.submit(self._file.reopen)

    async def close(self) -> None:
        """Write what has gathered, within a bound, and let go of the file. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(_CLOSE_SECONDS_MAX):
                while self._lines or self._writing is not None:
                    self._flush()
                    if self._writing is not None:
                        await asyncio.wait({self._writing})
        except TimeoutError:
            log.warning("access_log.late", seconds=_CLOSE_SECONDS_MAX)
        if self._timer is not None:
            self._timer.cancel()
        self._thread.submit(self._file.close)
        self._thread.shutdown(wait=self._writing is None)

    def _put(self, message: str, data: str) -> None:
        now = self._clock.now_ns()
        line = (
            f'{{"timestamp":"{now // 1_000_000_000}.{now % 1_000_000_000:09d}","source":"bulletin-access",'
            f'"message":"bulletin-access.request.{message}","log_level":1,"data":{{{data}}}}}\n'
        ).encode("ascii")
        if self._closed or self._gathered_bytes + self._written_bytes + len(line) > limits.ACCESS_LOG_WAITING_BYTES_MAX:
            self._metrics.access_log_dropped += 1
            return
        self._lines.append(line)
        self._gathered_bytes += len(line)
        if self._gathered_bytes >= _FLUSH_BYTES:
            self._flush()
        else:
            self._flush_later()

    def _flush_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._flush)

    def _flush(self) -> None:
        """Hand what has gathered to the thread, unless it is at work; then its end does this."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None or not self._lines:
            return
        lines, self._lines = self._lines, []
        self._written_bytes, self._gathered_bytes = self._gathered_bytes, 0
        self._writing = asyncio.get_running_loop().run_in_executor(self._thread, self._file.write, lines)
        self._writing.add_done_callback(partial(self._on_written, len(lines)))

    def _on_written(self, lines: int, writing: asyncio.Future[int]) -> None:
        self._writing = None
        self._written_bytes = 0
        written = writing.result()
        self._metrics.access_log_dropped += lines - written
        if written < lines and not self._failing:
            log.warning("access_log.failed", error=self._file.problem, dropped=lines - written)
        self._failing = written < lines
        if self._gathered_bytes >= _FLUSH_BYTES or self._closed:
            self._flush()
        elif self._lines:
            self._flush_later()


class _File:
    """The file, in the hands of the log's thread once it is open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: io.FileIO | None = None
        self._is_torn = False
        #: Why the last write failed.
        self.problem = ""

    def open(self) -> None:
        """Open it, and make it when it is not there.

        Raises:
            OSError: it cannot be.
        """
        self._file = io.FileIO(self._path, "ab", opener=lambda path, flags: os.open(path, flags, _MODE))

    def reopen(self) -> None:
        """Close it and open a new one; when that fails, the next write tries again."""
        self.close()
        try:
            self.open()
        except OSError as error:
            self.problem = str(error)

    def write(self, lines: list[bytes]) -> int:
        """Append ``lines``; returns how many of them are in the file as a whole."""
        if self._file is None:
            self.reopen()
        if self._file is None:
            return 0
        # A line that was cut by a full disk ends before the next one begins.
        data = memoryview(b"".join([b"\n", *lines] if self._is_torn else lines))
        written = 0
        try:
            while written < len(data):
                written += self._file.write(data[written:]) or 0
        except OSError as error:
            self.problem = str(error)
            whole = _whole(lines, written - self._is_torn)
            self._is_torn = self._is_torn if written == 0 else data[written - 1] != ord("\n")
            return whole
        self._is_torn = False
        return len(lines)

    def close(self) -> None:
        """Let go of it. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _whole(lines: Iterable[bytes], written: int) -> int:
    """How many of ``lines`` are within the first ``written`` bytes."""
    whole = 0
    for line in lines:
        written -= len(line)
        if written < 0:
            break
        whole += 1
    return whole


def _describe(request: web.BaseRequest, session: int) -> str:
    """What both lines of a request have in common, as the inside of a JSON object."""
    transport = request.transport
    peer = transport.get_extra_info("peername") if transport is not None else None
    fields: dict[str, object] = {
        "method": request.method,
        "request": clean_text(request.raw_path.partition("?")[0]),
        "remote_addr": str(Address(peer[0], peer[1])) if peer else "",
        "session": str(session),
    }
    certificate = transport.get_extra_info("peercert") if transport is not None else None
    if certificate:
        fields["subject"] = _names(certificate.get("subject", ()))
        fields["issuer"] = _names(certificate.get("issuer", ()))
    return json.dumps(fields, separators=(",", ":"))[1:-1]


def _names(parts: Iterable[Iterable[tuple[str, str]]]) -> dict[str, list[str]]:
    """Those names of a certificate's subject or issuer that a line shows."""
    names: dict[str, list[str]] = {"CN": [], "O": [], "OU": []}
    for part in parts:
        for name, value in part:
            if name in _NAMES:
                names[_NAMES[name]].append(clean_text(value))
    return names
