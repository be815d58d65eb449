"""Callback attempts, and which of its owner's connections may commit under the lease."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("attempts", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("lease", sa.Column("session", sa.BigInteger(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    op.drop_column("lease", "session")
    op.drop_column("tasks", "attempts")
