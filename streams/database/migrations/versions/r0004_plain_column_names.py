"""Columns with plain names; their explanations are in `streams/database/schema.py` alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_RENAMED = (
    ("interactions", "unit_time", "group_time"),
    ("outcomes", "judged", "recorded_epoch"),
    ("outcomes", "place", "target_index"),
)


def upgrade() -> None:
    """Rename the columns, and drop the comments that PostgreSQL keeps of columns."""
    op.drop_index("outcomes_by_judged", "outcomes")
    for table, old, new in _RENAMED:
        _rename(table, old, new)
    op.create_index("outcomes_by_recorded_epoch", "outcomes", ["run", "recorded_epoch"])
    if op.get_bind().dialect.name == "postgresql":
        _drop_comments()


def downgrade() -> None:
    """Give the columns their former names. The comments do not come back: no code reads them."""
    op.drop_index("outcomes_by_recorded_epoch", "outcomes")
    for table, old, new in _RENAMED:
        _rename(table, new, old)
    op.create_index("outcomes_by_judged", "outcomes", ["run", "judged"])


def _rename(table: str, old: str, new: str) -> None:
    """Rename a column in place: Alembic's batch mode would copy the whole table on SQLite."""
    op.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")


def _drop_comments() -> None:
    inspector = sa.inspect(op.get_bind())
    for table in inspector.get_table_names():
        for column in inspector.get_columns(table):
            if column["comment"] is not None:
                op.execute(f'COMMENT ON COLUMN {table}."{column["name"]}" IS NULL')
