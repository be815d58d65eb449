"""A store in PostgreSQL, by asyncpg on the loop: for boards on several machines, one of which owns the lease.

Rules. Each batch is one hand-written statement, and with it one transaction (``postgres_sql``), fenced by the lease's
row. Commits have a connection of their own, so that a renewal of the lease never waits behind one. Lease times are
those of the database's clock. Nothing is undone by a lost connection but the call it was lost in; the next call
dials again.

A commit that was given up may still come to be done, by a server that was slow, behind a commit that came later by
another connection. So a connection draws a number and claims the lease's row with it before it commits anything: that
lets an earlier connection's statement finish, and keeps out what has not begun.

Wart: a pooler between board and database has to give each connection a session of its own (pgbouncer: session mode).
PostgreSQL holds no text with U+0000: the board refuses such texts before they come here.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from bulletin.core.model import Task
from bulletin.store import migration
from bulletin.store.api import Batch, BrokenRow, Lease, LeaseHeld, LeaseLost, StoreError
from bulletin.store.postgres_batch import Statement, encode_batch, slices
from bulletin.store.postgres_lane import CALL_SECONDS, CONNECT_SECONDS, Lane, Target
from bulletin.store.postgres_sql import (
    ACQUIRE,
    CLAIM,
    DELETE_OUTPUTS,
    HOLDER,
    HOLDER_LOCKED,
    LOAD_FIRST,
    LOAD_NEXT,
    OLDEST_OUTPUTS,
    RELEASE,
    RENEW,
)
from bulletin.store.rows import Row, RowUnreadable, check, decode
from bulletin.store.sealing import Sealer

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

__all__ = ["PostgresStore"]

#: Rows of one chunk; it takes the loop a few milliseconds.
_LOAD_ROWS: Final = 400
#: Dropped in one transaction, so that pruning a great deal holds up nothing.
_PRUNE_BYTES: Final = 4 * 1024 * 1024
#: Making or migrating the schema, waiting for another board that does it included.
_MIGRATION_SECONDS: Final = 60.0
#: Whoever makes or migrates the schema holds this advisory lock: "bulletin" in ASCII.
_MIGRATION_LOCK: Final = 0x62756C6C6574696E

_OUR_TABLES: Final = (
    "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() "
    "AND tablename IN ('alembic_version', 'tasks', 'domains', 'outputs', 'lease', 'configurations')"
)


class PostgresStore:
    """See ``api.Store``. Never raises ``LeaseHeld`` at ``open``: any number of boards may be connected.

    Args:
        url: see ``postgres_lane.Target``.
        sealer: what definitions pass through.
        connect_seconds: for dialling.
        call_seconds: for one call to the database.
    """

    def __init__(
        self, url: str, *, sealer: Sealer, connect_seconds: float = CONNECT_SECONDS, call_seconds: float = CALL_SECONDS
    ) -> None:
        self._target = Target(url)
        self._sealer = sealer
        self._call_seconds = call_seconds
        self._commits = Lane(self._target, connect_seconds=connect_seconds, call_seconds=call_seconds)
        self._rest = Lane(self._target, connect_seconds=connect_seconds, call_seconds=call_seconds)
        #: The lease that the connection for commits has claimed, which connection that was, and the number it drew.
        self._claimed: tuple[Lease, int] | None = None
        self._session = 0

    async def open(self) -> None:
        """See ``api.Store``.

        Raises:
            StoreError: the database cannot be reached, is not a board's, or is that of a newer program.
        """
        self._commits.open()
        self._rest.open()
        try:
            if await self._rest.call(self._version) != migration.HEAD:
                await self._rest.call(self._migrate, seconds=_MIGRATION_SECONDS)
        except BaseException:
            await self.close()
            raise

    # -- the lease -----------------------------------------------------------------------------------------------

    async def acquire(self, owner: str, seconds: float) -> Lease:
        """See ``api.Store``. While somebody else has it, only looks: a standby disturbs nobody."""
        assert owner, "an owner has a name"
        return await self._commits.call(lambda connection: self._acquire(connection, owner, seconds))

    async def _acquire(self, connection: Connection, owner: str, seconds: float) -> Lease:
        await self._insist_on_free(connection, HOLDER, owner)
        async with connection.transaction():
            epoch = 1 + await self._insist_on_free(connection, HOLDER_LOCKED, owner)
            session = secrets.randbits(62)
            await connection.execute(ACQUIRE, owner, epoch, round(seconds * 1e9), session)
        lease = Lease(owner, epoch)
        self._claimed, self._session = (lease, self._commits.dialled), session
        return lease

    async def _insist_on_free(self, connection: Connection, query: str, owner: str) -> int:
        row = await connection.fetchrow(query)
        if row is None:
            raise StoreError(f"{self._target.shown}: the lease has no row")
        holder, epoch, is_running = row
        if is_running and holder not in {"", owner}:
            raise LeaseHeld(f"{self._target.shown} is leased to {holder}")
        assert isinstance(epoch, int)
        return epoch

    async def renew(self, lease: Lease, seconds: float) -> None:
        """See ``api.Store``."""
        arguments = (lease.owner, lease.epoch, round(seconds * 1e9))
        status = await self._rest.call(lambda connection: connection.execute(RENEW, *arguments))
        if status != "UPDATE 1":
            raise _lost(lease)

    async def release(self, lease: Lease) -> None:
        """See ``api.Store``."""
        await self._rest.call(lambda connection: connection.execute(RELEASE, lease.owner, lease.epoch))

    # -- commits -------------------------------------------------------------------------------------------------

    async def commit(self, batch: Batch, lease: Lease) -> None:
        """See ``api.Store``. When cancelled it may be done all the same."""
        check(batch)
        statements = [encode_batch(part, self._sealer) for part in slices(batch)]
        if len(statements) == 1:
            await self._commits.call(lambda connection: self._commit(connection, lease, statements[0]))
            return

        async def commit_all(connection: Connection) -> None:
            await self._claim(connection, lease)
            async with connection.transaction():
                for statement in statements:
                    await self._commit(connection, lease, statement)

        await self._commits.call(commit_all, seconds=self._call_seconds * len(statements))

    async def _commit(self, connection: Connection, lease: Lease, statement: Statement) -> None:
        await self._claim(connection, lease)
        row = await connection.fetchrow(statement.text, lease.owner, lease.epoch, self._session, *statement.arrays)
        assert row is not None, "two counts make a row"
        held, changed = row
        if not held:
            raise _lost(lease)
        if changed != statement.changed:
            raise StoreError(f"{self._target.shown}: a row to be changed is not there")

    async def _claim(self, connection: Connection, lease: Lease) -> None:
        """See the top of this module; does nothing when ``connection`` has done it."""
        if self._claimed == (lease, self._commits.dialled):
            return
        session = secrets.randbits(62)
        async with connection.transaction():
            await connection.execute(HOLDER_LOCKED)
            status = await connection.execute(CLAIM, lease.owner, lease.epoch, session)
        if status != "UPDATE 1":
            raise _lost(lease)
        self._claimed, self._session = (lease, self._commits.dialled), session

    # -- reading -------------------------------------------------------------------------------------------------

    async def load(self) -> AsyncIterator[list[Task | BrokenRow]]:
        """See ``api.Store``. Each chunk is a query of its own, so that no snapshot is held while the caller works."""
        rows = await self._read(LOAD_FIRST, _LOAD_ROWS)
        while True:
            if not rows:
                return
            yield [self._decode(tuple(row)) for row in rows]
            rows = await self._read(LOAD_NEXT, _LOAD_ROWS, rows[-1][0])

    async def load_domains(self) -> dict[str, int]:
        """See ``api.Store``."""
        return {row[0]: row[1] for row in await self._read("SELECT domain, expires_at FROM domains")}

    async def load_configurations(self) -> dict[str, str]:
        """See ``api.Store``."""
        return {row[0]: row[1] for row in await self._read("SELECT key, value FROM configurations")}

    def _decode(self, row: Row) -> Task | BrokenRow:
        try:
            return decode(row, self._sealer)
        except RowUnreadable as error:
            return BrokenRow(row[0], str(error))

    # -- outputs -------------------------------------------------------------------------------------------------

    async def output(self, guid: str) -> bytes | None:
        """See ``api.Store``."""
        rows = await self._read("SELECT lines FROM outputs WHERE guid = $1", guid)
        return rows[0][0] if rows else None

    async def prune_outputs(self, now: int, bytes_max: int) -> None:
        """See ``api.Store``. In several transactions when there is much to drop; each leaves fewer outputs."""
        query = "SELECT coalesce(sum(line_bytes), 0)::bigint FROM outputs"
        ((kept_bytes,),) = await self._read(query)
        while True:
            dropped: list[str] = []
            dropped_bytes = 0
            for guid, line_bytes, expires_at in await self._read(OLDEST_OUTPUTS):
                is_needless = expires_at < now or kept_bytes - dropped_bytes > bytes_max
                if not is_needless or dropped_bytes > _PRUNE_BYTES:
                    break
                dropped.append(guid)
                dropped_bytes += line_bytes
            if not dropped:
                return
            await self._read(DELETE_OUTPUTS, dropped)
            kept_bytes -= dropped_bytes

    async def close(self) -> None:
        """See ``api.Store``."""
        await self._commits.close()
        await self._rest.close()

    async def _read(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        return await self._rest.call(lambda connection: connection.fetch(query, *arguments))

    # -- the schema ----------------------------------------------------------------------------------------------

    async def _version(self, connection: Connection) -> str | None:
        """The revision of the schema that is there; None: nothing of ours is."""
        names = {name for (name,) in await connection.fetch(_OUR_TABLES)}
        if not names:
            return None
        row = (
            await connection.fetchrow("SELECT version_num FROM alembic_version") if "alembic_version" in names else None
        )
        if row is None:
            raise StoreError(f"{self._target.shown} has tables of these names, but not those of a board")
        version = row[0]
        assert isinstance(version, str)
        return version

    async def _migrate(self, connection: Connection) -> None:
        """Bring the schema to ``HEAD``, whole or not at all; one board at a time."""
        async with connection.transaction():
            for name in ("statement_timeout", "lock_timeout"):
                await connection.execute(f"SET LOCAL {name} = '{_MIGRATION_SECONDS:.0f}s'")
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
            version = await self._version(connection)
            if version is None:
                await connection.execute(migration.FRESH_POSTGRES.read_text())
            elif version != migration.HEAD:
                await connection.execute(migration.render_postgres(version))


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"epoch {lease.epoch} of {lease.owner} is over")
