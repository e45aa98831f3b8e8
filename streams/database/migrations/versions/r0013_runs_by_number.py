"""The largest tables name a run by a number, and the log is ordered by epoch; views show them with the run's name."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_USER = '"user" VARCHAR NOT NULL'
_BEFORE = "run VARCHAR(64) NOT NULL"
_EVENT = "item BIGINT NOT NULL, kind SMALLINT NOT NULL, time BIGINT NOT NULL, group_time BIGINT NOT NULL, "
_EVENT += "impression BIGINT NOT NULL"
_UPLOADED = "time BIGINT NOT NULL, recorded_wall BIGINT NOT NULL"
_R2 = f'{_USER}, "window" BIGINT NOT NULL, encoder INTEGER NOT NULL, r2 BLOB NOT NULL, size INTEGER NOT NULL'
_TABLES = {  # columns but the run, and primary key
    "interactions": (f"epoch INTEGER NOT NULL, {_USER}, seq BIGINT NOT NULL, {_EVENT}", 'run, epoch, "user", seq'),
    "negative_memories": (f"{_R2}, {_UPLOADED}", 'run, "user", "window", encoder'),
    "click_uploads": (f"{_USER}, epoch INTEGER NOT NULL, items BLOB NOT NULL, {_UPLOADED}", 'run, "user", epoch'),
    "user_snapshots": (
        f"side VARCHAR(8) NOT NULL, {_USER}, epoch INTEGER NOT NULL, state BLOB NOT NULL",
        'run, side, "user"',
    ),
}
_LOG = (  # as it was
    f"{_USER}, seq BIGINT NOT NULL, {_EVENT}, epoch INTEGER NOT NULL, recorded_wall BIGINT NOT NULL",
    'run, "user", seq',
)


def upgrade() -> None:
    """Copy the rows into the new tables."""
    op.create_table(
        "run_numbers",
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("run", sa.String(64), nullable=False),
        sa.UniqueConstraint("run"),
    )
    every_run = " UNION ".join(f"SELECT run FROM {table}" for table in ("runs", *_TABLES))  # noqa: S608 - our own names
    op.execute(f"INSERT INTO run_numbers (run) {every_run}")
    for name, (columns, key) in _TABLES.items():
        _create(f"stored_{name}", "run INTEGER NOT NULL", columns, key, keyed=name != "user_snapshots")
        names = _names(columns)
        op.execute(
            f"INSERT INTO stored_{name} (run, {names}) SELECT n.number, {names} FROM {name} AS s "  # noqa: S608
            f"JOIN run_numbers AS n ON n.run = s.run ORDER BY {key.replace('run', 'n.number', 1)}"
        )
        op.drop_table(name)
        shown = ", ".join(f"s.{each}" for each in names.split(", "))
        op.execute(
            f"CREATE VIEW {name} AS SELECT n.run, {shown} FROM stored_{name} AS s "  # noqa: S608
            "JOIN run_numbers AS n ON n.number = s.run"
        )
    _items(" WITHOUT ROWID")


def downgrade() -> None:
    """Copy the rows back; the log gets 0 for the times of recording that it does not have."""
    for name, (columns, key) in (_TABLES | {"interactions": _LOG}).items():
        op.execute(f"DROP VIEW {name}")
        _create(name, _BEFORE, columns, key, keyed=name != "user_snapshots")
        names = _names(columns)
        values = names.replace("recorded_wall", "0") if name == "interactions" else names
        op.execute(
            f"INSERT INTO {name} (run, {names}) SELECT n.run, {values} FROM stored_{name} AS s "  # noqa: S608
            "JOIN run_numbers AS n ON n.number = s.run"
        )
        op.drop_table(f"stored_{name}")
    op.create_index("interactions_by_epoch", "interactions", ["run", "epoch"])
    op.drop_table("run_numbers")
    _items("")


def _names(columns: str) -> str:
    return ", ".join(column.split()[0] for column in columns.split(", "))


def _create(name: str, run: str, columns: str, key: str, *, keyed: bool) -> None:
    """Create a table; `keyed`: in SQLite as one tree."""
    postgres = op.get_bind().dialect.name == "postgresql"
    columns = columns.replace("BLOB", "BYTEA") if postgres else columns
    option = " WITHOUT ROWID" if keyed and not postgres else ""
    op.execute(f"CREATE TABLE {name} ({run}, {columns}, PRIMARY KEY ({key})){option}")


def _items(option: str) -> None:
    """Store the names of items in SQLite as one tree, or not."""
    if op.get_bind().dialect.name == "postgresql":
        return
    op.rename_table("items", "before")
    _create("items", _BEFORE, "item BIGINT NOT NULL, name VARCHAR NOT NULL", "run, item", keyed=bool(option))
    op.execute("INSERT INTO items SELECT run, item, name FROM before")
    op.drop_table("before")
