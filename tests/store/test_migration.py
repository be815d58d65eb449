"""The schema, the migrations and the statements agree; a migration is whole or not at all."""

from __future__ import annotations

import asyncio
import io
import re
import sqlite3
import tempfile
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from bulletin.core.model import Definition, Task, TaskState
from bulletin.store import migration, rows, schema
from bulletin.store.api import LeaseHeld, StoreError
from bulletin.store.postgres import PostgresStore
from bulletin.store.sealing import PlainSealer
from bulletin.store.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "board.sqlite3"


def statements(path: Path) -> dict[str, list[str]]:
    """What made each table and index, its lines in order of the alphabet."""
    connection = sqlite3.connect(path)
    found = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE name <> 'alembic_version' AND sql IS NOT NULL"
    )
    result = {name: sorted(re.sub(r"\s+", " ", sql).removesuffix(" )").split(", ")) for name, sql in found}
    connection.close()
    return result


def version(path: Path) -> str:
    connection = sqlite3.connect(path)
    ((found,),) = connection.execute("SELECT version_num FROM alembic_version")
    connection.close()
    return found


def test_migrations_make_the_schema(path, tmp_path) -> None:
    migration.upgrade_sqlite(path, None)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()
    # The comparison above is blind to checks and primary keys.
    created = create_engine(f"sqlite:///{tmp_path / 'created'}")
    schema.metadata.create_all(created)
    created.dispose()
    assert statements(path) == statements(tmp_path / "created")


def test_an_empty_file_is_filled_with_what_the_migrations_make(path, tmp_path) -> None:
    fresh = sqlite3.connect(path)
    migration.fill_sqlite(fresh)
    migrated = sqlite3.connect(tmp_path / "migrated")
    migration.upgrade_sqlite(tmp_path / "migrated", None)
    assert statements(path) == statements(tmp_path / "migrated"), "run python -m bulletin.store.migration"
    for table in ("alembic_version", *schema.metadata.tables):
        rows_of = f"SELECT * FROM {table}"
        assert fresh.execute(rows_of).fetchall() == migrated.execute(rows_of).fetchall(), table
    fresh.close()
    migrated.close()


