"""What a cell may not forget: the tasks it took, and outcomes the board has not acknowledged (design section 4).

A file of lines, each ``CRC32 JSON``, appended and never changed; rewritten with what still counts when it is opened
and when it has grown. A torn line at the end is what a crash leaves, and is dropped.

A line is in the kernel before its frame is sent, so it survives the death of the process. An outcome the board has
not acknowledged ``_SYNC_SECONDS`` later is brought to the disk by a thread off the loop, one fdatasync for all that
wait. Nearly every outcome is acknowledged before, and then the disk is left alone: the thread's wake-up alone costs
more than all the rest of a task's journal.

Wart: a machine that loses power within that time forgets the outcome, which then counts only if the board has it.
"""

from __future__ import annotations

import asyncio
import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import structlog

from bulletin.core.cellwork import Completion, Outcome, Rejection
from bulletin.core.limits import JOURNAL_BYTES_MAX

__all__ = ["Journal", "JournalError"]

log = structlog.get_logger("bulletin.cell.journal")

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))
#: A board that is there answers in less.
_SYNC_SECONDS: Final = 0.02


class JournalError(Exception):
    """The journal cannot be read or written; the text says which file and why."""


class Journal:
    """The journal in ``path``. Open it, then read ``owed`` and ``lost`` once.

    Attributes:
        owed: outcomes that an earlier process did not see acknowledged, by task guid.
        lost: tasks that an earlier process took and of which there is no outcome.
    """

    def __init__(self, path: Path, *, bytes_max: int = JOURNAL_BYTES_MAX) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._descriptor = -1
        self._size_bytes = 0
        #: The line that counts of each task that is not settled.
        self._live: dict[str, bytes] = {}
        self._live_bytes = 0
        self._syncer = ThreadPoolExecutor(1, "journal-sync")
        self._syncing: asyncio.Future[None] | None = None
        self._sync_timer: asyncio.TimerHandle | None = None
        #: Outcomes that nobody has acknowledged and that may not be on the disk.
        self._unsynced: set[str] = set()
        self.owed: dict[str, Outcome] = {}
        self.lost: tuple[str, ...] = ()

    def open(self) -> None:
        """Read what there is, and rewrite it with what still counts.

        Raises:
            JournalError: the file cannot be read or written.
        """
        try:
            content = self._path.read_bytes() if self._path.exists() else b""
            self._load(content)
            for guid in self.lost:
                del self._live[guid]
            self._live_bytes = sum(map(len, self._live.values()))
            self._rewrite()
        except OSError as error:
            raise JournalError(f"the journal {self._path} cannot be opened: {error.strerror}") from error

    async def close(self) -> None:
        """Bring to the disk what has to be there, and let go. Idempotent."""
        while self._syncing is not None or self._unsynced:
            if self._syncing is None:
                self._sync()
            else:
                await asyncio.wait([self._syncing])
        self._clear_sync_timer()
        self._syncer.shutdown()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def accepted(self, guid: str) -> None:
        """The cell took a task.

        Raises:
            JournalError: it could not be written; nothing has changed.
        """
        self._append(guid, _encode({"kind": "accepted", "guid": guid}))

    def outcome(self, guid: str, outcome: Outcome) -> None:
        """A task has its outcome.

        Raises:
            JournalError: it could not be written; nothing has changed.
        """
        self._append(guid, _encode(_outcome_record(guid, outcome)))
        self._unsynced.add(guid)
        if self._sync_timer is None:
            self._sync_timer = asyncio.get_running_loop().call_later(_SYNC_SECONDS, self._sync)

    def settled(self, guid: str) -> None:
        """Nothing more is to be told of a task; nothing happens when it is settled already.

        Raises:
            JournalError: it could not be written; nothing has changed.
        """
        if guid in self._live:
            self._write(_encode({"kind": "settled", "guid": guid}))
            self._live_bytes -= len(self._live.pop(guid))
            self._unsynced.discard(guid)

    # -- writing --------------------------------------------------------------------------------------------------

    def _append(self, guid: str, line: bytes) -> None:
        self._write(line)
        self._live_bytes += len(line) - len(self._live.get(guid, b""))
        self._live[guid] = line

    def _write(self, line: bytes) -> None:
        assert self._descriptor >= 0, "the journal is not open"
        try:
            if self._size_bytes + len(line) > max(self._bytes_max, 2 * self._live_bytes):
                self._rewrite()
            written = os.write(self._descriptor, line)
            if written != len(line):
                os.ftruncate(self._descriptor, self._size_bytes)
                msg = f"the journal {self._path} cannot be written: the disk took {written} of {len(line)} bytes"
                raise JournalError(msg)
        except OSError as error:
            raise JournalError(f"the journal {self._path} cannot be written: {error.strerror}") from error
        self._size_bytes += len(line)

    def _rewrite(self) -> None:
        """Replace the file by one with the live lines only; the old one stays until the new one is whole."""
        fresh = self._path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(fresh, flags, 0o600)
        try:
            content = b"".join(self._live.values())
            _write_all(descriptor, content)
            os.fdatasync(descriptor)
            fresh.replace(self._path)
            _sync_directory(self._path.parent)
        except OSError:
            os.close(descriptor)
            raise
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor
        self._size_bytes = len(content)

    def _sync(self) -> None:
        self._clear_sync_timer()
        if self._syncing is not None or not self._unsynced:
            return  # what came meanwhile is seen to when the disk is done
        self._unsynced.clear()
        # The thread gets a descriptor of its own: the journal may be rewritten and the old one closed meanwhile.
        descriptor = os.dup(self._descriptor)
        self._syncing = asyncio.get_running_loop().run_in_executor(self._syncer, _sync_and_close, descriptor)
        self._syncing.add_done_callback(self._synced)

    def _synced(self, done: asyncio.Future[None]) -> None:
        self._syncing = None
        error = done.exception()
        if error is not None:
            log.error("journal.sync.failed", path=str(self._path), error=str(error))
        self._sync()

    def _clear_sync_timer(self) -> None:
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            self._sync_timer = None

    # -- reading --------------------------------------------------------------------------------------------------

    def _load(self, content: bytes) -> None:
        outcomes: dict[str, Outcome] = {}
        lines = content.split(b"\n")
        for number, line in enumerate(lines, 1):
            record = _decode(line)
            if record is None:
                if number < len(lines):
                    log.error("journal.line.damaged", path=str(self._path), line=number)
                elif line:
                    log.warning("journal.line.torn", path=str(self._path), line=number)
                continue
            guid = record["guid"]
            self._live.pop(guid, None)
            outcomes.pop(guid, None)
            if record["kind"] != "settled":
                self._live[guid] = line + b"\n"
            if record["kind"] == "rejected":
                outcomes[guid] = Rejection(record["reason"])
            elif record["kind"] == "completed":
                outcomes[guid] = Completion(record["failed"], record["reason"], record["result"])
        self.owed = outcomes
        self.lost = tuple(guid for guid in self._live if guid not in outcomes)


def _outcome_record(guid: str, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Rejection):
        return {"kind": "rejected", "guid": guid, "reason": outcome.reason}
    return {
        "kind": "completed",
        "guid": guid,
        "failed": outcome.failed,
        "reason": outcome.failure_reason,
        "result": outcome.result,
    }


def _encode(record: dict[str, Any]) -> bytes:
    # ASCII only: neither a newline nor half a surrogate can end up in a line.
    text = _ENCODER.encode(record).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _decode(line: bytes) -> dict[str, Any] | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    record: dict[str, Any] = json.loads(text)
    return record


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_and_close(descriptor: int) -> None:
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
