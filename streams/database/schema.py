"""The tables: what a run leaves behind, and how recorder, learner, retrain and coordinator exchange data.

SQLAlchemy Core metadata, the same on SQLite and PostgreSQL. `streams/database/migrations` brings an existing database
to it and, on PostgreSQL, divides `outcomes` by run into partitions. Every table is keyed by run. The four with the most
rows are views: what they show is stored in `stored_` tables, with the number of the run. Users are the strings
of the stream, items its 64-bit keys; the table `items` has their names. Times are in milliseconds since 1970 (UTC):
event time unless the column's name ends in `wall`, which is wall-clock time. No blob is a pickle.
"""

from __future__ import annotations

from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

T = TypeVar("T")
metadata = sa.MetaData()
BIG, INTEGER, SMALL, FLOAT, BOOL = sa.BigInteger(), sa.Integer(), sa.SmallInteger(), sa.Float(), sa.Boolean()
TEXT, NAME, WORD, BYTES, DOCUMENT = sa.String(), sa.String(32), sa.String(16), sa.LargeBinary(), sa.JSON()
_USER = "user's name"
_EVENT = "event time of the first event of the click's impression group, ms"


def _key(name: str, kind: TypeEngine[T], doc: str) -> sa.Column[T]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False, doc=doc)


def _value(name: str, kind: TypeEngine[T], doc: str) -> sa.Column[T]:
    return sa.Column(name, kind, nullable=False, doc=doc)


def _optional(name: str, kind: TypeEngine[T], doc: str) -> sa.Column[T]:
    return sa.Column(name, kind, doc=doc)


