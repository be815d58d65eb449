"""The schema of every SQL store, in SQLAlchemy Core: what migrations are compared with and cold queries built from.

The hot statements are hand-written beside each database's driver. Types fit SQLite and PostgreSQL alike: times are
BIGINT nanoseconds since the Unix epoch, texts have no width (the wire checks lengths, board-api.md 4.3), a definition
is the bytes a ``Sealer`` made.

There is no index beside the primary keys and the one that pruning needs: the board holds every task in memory, reads
all rows once when it starts, and writes by guid.

To add a column: here, in ``rows.py``, in the statements of ``sqlite.py`` and ``postgres.py``, and a new revision in
``migrations/versions`` with ``migration.HEAD`` moved on and the ready scripts written anew; the tests fail until
all of them agree.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)

__all__ = ["configurations", "domains", "lease", "metadata", "outputs", "tasks"]

#: Names are fixed, so that a later migration can speak of a constraint on every database.
metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

#: Compared byte by byte: faster than by a language's rules, and no upgrade of the system's locales breaks the index.
_GUID = Text().with_variant(Text(collation="C"), "postgresql")

#: Every field of ``model.Task``.
tasks = Table(
    "tasks",
    metadata,
    Column("guid", _GUID, primary_key=True),
    Column("domain", Text, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("cell_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("first_completed_at", BigInteger, nullable=False),
    Column("delivered_at", BigInteger, nullable=False),
    Column("failed", Boolean, nullable=False),
    Column("rejection_count", Integer, nullable=False),
    Column("failure_reason", Text, nullable=False),
    Column("rejection_reason", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("definition", LargeBinary, nullable=False),
    #: JSON, see ``rows.encode_attempts``; empty when there were none.
    Column("attempts", Text, nullable=False, server_default=text("''")),
    # Room in each page for the next form of its rows: a change then stays in the page and leaves the index alone,
    # which takes PostgreSQL two thirds of the time, and the table grows less.
    postgresql_with={"fillfactor": 50},
)

#: Freshness of domains; ``expires_at`` is the greatest BIGINT for one that never ends.
domains = Table(
    "domains",
    metadata,
    Column("domain", Text, primary_key=True),
    Column("expires_at", BigInteger, nullable=False),
)

#: The last output of ended tasks; a task's row may be long gone.
outputs = Table(
    "outputs",
    metadata,
    Column("guid", _GUID, primary_key=True),
    Column("expires_at", BigInteger, nullable=False),
    #: Length of ``lines``, so that the index alone answers how much is kept.
    Column("line_bytes", BigInteger, nullable=False),
    Column("lines", LargeBinary, nullable=False),
    Index(None, "expires_at", "line_bytes"),
)

#: Always exactly one row, made by the first migration. An empty owner: nobody's.
lease = Table(
    "lease",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("owner", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    #: The connection of the owner that may commit, a number it drew; only where the store is reached by connections.
    Column("session", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("id = 1", name="single"),
)

#: Facts about the store itself, such as which key its definitions are sealed with (board-api.md section 13).
configurations = Table(
    "configurations",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
