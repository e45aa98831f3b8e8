"""On PostgreSQL, partitions of outcomes by run: each is a small table with small indexes."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PARTITIONS = 8
_INDEXES = {"outcomes_by_epoch": "run, epoch", "outcomes_by_judged": "run, judged", "outcomes_by_time": "run, time"}


def upgrade() -> None:
    """Replace the plain table by a partitioned one with the same rows."""
    if op.get_bind().dialect.name == "postgresql":
        _replace("PARTITION BY HASH (run)")


def downgrade() -> None:
    """Replace the partitioned table by a plain one with the same rows."""
    if op.get_bind().dialect.name == "postgresql":
        _replace("")


def _replace(partition_by: str) -> None:
    op.execute("ALTER TABLE outcomes RENAME TO outcomes_before")
    op.execute("ALTER TABLE outcomes_before DROP CONSTRAINT outcomes_pkey")
    for name in _INDEXES:
        op.execute(f"DROP INDEX {name}")
    like = "LIKE outcomes_before INCLUDING COMMENTS INCLUDING DEFAULTS"
    op.execute(f'CREATE TABLE outcomes ({like}, PRIMARY KEY (run, "user", seq)) {partition_by}')
    for part in range(PARTITIONS if partition_by else 0):
        values = f"WITH (MODULUS {PARTITIONS}, REMAINDER {part})"
        op.execute(f"CREATE TABLE outcomes_of_{part} PARTITION OF outcomes FOR VALUES {values}")
    for name, columns in _INDEXES.items():
        op.execute(f"CREATE INDEX {name} ON outcomes ({columns})")
    op.execute("INSERT INTO outcomes SELECT * FROM outcomes_before")
    op.execute("DROP TABLE outcomes_before")
