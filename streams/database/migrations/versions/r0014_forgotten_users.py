"""The number of users that were forgotten."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("progress", sa.Column("forgotten_users", sa.Integer()))


def downgrade() -> None:
    """Drop the column in place: Alembic's batch mode would copy the whole table on SQLite."""
    op.execute("ALTER TABLE progress DROP COLUMN forgotten_users")
