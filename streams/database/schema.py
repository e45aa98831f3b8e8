"""The tables: what a run leaves behind, and how recorder, learner, retrain and coordinator meet.

Plain SQLAlchemy Core metadata, the same on SQLite and PostgreSQL; `streams/migrations` brings an existing database to
it, and divides `outcomes` by run into partitions on PostgreSQL. Every table is keyed by run. Users are the strings of
the stream, items its 64-bit keys (`items` has the names). Times are ms: `time` is event time, `recorded_wall` the wall
clock of recording. Blobs are safetensors, or little-endian arrays whose dtype the column's comment names. No pickle.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
)

metadata = MetaData()


def _run() -> Column[str]:
    return Column("run", String(64), primary_key=True)


runs = Table(
    "runs",
    metadata,
    _run(),
    Column("created_wall", BigInteger, nullable=False),
    Column("source", String, nullable=False),
    Column("settings", JSON, nullable=False, comment="Settings.semantic()"),
    Column("versions", JSON, nullable=False, comment="of the software"),
    Column("status", String(16), nullable=False, comment="running, finished or failed"),
    Column("summary", JSON, comment="summary.json, once finished"),
)
items = Table(
    "items",
    metadata,
    _run(),
    Column("item", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String, nullable=False),
)
interactions = Table(
    "interactions",
    metadata,
    _run(),
    Column("user", String, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("item", BigInteger, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("unit_time", BigInteger, nullable=False, comment="of the first event of its impression"),
    Column("impression", BigInteger, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("recorded_wall", BigInteger, nullable=False),
    Index("interactions_by_epoch", "run", "epoch"),
    Index("interactions_by_time", "run", "time"),
)
negative_memories = Table(
    "negative_memories",
    metadata,
    _run(),
    Column("user", String, primary_key=True),
    Column("window", BigInteger, primary_key=True),
    Column("encoder", Integer, primary_key=True, comment="a new encoder uploads the closed window again"),
    Column("r2", LargeBinary, nullable=False, comment="<f4 [d]"),
    Column("size", Integer, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("recorded_wall", BigInteger, nullable=False),
)
click_uploads = Table(
    "click_uploads",
    metadata,
    _run(),
    Column("user", String, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("items", LargeBinary, nullable=False, comment="<i8 [n], oldest first"),
    Column("time", BigInteger, nullable=False),
    Column("recorded_wall", BigInteger, nullable=False),
)
releases = Table(
    "releases",
    metadata,
    _run(),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("parent", Integer, nullable=False),
    Column("kind", String(16), nullable=False, comment="initial, retrain, learner or rollback"),
    Column("encoder", Integer, nullable=False),
    Column("slow", Integer, nullable=False),
    Column("fast", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("trained_until", BigInteger, nullable=False),
    Column("gate", JSON, nullable=False),
    Column("manifest", LargeBinary, nullable=False, comment="the Manifest record as published"),
    Column("published", Boolean, nullable=False, comment="false until the manifest is acknowledged"),
    Column("created_wall", BigInteger, nullable=False),
)
# A column's comment is part of the schema: what it lacks is said beside it, until a migration changes the column.
release_parts = Table(
    "release_parts",
    metadata,
    _run(),
    Column("part", String(16), primary_key=True, comment="encoder, slow or fast"),  # and din, alone, s2f: nets apart
    Column("version", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False, comment="safetensors; the encoder's without E"),
)
item_embeddings = Table(
    "item_embeddings",
    metadata,
    _run(),
    Column("item", BigInteger, primary_key=True, autoincrement=False),
    Column("encoder", Integer, primary_key=True),
    Column("row", Integer, nullable=False, comment="index in E, never changes"),
    Column("vector", LargeBinary, nullable=False, comment="<f4 [d]"),
)
proposals = Table(
    "proposals",
    metadata,
    _run(),
    Column("epoch", Integer, primary_key=True),
    Column("kind", String(16), primary_key=True, comment="retrain or learner"),  # and rollback, asked for by hand
    Column("status", String(16), nullable=False, comment="waiting, accepted, rejected, superseded or empty"),
    Column("parent", Integer, nullable=False, comment="release it was trained from"),
    Column("data", LargeBinary, comment="safetensors of all that is proposed, the learner's optimiser included"),
    Column("offsets", JSON, nullable=False),
    Column("quality", JSON, nullable=False, comment="{active, candidate: held-out loss, n, finite}"),
    Column("trained_until", BigInteger, nullable=False),
    Column("created_wall", BigInteger, nullable=False),
)
decisions = Table(
    "decisions",
    metadata,
    _run(),
    Column("epoch", Integer, primary_key=True),
    Column("release", Integer, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("reason", String, nullable=False),
)
progress = Table(
    "progress",
    metadata,
    _run(),
    Column("role", String(16), primary_key=True),
    Column("epoch", Integer, nullable=False, comment="last epoch committed; the log is over where `over`"),
    Column("time", BigInteger, nullable=False, comment="event time reached"),
    Column("over", Boolean, nullable=False),
)
outcomes = Table(
    "outcomes",
    metadata,
    _run(),
    Column("user", String, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("judged", Integer, nullable=False, comment="epoch it was recorded with: another only without lockstep"),
    Column("time", BigInteger, nullable=False),
    Column("target", BigInteger, nullable=False),
    Column("place", Integer, nullable=False),
    Column("candidates", LargeBinary, nullable=False, comment="<i8 [n] in the order shown"),
    Column("slate", String(8), nullable=False),
    Column("cold", Boolean, nullable=False),
    Column("expired", Boolean, nullable=False),
    Column("ranks", JSON, nullable=False, comment="variant -> 1-based rank, popularity's and river's included"),
    Column("not_finite", Integer, nullable=False),
    Column("release", Integer, nullable=False),
    Column("encoder", Integer, nullable=False),
    Column("slow", Integer, nullable=False),
    Column("fast", Integer, nullable=False),
    Column("window", BigInteger, nullable=False),
    Column("r2_age", BigInteger, nullable=False),
    Column("history", Integer, nullable=False),
    Column("bytes_up", Integer, nullable=False),
    Column("bytes_down", Integer, nullable=False),
    Column("asked_wall", BigInteger, nullable=False),
    Column("answered_wall", BigInteger, nullable=False),
    Column("recorded_wall", BigInteger, nullable=False),
    Index("outcomes_by_time", "run", "time"),
    Index("outcomes_by_epoch", "run", "epoch"),
    Index("outcomes_by_judged", "run", "judged"),
)
user_snapshots = Table(
    "user_snapshots",
    metadata,
    _run(),
    Column("side", String(8), primary_key=True, comment="device or cloud"),
    Column("user", String, primary_key=True),
    Column("epoch", Integer, primary_key=True, comment="only epochs in which the state changed"),
    Column("state", LargeBinary, nullable=False),
)
metric_points = Table(
    "metric_points",
    metadata,
    _run(),
    Column("epoch", Integer, primary_key=True),
    Column("variant", String(32), primary_key=True),
    Column("subset", String(16), primary_key=True, comment="all (but cold), collaborative (history and r2), cold"),
    Column("form", String(16), primary_key=True, comment="cumulative, sliding or fading"),
    Column("time", BigInteger, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("hr_1", Float),
    Column("hr_5", Float),
    Column("hr_10", Float),
    Column("ndcg_5", Float),
    Column("ndcg_10", Float),
    Column("mrr", Float),
    Column("chance_hr_10", Float),
    Column("chance_ndcg_10", Float),
)
drifts = Table(
    "drifts",
    metadata,
    _run(),
    Column("variant", String(32), primary_key=True),
    Column("user", String, primary_key=True, comment="whose outcome raised the alarm"),
    Column("seq", BigInteger, primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("before", Float, nullable=False, comment="mean NDCG@10 in ADWIN's window before the alarm"),
    Column("after", Float, nullable=False, comment="and in what it kept"),
)
dead_letters = Table(
    "dead_letters",
    metadata,
    _run(),
    Column("topic", String, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("role", String(16), primary_key=True),
    Column("key", LargeBinary, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("reason", String, nullable=False),
    Column("recorded_wall", BigInteger, nullable=False),
    Column("resent_wall", BigInteger, comment="when it was sent again, last"),
)
consumer_offsets = Table(
    "consumer_offsets",
    metadata,
    _run(),
    Column("consumer", String(16), primary_key=True),
    Column("topic", String, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, nullable=False, comment="next to read"),
)
leases = Table(
    "leases",
    metadata,
    _run(),
    Column("role", String(16), primary_key=True),
    Column("holder", String, nullable=False),
    Column("until_wall", BigInteger, nullable=False),
)
