"""Moves SQLite's write-ahead log into the database without holding up the loop.

SQLite's automatic checkpoint runs inside whichever commit crosses its limit and stops the loop for as long as the disk
takes to write and sync a thousand scattered pages. Here a thread does that, on a connection of its own, in one call
that needs no interpreter lock. It cannot finish the job: the log begins anew only when all of it has been moved, and
beside a busy writer there is always a little more. So once the thread is done, the loop's own thread moves the little
that was committed meanwhile, and the next commit overwrites the log from its beginning.

Wart: SQLite does not say how long the log is, so the pages are estimated; only how often this runs hangs on it.
"""

from __future__ import annotations

import os
import sqlite3
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

__all__ = ["LOG_PAGES", "Checkpointer"]

#: Pages of 4 KiB committed before the log is moved. A page that many commits touch is moved once, so longer is
#: cheaper; but all of it is read again when a board that died starts.
LOG_PAGES: Final = 2048
#: What the loop's own thread moves at most, unless the thread was sent ``_PASSES_MAX`` times and is still outrun.
_FINISH_PAGES: Final = 256
_PASSES_MAX: Final = 3

#: Moves what it can without waiting for any reader or writer.
_CHECKPOINT: Final = "PRAGMA wal_checkpoint(PASSIVE)"


class Checkpointer:
    """Told of every commit; closed before the connection that commits.

    A checkpoint that fails is only counted: nothing is lost by it, the log grows and is tried again, and a disk that
    is really full or broken fails the commits themselves.

    Args:
        connection: used by the thread alone until ``close``, which closes it.
        descriptor: the database file, open for as long as any connection to it.
        log_pages: see ``LOG_PAGES``.
    """

    def __init__(self, connection: sqlite3.Connection, descriptor: int, *, log_pages: int = LOG_PAGES) -> None:
        self.failures = 0
        self._connection = connection
        self._descriptor = descriptor
        self._log_pages = log_pages
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pass: Future[None] | None = None
        self._passes = 0
        #: Committed since the pass under way began, or since the log was last moved whole.
        self._pages = 0

    def committed(self, connection: sqlite3.Connection, pages: int) -> None:
        """Count ``pages`` committed through ``connection``, which is in no transaction, and do what is due."""
        self._pages += pages
        if self._pass is None:
            if self._pages >= self._log_pages:
                self._begin_pass()
        elif self._pass.done():
            error, self._pass = self._pass.exception(), None
            if error is not None:
                self._give_up(error)
            elif self._pages > _FINISH_PAGES and self._passes < _PASSES_MAX:
                self._begin_pass()
            else:
                self._finish(connection)

    def close(self) -> None:
        """Wait for the pass under way and close the thread's connection."""
        self._executor.shutdown(wait=True)
        self._connection.close()

    def _begin_pass(self) -> None:
        self._passes += 1
        self._pages = 0
        self._pass = self._executor.submit(self._move)

    def _move(self) -> None:
        self._connection.execute(_CHECKPOINT).fetchone()
        # SQLite syncs the database only when the log was moved whole; done here, the loop's thread has little to sync.
        os.fdatasync(self._descriptor)

    def _finish(self, connection: sqlite3.Connection) -> None:
        self._passes = 0
        self._pages = 0
        try:
            connection.execute(_CHECKPOINT).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        """Count what the environment did, and try again after as many pages more; anything else is a defect."""
        if not isinstance(error, (sqlite3.Error, OSError)):
            raise error
        self.failures += 1
        self._passes = 0
        self._pages = 0
