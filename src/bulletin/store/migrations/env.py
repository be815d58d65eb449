"""Alembic's entry: migrates the connection it was handed, inside the transaction that connection is in."""

from __future__ import annotations

from alembic import context

from bulletin.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can do it, Alembic just does not expect its driver to; see migration.py, which begins the transaction.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
