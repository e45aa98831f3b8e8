"""When a dead letter was sent again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    with op.batch_alter_table("dead_letters") as table:
        table.add_column(sa.Column("resent_wall", sa.BigInteger(), comment="when it was sent again, last"))


def downgrade() -> None:
    """Drop it."""
    with op.batch_alter_table("dead_letters") as table:
        table.drop_column("resent_wall")
