"""The time at which a dead letter was sent again, and an index of outcomes by the epoch they were recorded with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and the index."""
    with op.batch_alter_table("dead_letters") as table:
        table.add_column(sa.Column("resent_wall", sa.BigInteger(), comment="when it was sent again, last"))
    op.create_index("outcomes_by_judged", "outcomes", ["run", "judged"])


def downgrade() -> None:
    """Drop both."""
    op.drop_index("outcomes_by_judged", "outcomes")
    with op.batch_alter_table("dead_letters") as table:
        table.drop_column("resent_wall")
