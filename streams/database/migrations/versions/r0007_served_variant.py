"""The variant that was served for each click."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Rows of earlier versions keep null."""
    op.add_column("outcomes", sa.Column("served", sa.String(32)))


def downgrade() -> None:
    """Drop the column in place: Alembic's batch mode would copy the whole table on SQLite."""
    op.execute("ALTER TABLE outcomes DROP COLUMN served")
