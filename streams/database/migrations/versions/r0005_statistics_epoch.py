"""The epoch of the item statistics with which a click was ranked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Rows of earlier versions keep null: in lockstep it was the epoch of the click."""
    op.add_column("outcomes", sa.Column("statistics_epoch", sa.Integer()))


def downgrade() -> None:
    """Drop the column in place: Alembic's batch mode would copy the whole table on SQLite."""
    op.execute("ALTER TABLE outcomes DROP COLUMN statistics_epoch")
