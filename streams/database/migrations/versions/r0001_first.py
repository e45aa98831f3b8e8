"""The tables of the first version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "click_uploads",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("items", sa.LargeBinary(), nullable=False, comment="<i8 [n], oldest first"),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("recorded_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run", "user", "epoch"),
    )
    op.create_table(
        "consumer_offsets",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("consumer", sa.String(length=16), nullable=False),
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False, comment="next to read"),
        sa.PrimaryKeyConstraint("run", "consumer", "topic", "partition"),
    )
    op.create_table(
        "dead_letters",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("recorded_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run", "topic", "partition", "offset", "role"),
    )
    op.create_table(
        "decisions",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("run", "epoch"),
    )
    op.create_table(
        "drifts",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("variant", sa.String(length=32), nullable=False),
        sa.Column("user", sa.String(), nullable=False, comment="whose outcome raised the alarm"),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("before", sa.Float(), nullable=False, comment="mean NDCG@10 in ADWIN's window before the alarm"),
        sa.Column("after", sa.Float(), nullable=False, comment="and in what it kept"),
        sa.PrimaryKeyConstraint("run", "variant", "user", "seq"),
    )
    op.create_table(
        "interactions",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("item", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("unit_time", sa.BigInteger(), nullable=False, comment="of the first event of its impression"),
        sa.Column("impression", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("recorded_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run", "user", "seq"),
    )
    op.create_index("interactions_by_epoch", "interactions", ["run", "epoch"], unique=False)
    op.create_index("interactions_by_time", "interactions", ["run", "time"], unique=False)
    op.create_table(
        "item_embeddings",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("item", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("encoder", sa.Integer(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False, comment="index in E, never changes"),
        sa.Column("vector", sa.LargeBinary(), nullable=False, comment="<f4 [d]"),
        sa.PrimaryKeyConstraint("run", "item", "encoder"),
    )
    op.create_table(
        "items",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("item", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("run", "item"),
    )
    op.create_table(
        "leases",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("until_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run", "role"),
    )
    op.create_table(
        "metric_points",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("variant", sa.String(length=32), nullable=False),
        sa.Column(
            "subset",
            sa.String(length=16),
            nullable=False,
            comment="all (but cold), collaborative (history and r2), cold",
        ),
        sa.Column("form", sa.String(length=16), nullable=False, comment="cumulative, sliding or fading"),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("hr_1", sa.Float(), nullable=True),
        sa.Column("hr_5", sa.Float(), nullable=True),
        sa.Column("hr_10", sa.Float(), nullable=True),
        sa.Column("ndcg_5", sa.Float(), nullable=True),
        sa.Column("ndcg_10", sa.Float(), nullable=True),
        sa.Column("mrr", sa.Float(), nullable=True),
        sa.Column("chance_hr_10", sa.Float(), nullable=True),
        sa.Column("chance_ndcg_10", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("run", "epoch", "variant", "subset", "form"),
    )
    op.create_table(
        "negative_memories",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("window", sa.BigInteger(), nullable=False),
        sa.Column("encoder", sa.Integer(), nullable=False, comment="a new encoder uploads the closed window again"),
        sa.Column("r2", sa.LargeBinary(), nullable=False, comment="<f4 [d]"),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("recorded_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run", "user", "window", "encoder"),
    )
    op.create_table(
        "outcomes",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column(
            "judged", sa.Integer(), nullable=False, comment="epoch it was recorded with: another only without lockstep"
        ),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("target", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("candidates", sa.LargeBinary(), nullable=False, comment="<i8 [n] in the order shown"),
        sa.Column("slate", sa.String(length=8), nullable=False),
        sa.Column("cold", sa.Boolean(), nullable=False),
        sa.Column("expired", sa.Boolean(), nullable=False),
        sa.Column(
            "ranks", sa.JSON(), nullable=False, comment="variant -> 1-based rank, popularity's and river's included"
        ),
        sa.Column("not_finite", sa.Integer(), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("encoder", sa.Integer(), nullable=False),
        sa.Column("slow", sa.Integer(), nullable=False),
        sa.Column("fast", sa.Integer(), nullable=False),
        sa.Column("window", sa.BigInteger(), nullable=False),
        sa.Column("r2_age", sa.BigInteger(), nullable=False),
        sa.Column("history", sa.Integer(), nullable=False),
        sa.Column("bytes_up", sa.Integer(), nullable=False),
        sa.Column("bytes_down", sa.Integer(), nullable=False),
        sa.Column("asked_wall", sa.BigInteger(), nullable=False),
        sa.Column("answered_wall", sa.BigInteger(), nullable=False),
        sa.Column("recorded_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run", "user", "seq"),
    )
    op.create_index("outcomes_by_epoch", "outcomes", ["run", "epoch"], unique=False)
    op.create_index("outcomes_by_time", "outcomes", ["run", "time"], unique=False)
    op.create_table(
        "progress",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False, comment="last epoch committed; the log is over where `over`"),
        sa.Column("time", sa.BigInteger(), nullable=False, comment="event time reached"),
        sa.Column("over", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("run", "role"),
    )
    op.create_table(
        "proposals",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False, comment="retrain or learner"),
        sa.Column(
            "status", sa.String(length=16), nullable=False, comment="waiting, accepted, rejected, superseded or empty"
        ),
        sa.Column("parent", sa.Integer(), nullable=False, comment="release it was trained from"),
        sa.Column(
            "data",
            sa.LargeBinary(),
            nullable=True,
            comment="safetensors of all that is proposed, the learner's optimiser included",
        ),
        sa.Column("offsets", sa.JSON(), nullable=False),
        sa.Column("quality", sa.JSON(), nullable=False, comment="{active, candidate: held-out loss, n, finite}"),
        sa.Column("trained_until", sa.BigInteger(), nullable=False),
        sa.Column("created_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run", "epoch", "kind"),
    )
    op.create_table(
        "release_parts",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("part", sa.String(length=16), nullable=False, comment="encoder, slow or fast"),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False, comment="safetensors; the encoder's without E"),
        sa.PrimaryKeyConstraint("run", "part", "version"),
    )
    op.create_table(
        "releases",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("parent", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False, comment="initial, retrain, learner or rollback"),
        sa.Column("encoder", sa.Integer(), nullable=False),
        sa.Column("slow", sa.Integer(), nullable=False),
        sa.Column("fast", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("trained_until", sa.BigInteger(), nullable=False),
        sa.Column("gate", sa.JSON(), nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=False, comment="the Manifest record as published"),
        sa.Column("published", sa.Boolean(), nullable=False, comment="false until the manifest is acknowledged"),
        sa.Column("created_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run", "version"),
    )
    op.create_table(
        "runs",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("created_wall", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False, comment="Settings.semantic()"),
        sa.Column("versions", sa.JSON(), nullable=False, comment="of the software"),
        sa.Column("status", sa.String(length=16), nullable=False, comment="running, finished or failed"),
        sa.Column("summary", sa.JSON(), nullable=True, comment="summary.json, once finished"),
        sa.PrimaryKeyConstraint("run"),
    )
    op.create_table(
        "user_snapshots",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("side", sa.String(length=8), nullable=False, comment="device or cloud"),
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False, comment="only epochs in which the state changed"),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run", "side", "user", "epoch"),
    )


def downgrade() -> None:
    """Drop the tables with all rows."""
    op.drop_table("user_snapshots")
    op.drop_table("runs")
    op.drop_table("releases")
    op.drop_table("release_parts")
    op.drop_table("proposals")
    op.drop_table("progress")
    op.drop_index("outcomes_by_time", table_name="outcomes")
    op.drop_index("outcomes_by_epoch", table_name="outcomes")
    op.drop_table("outcomes")
    op.drop_table("negative_memories")
    op.drop_table("metric_points")
    op.drop_table("leases")
    op.drop_table("items")
    op.drop_table("item_embeddings")
    op.drop_index("interactions_by_time", table_name="interactions")
    op.drop_index("interactions_by_epoch", table_name="interactions")
    op.drop_table("interactions")
    op.drop_table("drifts")
    op.drop_table("decisions")
    op.drop_table("dead_letters")
    op.drop_table("consumer_offsets")
    op.drop_table("click_uploads")
