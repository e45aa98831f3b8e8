"""The event time before which outcomes were deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("progress", sa.Column("trimmed", sa.BigInteger()))


def downgrade() -> None:
    """Drop the column in place: Alembic's batch mode would copy the whole table on SQLite."""
    op.execute("ALTER TABLE progress DROP COLUMN trimmed")
