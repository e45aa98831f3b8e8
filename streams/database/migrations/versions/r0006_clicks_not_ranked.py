"""The number of clicks that were not ranked; an outcome is always recorded with its own epoch."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the count, and drop the column that repeated `epoch`, in place: batch mode copies whole tables on SQLite."""
    op.add_column("progress", sa.Column("not_ranked", sa.BigInteger()))
    op.drop_index("outcomes_by_recorded_epoch", "outcomes")
    op.execute("ALTER TABLE outcomes DROP COLUMN recorded_epoch")


def downgrade() -> None:
    """Give the column back with the values that it had."""
    op.add_column("outcomes", sa.Column("recorded_epoch", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE outcomes SET recorded_epoch = epoch")
    op.create_index("outcomes_by_recorded_epoch", "outcomes", ["run", "recorded_epoch"])
    op.execute("ALTER TABLE progress DROP COLUMN not_ranked")
