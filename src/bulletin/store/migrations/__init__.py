"""The Alembic environment: ``env.py`` and one file per revision. ``store/migration.py`` runs it."""
