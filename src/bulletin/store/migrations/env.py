"""Alembic's entry: migrates the connection it was handed, inside the transaction that connection is in.

Offline, it writes PostgreSQL's statements to the output, for whoever runs them in a transaction of his own.
"""

from __future__ import annotations

from alembic import context

from bulletin.store.schema import metadata

if context.is_offline_mode():
    # Without "transactional DDL" no BEGIN and COMMIT stand in the script.
    context.configure(dialect_name="postgresql", target_metadata=metadata, transactional_ddl=False)
else:
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        # SQLite can do it, Alembic just does not expect its driver to; see migration.py, which begins the transaction.
        transactional_ddl=True,
    )
with context.begin_transaction():
    context.run_migrations()
