"""The index of a refused record in its envelope: all records of an envelope have one offset."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, which is a part of the key."""
    _copy(sa.Column("envelope_index", sa.Integer(), nullable=False), value="0, ")


def downgrade() -> None:
    """Drop the column; of the records of an envelope only the first stays."""
    op.execute("DELETE FROM dead_letters WHERE envelope_index > 0")
    _copy(value="")


def _copy(*added: sa.Column[int], value: str) -> None:
    """Copy the rows into a table that has this column with this value, or none."""
    op.rename_table("dead_letters", "before")
    if op.get_bind().dialect.name == "postgresql":  # where the name is taken
        op.execute("ALTER INDEX dead_letters_pkey RENAME TO before_pkey")
    op.create_table(
        "dead_letters",
        sa.Column("run", sa.String(64), nullable=False),
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        *added,
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("recorded_wall", sa.BigInteger(), nullable=False),
        sa.Column("resent_wall", sa.BigInteger()),
        sa.PrimaryKeyConstraint("run", "topic", "partition", "offset", *(each.name for each in added), "role"),
    )
    copied = f'run, topic, partition, "offset", {value}role, "key", value, reason, recorded_wall, resent_wall'
    op.execute(f"INSERT INTO dead_letters SELECT {copied} FROM before")  # noqa: S608 - our own names
    op.drop_table("before")
