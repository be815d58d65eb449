"""The statements of the PostgreSQL store, hand-written.

A batch is one statement, however many kinds of change it holds: each kind is a part that takes its rows as arrays, and
``commit_statement`` joins the parts that a batch needs. There are few such shapes, so each is prepared once and then
only bound. Every part reads ``held``, the board's own row of ``lease``, locked:

    who                                 lock on the row of lease      waits for
    a commit                            FOR KEY SHARE                 a takeover, a claim
    a renewal, a release                FOR NO KEY UPDATE (UPDATE)    a takeover, a claim
    a takeover, a claim of a connection FOR UPDATE                    all of them

So a renewal never waits for a commit. A takeover waits until commits under way are done, and then reads what they
wrote. A commit that comes while a takeover is under way waits for its end; PostgreSQL then looks at the row as it is
by now (READ COMMITTED), finds another epoch, and ``held`` is empty: no part writes anything.
"""

# ruff: noqa: S608 every piece is a constant of this program; values are parameters

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final, NamedTuple

from bulletin.store.rows import CHANGING, COLUMNS

__all__ = [
    "ACQUIRE",
    "CLAIM",
    "DELETE_OUTPUTS",
    "FRESH",
    "HOLDER",
    "HOLDER_LOCKED",
    "LOAD_FIRST",
    "LOAD_NEXT",
    "OLDEST_OUTPUTS",
    "PARTS",
    "RELEASE",
    "RENEW",
    "commit_statement",
]

# -- the lease ---------------------------------------------------------------------------------------------------

#: The database's own clock, in ns since the epoch; not that of the transaction's beginning.
_NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000"

HOLDER: Final = f"SELECT owner, epoch, expires_at > {_NOW} FROM lease"
HOLDER_LOCKED: Final = f"{HOLDER} FOR UPDATE"
ACQUIRE: Final = f"UPDATE lease SET owner = $1, epoch = $2, expires_at = {_NOW} + $3, session = $4"
#: After ``HOLDER_LOCKED``, whose lock lets statements of an earlier connection finish, and lets no later one in.
CLAIM: Final = "UPDATE lease SET session = $3 WHERE owner = $1 AND epoch = $2"
RENEW: Final = f"UPDATE lease SET expires_at = {_NOW} + $3 WHERE owner = $1 AND epoch = $2"
RELEASE: Final = "UPDATE lease SET owner = '', expires_at = 0 WHERE owner = $1 AND epoch = $2"

# -- commits -----------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """One kind of change: a CTE, its arrays standing as ``{0}``, ``{1}``, ..., and their types."""

    sql: str
    types: tuple[str, ...]


#: The columns of ``tasks`` as arrays.
_TYPES: Final = {
    "guid": "text",
    "domain": "text",
    "state": "smallint",
    "cell_id": "text",
    "created_at": "bigint",
    "updated_at": "bigint",
    "first_completed_at": "bigint",
    "delivered_at": "bigint",
    "failed": "boolean",
    "rejection_count": "integer",
    "failure_reason": "text",
    "rejection_reason": "text",
    "result": "text",
    "definition": "bytea",
    "attempts": "text",
}


def _unnested(columns: tuple[str, ...]) -> str:
    """Rows out of arrays, one for each column."""
    arrays = ", ".join(f"{{{number}}}" for number in range(len(columns)))
    return f"unnest({arrays}) AS given ({', '.join(columns)})"


def _upsert(table: str, key: str, columns: tuple[str, ...], constants: Mapping[str, str] | None = None) -> str:
    names = (*columns, *(constants or {}))
    values = (*(f"given.{column}" for column in columns), *(constants or {}).values())
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name != key)
    return (
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} FROM held, {_unnested(columns)} "
        f"ON CONFLICT ({key}) DO UPDATE SET {changes}"
    )


def _types(*columns: str) -> tuple[str, ...]:
    return tuple([_TYPES[column] for column in columns])


_CHANGES: Final = ", ".join(f"{column} = given.{column}" for column in CHANGING)

#: A task that was desired and nothing else. Most whole rows are such, and these columns are a third of the work.
FRESH: Final = ("guid", "domain", "created_at", "updated_at", "definition")
#: What the others are then.
_FRESH_VALUES: Final = {
    "state": "1",
    "cell_id": "''",
    "first_completed_at": "0",
    "delivered_at": "0",
    "failed": "false",
    "rejection_count": "0",
    "failure_reason": "''",
    "rejection_reason": "''",
    "result": "''",
    "attempts": "''",
}

#: In the order of their arrays among the parameters.
PARTS: Final = {
    "removed": Part("DELETE FROM tasks USING held WHERE tasks.guid = ANY ({0})", ("text",)),
    "fresh": Part(_upsert("tasks", "guid", FRESH, _FRESH_VALUES), _types(*FRESH)),
    "whole": Part(_upsert("tasks", "guid", COLUMNS), _types(*COLUMNS)),
    "changed": Part(
        f"UPDATE tasks SET {_CHANGES} FROM held, {_unnested((*CHANGING, 'guid'))} "
        "WHERE tasks.guid = given.guid RETURNING 1",
        _types(*CHANGING, "guid"),
    ),
    "domains": Part(_upsert("domains", "domain", ("domain", "expires_at")), ("text", "bigint")),
    "removed_domains": Part("DELETE FROM domains USING held WHERE domains.domain = ANY ({0})", ("text",)),
    "outputs": Part(
        _upsert("outputs", "guid", ("guid", "expires_at", "line_bytes", "lines")), ("text", "bigint", "bigint", "bytea")
    ),
    "configurations": Part(_upsert("configurations", "key", ("key", "value")), ("text", "text")),
}


@cache
def commit_statement(names: tuple[str, ...]) -> str:
    """The statement for the parts ``names``; parameters: owner, epoch, session, then the arrays of each part.

    It gives one row: whether the lease is held (1 or 0), and how many rows ``changed`` found.
    """
    held = "SELECT 1 FROM lease WHERE owner = $1 AND epoch = $2 AND session = $3 FOR KEY SHARE"
    parts = [f"held AS MATERIALIZED ({held})"]
    number = 4
    for name in names:
        sql, types = PARTS[name]
        arrays = [f"${number + index}::{type_}[]" for index, type_ in enumerate(types)]
        parts.append(f"{name} AS ({sql.format(*arrays)})")
        number += len(types)
    changed = "(SELECT count(*) FROM changed)" if "changed" in names else "0"
    return f"WITH {', '.join(parts)} SELECT (SELECT count(*) FROM held), {changed}"


# -- reading -----------------------------------------------------------------------------------------------------

_READ: Final = ", ".join("failed::int" if column == "failed" else column for column in COLUMNS)
LOAD_FIRST: Final = f"SELECT {_READ} FROM tasks ORDER BY guid LIMIT $1"
LOAD_NEXT: Final = f"SELECT {_READ} FROM tasks WHERE guid > $2 ORDER BY guid LIMIT $1"

# -- outputs -----------------------------------------------------------------------------------------------------

OLDEST_OUTPUTS: Final = "SELECT guid, line_bytes, expires_at FROM outputs ORDER BY expires_at LIMIT 256"
DELETE_OUTPUTS: Final = "DELETE FROM outputs WHERE guid = ANY ($1::text[])"