def test_the_script_can_be_rendered_anew(path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(migration.render_fresh_sqlite())
    connection.close()
    assert version(path) == migration.HEAD
    assert {"tasks", "lease"} <= set(statements(path))


def test_a_file_that_cannot_be_filled_is_left_empty(path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA max_page_count = 5")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        migration.fill_sqlite(connection)
    assert not connection.in_transaction
    connection.close()
    assert statements(path) == {}


def test_head_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(migration.alembic_config()).get_heads() == [migration.HEAD]


def test_the_columns_are_the_rows_and_the_rows_are_the_tasks() -> None:
    assert tuple(schema.tasks.columns.keys()) == rows.COLUMNS
    assert set(rows.COLUMNS) == set(Task.__dataclass_fields__)


def test_the_schema_fits_postgresql() -> None:
    dialect = postgresql.dialect()
    made = [str(CreateTable(table).compile(dialect=dialect)) for table in schema.metadata.sorted_tables]
    made += [
        str(CreateIndex(index).compile(dialect=dialect))
        for table in schema.metadata.sorted_tables
        for index in table.indexes
    ]
    text = "\n".join(made)
    assert "SERIAL" not in text
    times = ["created_at", "updated_at", "first_completed_at", "delivered_at", "expires_at", "epoch"]
    assert all(re.search(rf"\b{name} BIGINT NOT NULL", text) for name in times)
    assert "definition BYTEA NOT NULL" in text


def test_the_first_migration_leaves_one_free_lease(path) -> None:
    migration.upgrade_sqlite(path, None)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT id, owner, epoch, expires_at FROM lease").fetchall() == [(1, "", 0, 0)]
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO lease (id, owner, epoch, expires_at) VALUES (2, '', 0, 0)")
    connection.close()


def test_every_migration_can_be_undone(path) -> None:
    migration.upgrade_sqlite(path, None)
    engine = create_engine(f"sqlite:///{path}")
    config = migration.alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    engine.dispose()
    assert statements(path) == {}


def test_a_migration_that_fails_leaves_nothing(path) -> None:
    # The last table it makes is there already.
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE configurations (mine TEXT)")
    connection.close()
    with pytest.raises(StoreError, match="configurations already exists"):
        migration.upgrade_sqlite(path, None)
    assert set(statements(path)) == {"configurations"}


async def open_store(path: Path, clock) -> None:
    store = SqliteStore(path, sealer=PlainSealer(), clock=clock)
    try:
        await store.open()
    finally:
        await store.close()


async def test_opening_migrates_only_what_is_old(path, clock, monkeypatch) -> None:
    monkeypatch.setattr(migration, "upgrade_sqlite", lambda *_: pytest.fail("migrated what is new"))
    for _ in range(2):
        await open_store(path, clock)
        assert version(path) == migration.HEAD


async def test_a_schema_of_a_newer_program_is_refused_and_left_alone(path, clock) -> None:
    await open_store(path, clock)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("ALTER TABLE tasks ADD COLUMN tomorrow TEXT")
    connection.close()
    before = statements(path)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"schema '9999' is newer than '\d+'"):
            await open_store(path, clock)
    assert version(path) == "9999"
    assert statements(path) == before


async def test_an_older_schema_is_migrated_with_what_it_holds(path, clock, make_definition) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(_sqlite_of_0001())
    connection.execute(_INSERT_0001, ("old", b"\x02\x00" + make_definition().encoded))
    connection.commit()
    connection.close()
    store = SqliteStore(path, sealer=PlainSealer(), clock=clock)
    await store.open()
    assert [task async for chunk in store.load() for task in chunk] == [_task_0001(make_definition())]
    await store.close()
    assert version(path) == migration.HEAD


async def test_an_older_schema_of_postgresql_is_migrated_with_what_it_holds(postgres_url, make_definition) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(_render_postgres("0001"))
    insert = _INSERT_0001.replace("?, ", "$1, ").replace("?)", "$2)")
    await connection.execute(insert, "old", b"\x02\x00" + make_definition().encoded)
    store = PostgresStore(postgres_url, sealer=PlainSealer())
    await store.open()
    assert [task async for chunk in store.load() for task in chunk] == [_task_0001(make_definition())]
    await store.close()
    assert await connection.fetchval("SELECT version_num FROM alembic_version") == migration.HEAD
    await connection.close()


async def test_boards_that_open_an_empty_database_at_once_make_one_schema(postgres_url) -> None:
    stores = [PostgresStore(postgres_url, sealer=PlainSealer()) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    lease = await stores[0].acquire("one", 60)
    with pytest.raises(LeaseHeld):
        await stores[1].acquire("another", 60)
    assert lease.epoch == 1
    for store in stores:
        await store.close()


async def test_a_postgresql_schema_of_a_newer_program_is_refused(postgres_url) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(migration.FRESH_POSTGRES.read_text())
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    store = PostgresStore(postgres_url, sealer=PlainSealer())
    with pytest.raises(StoreError, match="newer than"):
        await store.open()
    assert await connection.fetchval("SELECT version_num FROM alembic_version") == "9999"
    await connection.close()


def test_the_scripts_of_empty_databases_are_what_the_migrations_make() -> None:
    assert migration.FRESH_POSTGRES.read_text() == migration.render_fresh_postgres()
    assert migration.FRESH_SQLITE.read_text() == migration.render_fresh_sqlite()


#: What a column, a constraint, an index and a table of the schema $1 are, in words.
_CATALOG = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::text, l.collname::text,
       pg_get_expr(d.adbin, d.adrelid)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_collation l ON l.oid = a.attcollation LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE n.nspname = $1 AND a.attnum > 0 AND c.relkind IN ('r', 'i')
UNION ALL
SELECT c.relname, 'with', array_to_string(c.reloptions, ','), '', '', ''
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1
UNION ALL
SELECT r.relname, o.conname, pg_get_constraintdef(o.oid), '', '', ''
FROM pg_constraint o JOIN pg_namespace n ON n.oid = o.connamespace JOIN pg_class r ON r.oid = o.conrelid
WHERE n.nspname = $1
"""


async def test_postgresql_gets_the_schema_from_the_migrations(postgres_url) -> None:
    dialect = postgresql.dialect()
    described = [str(CreateTable(table).compile(dialect=dialect)) for table in schema.metadata.sorted_tables]
    for table in schema.metadata.sorted_tables:
        described += [str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes]
    connection = await asyncpg.connect(postgres_url)
    found = {}
    for name, script in (("migrated", migration.FRESH_POSTGRES.read_text()), ("described", ";".join(described))):
        await connection.execute(f"CREATE SCHEMA {name}; SET search_path = {name}")
        await connection.execute(script)
        rows_of = await connection.fetch(_CATALOG, name)
        found[name] = {tuple(row) for row in rows_of if not row[0].startswith("alembic_version")}
    await connection.close()
    assert found["migrated"] == found["described"]
    assert ("tasks", "with", "fillfactor=50", "", "", "") in found["migrated"]
    assert len(found["migrated"]) > 40


#: A row as the first revision had it; ``failed`` is false on both databases.
_INSERT_0001 = """
INSERT INTO tasks (guid, domain, state, cell_id, created_at, updated_at, first_completed_at, delivered_at, failed,
                   rejection_count, failure_reason, rejection_reason, result, definition)
VALUES (?, 'd', 1, '', 7, 8, 0, 0, false, 2, '', 'full', '', ?)
"""


def _task_0001(definition: Definition) -> Task:
    return Task(
        "old",
        "d",
        definition,
        TaskState.PENDING,
        created_at=7,
        updated_at=8,
        rejection_count=2,
        rejection_reason="full",
    )


def _render_postgres(revision: str) -> str:
    """The statements that make the schema of ``revision`` in an empty database."""
    config = migration.alembic_config()
    config.output_buffer = io.StringIO()
    command.upgrade(config, revision, sql=True)
    return config.output_buffer.getvalue()


def _sqlite_of_0001() -> str:
    """The same for SQLite, through a file, because its migrations are not rendered offline."""
    with tempfile.TemporaryDirectory() as directory:
        engine = create_engine(f"sqlite:///{directory}/first")
        with engine.begin() as connection:
            config = migration.alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
        engine.dispose()
        made = sqlite3.connect(f"{directory}/first")
        script = "\n".join(made.iterdump())
        made.close()
    return script


async def test_the_database_of_something_else_is_refused_and_left_alone(path, clock) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE tasks (mine TEXT)")
    connection.close()
    with pytest.raises(StoreError, match="not one of a board"):
        await open_store(path, clock)
    assert set(statements(path)) == {"tasks"}


def test_the_environment_is_part_of_the_package() -> None:
    scripts = Path(migration.__file__).parent / "migrations"
    names = {str(file.relative_to(scripts)) for file in scripts.rglob("*") if file.suffix in {".py", ".mako", ".sql"}}
    assert {
        "env.py",
        "script.py.mako",
        "fresh_sqlite.sql",
        "versions/0001_first.py",
        "versions/0002_attempts_sessions.py",
    } <= names
