"""The first schema: tasks, domains, outputs, the lease, configurations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    guid = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "tasks",
        sa.Column("guid", guid, nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("cell_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("first_completed_at", sa.BigInteger(), nullable=False),
        sa.Column("delivered_at", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("rejection_count", sa.Integer(), nullable=False),
        sa.Column("failure_reason", sa.Text(), nullable=False),
        sa.Column("rejection_reason", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("definition", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("guid", name="pk_tasks"),
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "domains",
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("domain", name="pk_domains"),
    )
    op.create_table(
        "outputs",
        sa.Column("guid", guid, nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("line_bytes", sa.BigInteger(), nullable=False),
        sa.Column("lines", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("guid", name="pk_outputs"),
    )
    op.create_index("ix_outputs_expires_at_line_bytes", "outputs", ["expires_at", "line_bytes"])
    lease = op.create_table(
        "lease",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_lease_single")),
        sa.PrimaryKeyConstraint("id", name="pk_lease"),
    )
    op.bulk_insert(lease, [{"id": 1, "owner": "", "epoch": 0, "expires_at": 0}])
    op.create_table(
        "configurations",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_configurations"),
    )


def downgrade() -> None:
    for table in ("configurations", "lease", "outputs", "domains", "tasks"):
        op.drop_table(table)
