"""A store in one SQLite file, for one board on one machine.

Rows are bound on the loop's own thread, and ``commit`` is a coroutine that never suspends: a thread would fight the
loop for the interpreter lock at every row, which was measured to cost three times the fsync it hides. The file belongs
to one process at a time, by a lock file beside it that the process's death releases.

Wart: on a disk whose fsync is slow the loop stands still that long with every commit; PostgreSQL is for that. And two
machines cannot share the file, which a write-ahead log does not allow.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bulletin.core.model import Task
from bulletin.seams import Clock
from bulletin.store import migration
from bulletin.store.api import Batch, BrokenRow, Lease, LeaseHeld, LeaseLost, StoreError
from bulletin.store.checkpoint import LOG_PAGES, Checkpointer
from bulletin.store.files import LockFile, make_directories
from bulletin.store.rows import Row, RowUnreadable, check, decode, encode, encode_changes
from bulletin.store.sealing import Sealer

__all__ = ["SqliteStore"]

#: Has an effect only before the first table is made.
_PAGE_BYTES: Final = 4096
#: How long a lock of another program, a backup say, may stop the loop.
_BUSY_SECONDS: Final = 0.1

_PRAGMAS: Final = (
    # An fsync of the log with every commit: an answered desire survives power loss.
    "PRAGMA synchronous = FULL",
    # The checkpointer does it.
    "PRAGMA wal_autocheckpoint = 0",
    # KiB when negative: the indices of some 100,000 tasks.
    "PRAGMA cache_size = -32768",
    "PRAGMA temp_store = MEMORY",
    # Deleted content is overwritten where that costs no extra page.
    "PRAGMA secure_delete = FAST",
)

_UPSERT: Final = """
INSERT INTO tasks (guid, domain, state, cell_id, created_at, updated_at, first_completed_at, delivered_at, failed,
                   rejection_count, failure_reason, rejection_reason, result, definition, attempts)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (guid) DO UPDATE SET
    domain = excluded.domain, state = excluded.state, cell_id = excluded.cell_id,
    created_at = excluded.created_at, updated_at = excluded.updated_at,
    first_completed_at = excluded.first_completed_at, delivered_at = excluded.delivered_at,
    failed = excluded.failed, rejection_count = excluded.rejection_count,
    failure_reason = excluded.failure_reason, rejection_reason = excluded.rejection_reason,
    result = excluded.result, definition = excluded.definition, attempts = excluded.attempts
"""
_UPDATE: Final = """
UPDATE tasks SET state = ?, cell_id = ?, updated_at = ?, first_completed_at = ?, delivered_at = ?, failed = ?,
                 rejection_count = ?, failure_reason = ?, rejection_reason = ?, result = ?, attempts = ?
WHERE guid = ?
"""
_DELETE: Final = "DELETE FROM tasks WHERE guid = ?"
_DELETE_DOMAIN: Final = "DELETE FROM domains WHERE domain = ?"
_UPSERT_DOMAIN: Final = """
INSERT INTO domains (domain, expires_at) VALUES (?, ?)
ON CONFLICT (domain) DO UPDATE SET expires_at = excluded.expires_at
"""
_UPSERT_OUTPUT: Final = """
INSERT INTO outputs (guid, expires_at, line_bytes, lines) VALUES (?, ?, ?, ?)
ON CONFLICT (guid) DO UPDATE SET
    expires_at = excluded.expires_at, line_bytes = excluded.line_bytes, lines = excluded.lines