class RunNumber(sa.types.TypeDecorator[str]):
    """A run, stored as its number in `run_numbers`: a name would be half of a row. Statements give and get the name."""

    impl = sa.Integer
    cache_ok = True

    def bind_expression(self, bindparam: sa.BindParameter[str]) -> sa.ColumnElement[str]:
        """Return the number of a run in place of its name; null if it has none."""
        n = run_numbers.c
        number = sa.select(n.number).where(n.run == sa.type_coerce(bindparam, sa.String())).scalar_subquery()
        return sa.type_coerce(number, sa.String())

    def column_expression(self, column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
        """Return the name of a run in place of its number."""
        return sa.select(run_numbers.c.run).where(run_numbers.c.number == column).scalar_subquery()


def _recorded() -> sa.Column[int]:
    return _value("recorded_wall", BIG, "wall clock of recording, ms")


# Explanations are `info` and `doc`: comments would be part of the schema, and each change of words a migration.
def _table(name: str, doc: str, *columns: SchemaItem, rowid: bool = True) -> sa.Table:
    """Return a table keyed by run. Without `rowid` SQLite stores the rows in the tree of the key, not beside it."""
    run = _key("run", sa.String(64), "name of the run")
    return sa.Table(name, metadata, run, *columns, info={"doc": doc}, sqlite_with_rowid=rowid)


def _stored(view: str, doc: str, *columns: SchemaItem, rowid: bool = False) -> sa.Table:
    """Return the table behind a view, which has the same columns with the name of the run."""
    run = _key("run", RunNumber(), "name of the run")
    info = {"doc": doc, "view": view}
    table = sa.Table(f"stored_{view}", metadata, run, *columns, info=info, sqlite_with_rowid=rowid)
    table.add_is_dependent_on(run_numbers)
    return table


def public_name(table: sa.Table) -> str:
    """Return the name under which a table is read by SQL: that of its view, or its own."""
    return str(table.info.get("view", table.name))


def public_tables() -> dict[str, sa.Table]:
    """Return what holds the data of runs by public name: all tables but `run_numbers`."""
    tables = {public_name(table): table for table in metadata.sorted_tables if table is not run_numbers}
    return dict(sorted(tables.items()))


run_numbers = sa.Table(
    "run_numbers",
    metadata,
    sa.Column("number", INTEGER, primary_key=True, doc="number of the run in the `stored_` tables"),
    sa.Column("run", sa.String(64), unique=True, nullable=False, doc="name of the run"),
    info={"doc": "The number of each run in this database."},
)

runs = _table(
    "runs",
    "One row per run.",
    _value("created_wall", BIG, "wall clock of the run's start, ms"),
    _value("source", TEXT, "the log that is replayed, as KIND:PATH"),
    _value("settings", DOCUMENT, "the settings that decide results: Settings.semantic()"),
    _value("versions", DOCUMENT, "versions of the software: {name: version}"),
    _value("status", WORD, "`running`, `finished` or `failed`"),
    _optional("summary", DOCUMENT, "contents of summary.json; null until the run is finished"),
)
items = _table(
    "items",
    "Names of the items.",
    _key("item", BIG, "item key: streams.records.item_key(name)"),
    _value("name", TEXT, "item's name on device-events"),
    rowid=False,
)
interactions = _stored(  # in the order of recording: rows are appended, not inserted among the user's
    "interactions",
    "The log: every event of every user.",
    _key("epoch", INTEGER, "epoch of the event, from 0"),
    _key("user", TEXT, _USER),
    _key("seq", BIG, "sequence number of the event, from 0 per user"),
    _value("item", BIG, "item key"),
    _value("kind", SMALL, "0 exposure, 1 click, 2 candidate only, 3 past click: streams.records.Kind"),
    _value("time", BIG, "event time, ms"),
    _value("group_time", BIG, "event time of the first event of its impression group, ms"),
    _value("impression", BIG, "impression number; 0 if the event belongs to none; negative if it was simulated"),
)
negative_memories = _stored(
    "negative_memories",
    "r2 of eq. (3) per closed window of exposures, as uploaded by the devices.",
    _key("user", TEXT, _USER),
    _key("window", BIG, "number of the window, from 1 per user"),
    _key("encoder", INTEGER, "version of the encoder; a new encoder uploads the last closed window again"),
    _value("r2", BYTES, "GRU state after the window: numpy <f4 [dim]"),
    _value("size", INTEGER, "exposures in the window"),
    _value("time", BIG, "event time of the event that closed the window, ms"),
    _recorded(),
)
click_uploads = _stored(
    "click_uploads",
    "The clicks that each device uploaded at the end of an epoch.",
    _key("user", TEXT, _USER),
    _key("epoch", INTEGER, "epoch of the clicks"),
    _value("items", BYTES, "item keys, oldest first, at most L_S: numpy <i8 [n]"),
    _value("time", BIG, "event time of the epoch's end, ms"),
    _recorded(),
)
releases = _table(
    "releases",
    "One row per release. A part's version is the release that changed it last.",
    _key("version", INTEGER, "version of the release, from 0"),
    _value("parent", INTEGER, "version of the release it was trained from"),
    _value("kind", WORD, "what made it: `initial`, `retrain`, `learner` or `rollback`"),
    _value("encoder", INTEGER, "version of its encoder"),
    _value("slow", INTEGER, "version of its slow nets"),
    _value("fast", INTEGER, "version of its fast nets"),
    _value("epoch", INTEGER, "epoch after which it was made; -1 before the first"),
    _value("trained_until", BIG, "event time of the newest event it was trained on, ms"),
    _value("gate", DOCUMENT, "figures that the gate decided by, and the reason"),
    _value("manifest", BYTES, "the Manifest record as published: streams.codec.Reader(Manifest).decode"),
    _value("published", BOOL, "false until the broker has acknowledged the manifest"),
    _value("created_wall", BIG, "wall clock of writing, ms"),
)
release_parts = _table(
    "release_parts",
    "Weights of the releases' parts.",
    _key("part", WORD, "`encoder`, `slow` or `fast`; `din`, `alone` or `s2f` for standalone nets"),
    _key("version", INTEGER, "version of the release that changed the part"),
    _value("data", BYTES, "weights, safetensors; those of the encoder without the item table E"),
)
item_embeddings = _table(
    "item_embeddings",
    "Rows of the item table E. E of encoder version v is the newest row of version <= v per item.",
    _key("item", BIG, "item key; negative for the reserved rows (padding, unknown)"),
    _key("encoder", INTEGER, "version of the encoder that changed the row"),
    _value("row", INTEGER, "row of E; never changes for an item"),
    _value("vector", BYTES, "numpy <f4 [dim]"),
)
proposals = _table(
    "proposals",
    "Release candidates of learner and retrain, and requests for a rollback.",
    _key("epoch", INTEGER, "epoch after which it was made"),
    _key("kind", WORD, "`retrain`, `learner` or `rollback`"),
    _value("status", WORD, "`waiting`, `accepted`, `rejected`, `superseded`, or `empty` if nothing is proposed"),
    _value("parent", INTEGER, "version of the release it was trained from"),
    _optional("data", BYTES, "safetensors of byte arrays: the parts, and the learner's state; null once not needed"),
    _value("offsets", DOCUMENT, '{"topic/partition": next offset to be consumed by the learner}'),
    _value(
        "quality",
        DOCUMENT,
        "{`active`, `candidate`: losses on the same clicks, `n`: examples, `finite`: weights, ...; later `verdict`}",
    ),
    _value("trained_until", BIG, "event time of the newest event it was trained on, ms"),
    _value("created_wall", BIG, "wall clock of writing, ms"),
)
decisions = _table(
    "decisions",
    "One row per epoch: which release applies from the next epoch on.",
    _key("epoch", INTEGER, "epoch that is over"),
    _value("release", INTEGER, "version of the release that applies from epoch + 1 on"),
    _value("outcome", WORD, "`unchanged`, `retrain`, `learner`, `rejected` or `rollback`"),
    _value("reason", TEXT, "explanation in words"),
)
progress = _table(
    "progress",
    "How far the recorder has written the log.",
    _key("role", WORD, "`recorder`"),
    _value("epoch", INTEGER, "last epoch that was written completely; -1 before the first"),
    _value("time", BIG, "event time reached, ms"),
    _value("over", BOOL, "true if the log is over and written to its end"),
    _optional(
        "not_ranked", BIG, "clicks drawn for evaluation that had no other candidate; null in runs of earlier versions"
    ),
    _optional("forgotten", INTEGER, "last epoch in which a user was forgotten; null: nobody was"),
    _optional("trimmed", BIG, "event time before which outcomes were deleted, ms; null: none were"),
)
outcomes = _table(
    "outcomes",
    "One row per ranked click.",
    _key("user", TEXT, _USER),
    _key("seq", BIG, "sequence number of the click"),
    _value("epoch", INTEGER, "epoch of the click"),
    _value("time", BIG, _EVENT),
    _value("target", BIG, "key of the clicked item"),
    _value("target_index", INTEGER, "index of the target in `candidates`, from 0; equal scores rank in this order"),
    _value("candidates", BYTES, "item keys in the order shown, the target among them: numpy <i8 [n]"),
    _value("slate", sa.String(8), "`sampled`: drawn from the catalogue; `logged`: the items that were shown"),
    _value("cold", BOOL, "the target is not in the catalogue, or the catalogue has too few negatives"),
    _value("expired", BOOL, "no answer of the cloud in time; false in lockstep"),
    _value("ranks", DOCUMENT, "{variant: rank of the target, from 1}"),
    _value("not_finite", INTEGER, "scores that were NaN or infinite and were ranked last"),
    _value("release", INTEGER, "version of the release in force"),
    _value("encoder", INTEGER, "version of its encoder"),
    _value("slow", INTEGER, "version of its slow nets"),
    _value("fast", INTEGER, "version of its fast nets"),
    _value("window", BIG, "number of the window whose r2 was used; 0: none"),
    _value("r2_age", BIG, "event time since that window closed, ms; 0 if there is none"),
    _value("history", INTEGER, "uploaded clicks that the slow nets used"),
    _value("bytes_up", INTEGER, "size of the request to the cloud, bytes"),
    _value("bytes_down", INTEGER, "size of the answer, bytes; 0 if expired"),
    _value("asked_wall", BIG, "wall clock of the request, ms"),
    _value("answered_wall", BIG, "wall clock of the answer, ms"),
    _recorded(),
    _optional(
        "statistics_epoch",
        INTEGER,
        "epoch at whose begin the item statistics were counted: `epoch`, free-running the newest known; null in rows "
        "of version 0.1",
    ),
    _optional("served", NAME, "variant that was served: rank `served`; null in rows of earlier versions"),
    sa.Index("outcomes_by_time", "run", "time"),
    sa.Index("outcomes_by_epoch", "run", "epoch"),
)
user_snapshots = _stored(
    "user_snapshots",
    "The newest state of each user on device and cloud.",
    _key("side", sa.String(8), "`device` or `cloud`"),
    _key("user", TEXT, _USER),
    _value("epoch", INTEGER, "epoch whose end it is of: the last one in which the state changed"),
    _value(
        "state",
        BYTES,
        "a DeviceState or CloudState (streams/state) as MessagePack behind 8 bytes of fencing epoch and CRC-32; decode "
        "it with streams.state.row_codec.decode_row(state, DeviceState)",
    ),
    rowid=True,  # a state may take a quarter of a page
)
metric_points = _table(
    "metric_points",
    "Online metrics at the end of each epoch, per variant, subset and form of the mean.",
    _key("epoch", INTEGER, "epoch that is over"),
    _key("variant", NAME, "name of the ranking model"),
    _key("subset", WORD, "`all`; of these `cold` or `known`; `collaborative`: known, with uploaded history and r2"),
    _key(
        "form",
        WORD,
        "`cumulative`; `sliding`: over the setting quality_span_s; `fading`: weight 0.998 per later outcome",
    ),
    _value("time", BIG, "event time reached, ms"),
    _value("n", BIG, "outcomes in the mean"),
    *(
        _optional(f"{metric}_{k}", FLOAT, f"mean {label}@{k}, 0 to 1; null if n is 0")
        for metric, label, cutoffs in (("hr", "hit rate", (1, 5, 10)), ("ndcg", "NDCG", (5, 10)))
        for k in cutoffs
    ),
    _optional("mrr", FLOAT, "mean reciprocal rank, 0 to 1; null if n is 0"),
    _optional("chance_hr_10", FLOAT, "HR@10 of a constant scorer on the same lists"),
    _optional("chance_ndcg_10", FLOAT, "NDCG@10 of a constant scorer on the same lists"),
    rowid=False,
)
drifts = _table(
    "drifts",
    "Changes of NDCG@10 detected by ADWIN.",
    _key("variant", NAME, "name of the ranking model"),
    _key("user", TEXT, "user of the outcome that raised the alarm"),
    _key("seq", BIG, "sequence number of that outcome's click"),
    _value("epoch", INTEGER, "epoch it was recorded with"),
    _value("time", BIG, "event time of that outcome, ms"),
    _value("before", FLOAT, "mean NDCG@10 in ADWIN's window before the alarm"),
    _value("after", FLOAT, "mean NDCG@10 in the part of the window that ADWIN kept"),
)
dead_letters = _table(
    "dead_letters",
    "Records that a processor refused.",
    _key("topic", TEXT, "topic of the record, without the run prefix"),
    _key("partition", INTEGER, "partition of the record"),
    _key("offset", BIG, "offset of the record"),
    _key("envelope_index", INTEGER, "index of the record in its envelope"),
    _key("role", WORD, "the processor that refused it"),
    _value("key", BYTES, "key of the record"),
    _value("value", BYTES, "value of the record"),
    _value("reason", TEXT, "why it was refused"),
    _recorded(),
    _optional("resent_wall", BIG, "wall clock of the last time it was sent again, ms"),
)
consumer_offsets = _table(
    "consumer_offsets",
    "The recorder's positions, written in one transaction with what it read.",
    _key("consumer", WORD, "the processor"),
    _key("topic", TEXT, "topic, without the run prefix"),
    _key("partition", INTEGER, "partition of the topic"),
    _value("offset", BIG, "next offset to read"),
)
idempotency_keys = _table(
    "idempotency_keys",
    "One row per batch of events that its sender did not number: by its key a repeat is recognised.",
    _key("user", TEXT, _USER),
    _key("seq", BIG, "sequence number that its first event was given"),
    _value("key", BIG, "hash of the key: streams.state.numbering.key_hash"),
)
leases = _table(
    "leases",
    "Which process of a role is the active one.",
    _key("role", WORD, "the processor"),
    _value("holder", TEXT, "id of the process"),
    _value("until_wall", BIG, "wall clock of the lease's end, ms"),
)
