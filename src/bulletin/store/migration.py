"""Brings a database's schema to the newest revision, in one transaction.

Alembic and SQLAlchemy take about a second to import, so nothing here imports them before there is something to
migrate: a store compares ``HEAD`` with the version in the database first, and an empty SQLite file is filled by a
script, ``migrations/fresh_sqlite.sql``, which is what the migrations make of an empty file.

A new revision: ``alembic.command.revision(alembic_config(), "what it does", rev_id="0002")``; ``HEAD`` moves on; and
``python -m bulletin.store.migration`` writes the script anew.
"""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bulletin.store.api import StoreError

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

__all__ = ["FRESH_SQLITE", "HEAD", "alembic_config", "fill_sqlite", "render_fresh_sqlite", "upgrade", "upgrade_sqlite"]

#: The newest revision in ``migrations/versions``; what ``alembic_version`` holds when nothing is to be done.
HEAD: Final = "0001"

_SCRIPTS: Final = Path(__file__).with_name("migrations")
#: Makes the schema of ``HEAD`` in an empty SQLite file.
FRESH_SQLITE: Final = _SCRIPTS / "fresh_sqlite.sql"


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
    from alembic.script import ScriptDirectory

    config = alembic_config()
    if version is not None:
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if version not in known:
            raise StoreError(
                f"the store's schema {version!r} is newer than {HEAD!r}, the newest this program knows: "
                "run the program that wrote it, or a newer one"
            )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


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
    # SQLAlchemy leaves blanks at the ends of lines.
    return "\n".join(line.rstrip() for line in "\n".join(lines).splitlines()) + "\n"


if __name__ == "__main__":
    FRESH_SQLITE.write_text(render_fresh_sqlite())
