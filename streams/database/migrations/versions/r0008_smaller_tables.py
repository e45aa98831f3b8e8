"""Fewer bytes per event: no index that nothing asks, one state per user, and SQLite's large tables as one tree each."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_KEYED = ("interactions", "negative_memories", "click_uploads", "metric_points")  # SQLite kept their keys twice
_OF_A_STATE = ("run", "side", "user")


def upgrade() -> None:
    """Drop `interactions_by_time` and all states but the newest of each user; on SQLite copy the large tables."""
    op.drop_index("interactions_by_time", "interactions")
    op.execute(
        "DELETE FROM user_snapshots WHERE epoch < (SELECT max(new.epoch) FROM user_snapshots AS new WHERE"
        ' new.run = user_snapshots.run AND new.side = user_snapshots.side AND new."user" = user_snapshots."user")'
    )
    _key_of_states(*_OF_A_STATE)
    for table in _KEYED:
        _rebuild(table, " WITHOUT ROWID")


def downgrade() -> None:
    """Bring the former keys and the index back; states that were dropped do not come back."""
    for table in _KEYED:
        _rebuild(table, "")
    _key_of_states(*_OF_A_STATE, "epoch")
    op.create_index("interactions_by_time", "interactions", ["run", "time"])


def _key_of_states(*columns: str) -> None:
    """Change the primary key of user_snapshots."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("user_snapshots_pkey", "user_snapshots")
        op.create_primary_key("user_snapshots_pkey", "user_snapshots", list(columns))
        return
    op.rename_table("user_snapshots", "before")
    op.create_table(
        "user_snapshots",
        sa.Column("run", sa.String(64), nullable=False),
        sa.Column("side", sa.String(8), nullable=False),
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(*columns),
    )
    op.execute('INSERT INTO user_snapshots SELECT run, side, "user", epoch, state FROM before')
    op.drop_table("before")


def _rebuild(table: str, option: str) -> None:
    """Copy a table of SQLite into one with another storage option; its columns, keys and indexes stay."""
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        return
    of_table = sa.text("SELECT type, name, sql FROM sqlite_master WHERE tbl_name = :table AND sql IS NOT NULL")
    found = connection.execute(of_table, {"table": table}).all()
    indexes = [(name, sql) for kind, name, sql in found if kind == "index"]
    definition = next(sql for kind, _, sql in found if kind == "table").removesuffix(" WITHOUT ROWID")
    for name, _ in indexes:
        op.execute(f"DROP INDEX {name}")
    op.rename_table(table, "before")
    op.execute(definition + option)
    op.execute(f"INSERT INTO {table} SELECT * FROM before")  # noqa: S608 - our own names
    op.drop_table("before")
    for _, sql in indexes:
        op.execute(sql)
