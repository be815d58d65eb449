"""Brings a database's schema to the newest revision, in one transaction.

Alembic and SQLAlchemy cost about half a second to import, so nothing here imports them before there is something to
migrate: a store compares ``HEAD`` with the version in the database first.

A new revision: ``alembic.command.revision(alembic_config(), "what it does", rev_id="0002")``, then ``HEAD`` moves on.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bulletin.store.api import StoreError

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

__all__ = ["HEAD", "alembic_config", "upgrade", "upgrade_sqlite"]

#: The newest revision in ``migrations/versions``; what ``alembic_version`` holds when nothing is to be done.
HEAD: Final = "0001"


def alembic_config() -> Config:
    """Alembic's settings without an ini file, so that they work from an installed wheel."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
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