"""
_UPSERT_CONFIGURATION: Final = """
INSERT INTO configurations (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value
"""
_IS_OWNER: Final = "SELECT 1 FROM lease WHERE owner = ? AND epoch = ?"
_OLDEST_OUTPUTS: Final = "SELECT guid, line_bytes, expires_at FROM outputs ORDER BY expires_at LIMIT 256"

#: Rows of one chunk; it takes the loop a few milliseconds.
_LOAD_ROWS: Final = 256
#: Dropped in one transaction, so that pruning a great deal does not stop the loop.
_PRUNE_BYTES: Final = 4 * 1024 * 1024
_LOAD: Final = """
SELECT guid, domain, state, cell_id, created_at, updated_at, first_completed_at, delivered_at, failed,
       rejection_count, failure_reason, rejection_reason, result, definition, attempts, rowid
FROM tasks WHERE rowid > ? ORDER BY rowid LIMIT ?
"""


class SqliteStore:
    """See ``api.Store``. ``open`` raises ``LeaseHeld`` while another process has the file open.

    Args:
        path: the database; it and missing directories are made, for the owner only.
        sealer: what definitions pass through.
        clock: tells when a lease has run out.
        log_pages: see ``checkpoint.LOG_PAGES``.
    """

    def __init__(self, path: Path, *, sealer: Sealer, clock: Clock, log_pages: int = LOG_PAGES) -> None:
        self._path = path
        self._sealer = sealer
        self._clock = clock
        self._log_pages = log_pages
        self._lock = LockFile(path.with_name(path.name + ".lock"))
        self._descriptor = -1
        self._connection: sqlite3.Connection | None = None
        self._checkpointer: Checkpointer | None = None

    async def open(self) -> None:
        """See ``api.Store``.

        Raises:
            LeaseHeld: another process has the file open.
            StoreError: it cannot be made, read or migrated.
        """
        assert self._connection is None, "the store is open already"
        try:
            make_directories(self._path.absolute().parent)
            self._lock.take()
            # Kept open until the end: closing any descriptor of the file would drop SQLite's locks on it.
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with self._translated():
                self._connection = self._connect()
                self._migrate(self._connection)
                theirs = self._connect(check_same_thread=False)
                self._checkpointer = Checkpointer(theirs, self._descriptor, log_pages=self._log_pages)
            with self._transaction() as connection:
                # Whoever had the file before us is gone, or we would not hold the lock: its lease is over.
                connection.execute("UPDATE lease SET owner = '', expires_at = 0 WHERE owner <> ''")
        except OSError as error:
            await self.close()
            raise StoreError(f"cannot open {self._path}: {error}") from error
        except BaseException:
            await self.close()
            raise

    async def acquire(self, owner: str, seconds: float) -> Lease:
        """See ``api.Store``."""
        assert owner, "an owner has a name"
        now = self._clock.now_ns()
        with self._transaction() as connection:
            holder, epoch, expires_at = connection.execute("SELECT owner, epoch, expires_at FROM lease").fetchone()
            if holder not in {"", owner} and expires_at > now:
                raise LeaseHeld(f"{self._path} is leased to {holder}")
            connection.execute(
                "UPDATE lease SET owner = ?, epoch = ?, expires_at = ?",
                (owner, epoch + 1, now + round(seconds * 1e9)),
            )
        return Lease(owner, epoch + 1)

    async def renew(self, lease: Lease, seconds: float) -> None:
        """See ``api.Store``."""
        expires_at = self._clock.now_ns() + round(seconds * 1e9)
        with self._transaction() as connection:
            _insist(connection, lease)
            connection.execute("UPDATE lease SET expires_at = ?", (expires_at,))

    async def release(self, lease: Lease) -> None:
        """See ``api.Store``."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE lease SET owner = '', expires_at = 0 WHERE owner = ? AND epoch = ?", (lease.owner, lease.epoch)
            )

    async def load(self) -> AsyncIterator[list[Task | BrokenRow]]:
        """See ``api.Store``. Each chunk is a query of its own, so that no snapshot is held while the caller works."""
        last = -1
        while True:
            with self._translated():
                rows = self._opened().execute(_LOAD, (last, _LOAD_ROWS)).fetchall()
            if not rows:
                return
            last = rows[-1][-1]
            yield [self._decode(row[:-1]) for row in rows]
            await asyncio.sleep(0)

    async def load_domains(self) -> dict[str, int]:
        """See ``api.Store``. A damaged name is left out: freshness is not worth a board that cannot start."""
        with self._translated():
            rows = self._opened().execute("SELECT domain, expires_at FROM domains").fetchall()
        return {domain: expires_at for domain, expires_at in rows if isinstance(domain, str)}

    async def load_configurations(self) -> dict[str, str]:
        """See ``api.Store``."""
        with self._translated():
            return dict(self._opened().execute("SELECT key, value FROM configurations").fetchall())

    async def commit(self, batch: Batch, lease: Lease) -> None:
        """See ``api.Store``. Never suspends."""
        check(batch)
        rows = encode([batch.tasks[guid] for guid in batch.whole], self._sealer)
        changes = encode_changes(batch)
        # A definition and a result; a result.
        long_bytes = sum([len(row[13]) + len(row[12]) for row in rows]) + sum([len(change[9]) for change in changes])
        long_bytes += sum([len(output.lines) for output in batch.outputs])
        with self._transaction(pages=2 + 2 * len(batch) + long_bytes // _PAGE_BYTES) as connection:
            _insist(connection, lease)
            if batch.removed:
                connection.executemany(_DELETE, [(guid,) for guid in batch.removed])
            if rows:
                connection.executemany(_UPSERT, rows)
            if changes and connection.executemany(_UPDATE, changes).rowcount != len(changes):
                raise StoreError(f"{self._path}: a row to be changed is not there")
            if batch.domains:
                connection.executemany(_UPSERT_DOMAIN, list(batch.domains.items()))
            if batch.removed_domains:
                connection.executemany(_DELETE_DOMAIN, [(domain,) for domain in batch.removed_domains])
            if batch.outputs:
                connection.executemany(
                    _UPSERT_OUTPUT,
                    [(output.guid, output.expires_at, len(output.lines), output.lines) for output in batch.outputs],
                )
            if batch.configurations:
                connection.executemany(_UPSERT_CONFIGURATION, list(batch.configurations.items()))

    async def output(self, guid: str) -> bytes | None:
        """See ``api.Store``."""
        with self._translated():
            row = self._opened().execute("SELECT lines FROM outputs WHERE guid = ?", (guid,)).fetchone()
        return None if row is None else row[0]

    async def prune_outputs(self, now: int, bytes_max: int) -> None:
        """See ``api.Store``. In several transactions when there is much to drop; each leaves fewer outputs."""
        with self._translated():
            (kept_bytes,) = self._opened().execute("SELECT COALESCE(SUM(line_bytes), 0) FROM outputs").fetchone()
        while True:
            with self._transaction() as connection:
                dropped: list[tuple[str]] = []
                dropped_bytes = 0
                for guid, line_bytes, expires_at in connection.execute(_OLDEST_OUTPUTS).fetchall():
                    is_needless = expires_at < now or kept_bytes - dropped_bytes > bytes_max
                    if not is_needless or dropped_bytes > _PRUNE_BYTES:
                        break
                    dropped.append((guid,))
                    dropped_bytes += line_bytes
                connection.executemany("DELETE FROM outputs WHERE guid = ?", dropped)
            if not dropped:
                return
            kept_bytes -= dropped_bytes
            await asyncio.sleep(0)

    async def close(self) -> None:
        """See ``api.Store``. Moves what is in the log into the database."""
        try:
            if self._checkpointer is not None:
                self._checkpointer.close()
                self._checkpointer = None
            if self._connection is not None:
                self._connection.close()
                self._connection = None
        finally:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            self._lock.release()

    def _connect(self, *, check_same_thread: bool = True) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=check_same_thread
        )
        try:
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            for pragma in _PRAGMAS:
                connection.execute(pragma)
        except BaseException:
            connection.close()
            raise
        if mode != "wal":
            connection.close()
            raise StoreError(f"{self._path} is on a file system where SQLite cannot keep a write-ahead log")
        connection.text_factory = _text
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not names:
            migration.fill_sqlite(connection)
            return
        if "alembic_version" not in names:
            raise StoreError(f"{self._path} is a database, but not one of a board")
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        if row != (migration.HEAD,):
            migration.upgrade_sqlite(self._path, None if row is None else str(row[0]))

    def _decode(self, row: Row) -> Task | BrokenRow:
        try:
            return decode(row, self._sealer)
        except RowUnreadable as error:
            guid = row[0]
            name = guid.decode(errors="backslashreplace") if isinstance(guid, bytes) else str(guid)
            return BrokenRow(name, str(error))

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError("the store is not open")
        return self._connection

    @contextmanager
    def _transaction(self, *, pages: int = 2) -> Iterator[sqlite3.Connection]:
        """Commit what the body does, or none of it; the connection is out of the transaction either way.

        Args:
            pages: about how many the body changes.
        """
        connection = self._opened()
        with self._translated():
            try:
                if connection.in_transaction:
                    # An earlier rollback failed as well.
                    connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        if self._checkpointer is not None:
            self._checkpointer.committed(connection, pages)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the driver's errors, and values it cannot bind, into ``StoreError`` with their text."""
        try:
            yield
        except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            raise StoreError(f"{self._path}: {error} ({name})") from error


def _insist(connection: sqlite3.Connection, lease: Lease) -> None:
    """Within a transaction: nobody can take the lease between this and the commit."""
    if connection.execute(_IS_OWNER, (lease.owner, lease.epoch)).fetchone() is None:
        raise LeaseLost(f"epoch {lease.epoch} of {lease.owner} is over")


def _text(stored: bytes) -> str | bytes:
    """A text column; bytes when it is damaged, so that one row that is no UTF-8 does not fail its whole chunk."""
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return stored
