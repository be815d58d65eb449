"""Brings a database's schema to the newest revision, in one transaction.

Alembic and SQLAlchemy take about a second to import, so nothing here imports them before there is something to
migrate: a store compares ``HEAD`` with the version in the database first, and an empty database is filled by a
script, ``migrations/fresh_*.sql``, which is what the migrations make of an empty one. PostgreSQL is migrated by a
script too: Alembic renders it, and the store's own driver runs it, so that there is no second one.

A new revision: ``alembic.command.revision(alembic_config(), "what it does", rev_id="0002")``; ``HEAD`` moves on; and
``python -m bulletin.store.migration`` writes the scripts anew.
"""

from __future__ import annotations

import io
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bulletin.store.api import StoreError

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

__all__ = [
    "FRESH_POSTGRES",
    "FRESH_SQLITE",
    "HEAD",
    "alembic_config",
    "fill_sqlite",
    "render_fresh_postgres",
    "render_fresh_sqlite",
    "render_postgres",
    "upgrade",
    "upgrade_sqlite",
]

#: The newest revision in ``migrations/versions``; what ``alembic_version`` holds when nothing is to be done.
HEAD: Final = "0002"

_SCRIPTS: Final = Path(__file__).with_name("migrations")
#: Makes the schema of ``HEAD`` in an empty SQLite file.
FRESH_SQLITE: Final = _SCRIPTS / "fresh_sqlite.sql"
#: Makes the schema of ``HEAD`` in an empty PostgreSQL schema, inside the transaction of whoever runs it.
FRESH_POSTGRES: Final = _SCRIPTS / "fresh_postgres.sql"


def alembic_config() -> Config:
    """Alembic's settings without an ini file, so that they work from an installed wheel."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config


def upgrade(connection: Connection, version: str | None) -> None:
    """Migrate from ``version`` (None: an empty database) to ``HEAD`` within the transaction of ``connection``.

    Raises:
        StoreError: this program does not know ``version``, because a newer one made it.
        SQLAlchemyError: a migration failed; the transaction is to be rolled back.
    """
    from alembic import command

    config = alembic_config()
    _insist_on_known(config, version)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _insist_on_known(config: Config, version: str | None) -> None:
    from alembic.script import ScriptDirectory

    if version is None:
        return
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if version not in known:
        raise StoreError(
            f"the store's schema {version!r} is newer than {HEAD!r}, the newest this program knows: "
            "run the program that wrote it, or a newer one"
        )


# -- SQLite --------------------------------------------------------------------------------------------------------


def fill_sqlite(connection: sqlite3.Connection) -> None:
    """Make the schema of ``HEAD`` in an empty file, whole or not at all.

    Raises:
        sqlite3.Error: it could not be made.
    """
    try:
        connection.executescript(FRESH_SQLITE.read_text())
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def upgrade_sqlite(path: Path, version: str | None) -> None:
    """``upgrade`` for the SQLite file at ``path``, which nobody else writes meanwhile.

    Raises:
        StoreError: it could not be migrated, and is as it was.
    """
    from sqlalchemy import NullPool, create_engine, event
    from sqlalchemy.exc import SQLAlchemyError

    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(path, isolation_level=None), poolclass=NullPool)

    # The driver by itself begins no transaction for a CREATE TABLE, and a migration shall be whole or not at all.
    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        with engine.begin() as connection:
            upgrade(connection, version)
    except SQLAlchemyError as error:
        raise StoreError(f"cannot migrate {path} to schema {HEAD}: {error}") from error
    finally:
        engine.dispose()


def render_fresh_sqlite() -> str:
    """What ``FRESH_SQLITE`` has to be: a dump of an empty file after all migrations."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "fresh.sqlite3"
        upgrade_sqlite(path, None)
        connection = sqlite3.connect(path)
        lines = list(connection.iterdump())
        connection.close()
    return _strip("\n".join(lines))


# -- PostgreSQL ----------------------------------------------------------------------------------------------------


def render_postgres(version: str | None) -> str:
    """The statements from ``version`` (None: an empty schema) to ``HEAD``, to be run in one transaction.

    Raises:
        StoreError: this program does not know ``version``, because a newer one made it.
    """
    from alembic import command

    config = alembic_config()
    _insist_on_known(config, version)
    output = io.StringIO()
    config.output_buffer = output
    command.upgrade(config, "head" if version is None else f"{version}:head", sql=True)
    return _strip(output.getvalue())


def render_fresh_postgres() -> str:
    """What ``FRESH_POSTGRES`` has to be."""
    return render_postgres(None)


def _strip(script: str) -> str:
    """SQLAlchemy leaves blanks at the ends of lines."""
    return "\n".join(line.rstrip() for line in script.strip().splitlines()) + "\n"


if __name__ == "__main__":
    FRESH_SQLITE.write_text(render_fresh_sqlite())
    FRESH_POSTGRES.write_text(render_fresh_postgres())
