"""The tables: what a run leaves behind, and how recorder, learner, retrain and coordinator exchange data.

SQLAlchemy Core metadata, the same on SQLite and PostgreSQL. `streams/database/migrations` brings an existing database
to it and, on PostgreSQL, divides `outcomes` by run into partitions. Every table is keyed by run. The four with the most
rows are views: what they show is stored in `stored_` tables, with the number of the run. Users are the strings
of the stream, items its 64-bit keys; the table `items` has their names. Times are in milliseconds since 1970 (UTC):
event time unless the column's name ends in `wall`, which is wall-clock time. No blob is a pickle.
"""

from __future__ import annotations

import sqlalchemy as sa

from streams.database.columns import (
    BIG,
    BOOL,
    BYTES,
    DOCUMENT,
    FLOAT,
    INTEGER,
    NAME,
    SMALL,
    TEXT,
    WORD,
    RunNumber,
    key,
    metadata,
    optional,
    public_name,
    public_tables,
    recorded,
    run_numbers,
    stored,
    table,
    value,
)

__all__ = ["RunNumber", "metadata", "public_name", "public_tables", "run_numbers"]  # of `columns`, for users of tables

_USER = "user's name"
_EVENT = "event time of the first event of the click's impression group, ms"

runs = table(
    "runs",
    "One row per run.",
    value("created_wall", BIG, "wall clock of the run's start, ms"),
    value("source", TEXT, "the log that is replayed, as KIND:PATH"),
    value("settings", DOCUMENT, "the settings that decide results: Settings.semantic()"),
    value("versions", DOCUMENT, "versions of the software: {name: version}"),
    value("status", WORD, "`running`, `finished` or `failed`"),
    optional("summary", DOCUMENT, "contents of summary.json; null until the run is finished"),
)
items = table(
    "items",
    "Names of the items.",
    key("item", BIG, "item key: streams.records.item_key(name)"),
    value("name", TEXT, "item's name on device-events"),
    rowid=False,
)
interactions = stored(  # in the order of recording: rows are appended, not inserted among the user's
    "interactions",
    "The log: every event of every user.",
    key("epoch", INTEGER, "epoch of the event, from 0"),
    key("user", TEXT, _USER),
    key("seq", BIG, "sequence number of the event, from 0 per user"),
    value("item", BIG, "item key"),
    value("kind", SMALL, "0 exposure, 1 click, 2 candidate only, 3 past click: streams.records.Kind"),
    value("time", BIG, "event time, ms"),
    value("group_time", BIG, "event time of the first event of its impression group, ms"),
    value("impression", BIG, "impression number; 0 if the event belongs to none; negative if it was simulated"),
)
negative_memories = stored(
    "negative_memories",
    "r2 of eq. (3) per closed window of exposures, as uploaded by the devices.",
    key("user", TEXT, _USER),
    key("window", BIG, "number of the window, from 1 per user"),
    key("encoder", INTEGER, "version of the encoder; a new encoder uploads the last closed window again"),
    value("r2", BYTES, "GRU state after the window: numpy <f4 [dim]"),
    value("size", INTEGER, "exposures in the window"),
    value("time", BIG, "event time of the event that closed the window, ms"),
    recorded(),
)
click_uploads = stored(
    "click_uploads",
    "The clicks that each device uploaded at the end of an epoch.",
    key("user", TEXT, _USER),
    key("epoch", INTEGER, "epoch of the clicks"),
    value("items", BYTES, "item keys, oldest first, at most L_S: numpy <i8 [n]"),
    value("time", BIG, "event time of the epoch's end, ms"),
    recorded(),
)
releases = table(
    "releases",
    "One row per release. A part's version is the release that changed it last.",
    key("version", INTEGER, "version of the release, from 0"),
    value("parent", INTEGER, "version of the release it was trained from"),
    value("kind", WORD, "what made it: `initial`, `retrain`, `learner` or `rollback`"),
    value("encoder", INTEGER, "version of its encoder"),
    value("slow", INTEGER, "version of its slow nets"),
    value("fast", INTEGER, "version of its fast nets"),
    value("epoch", INTEGER, "epoch after which it was made; -1 before the first"),
    value("trained_until", BIG, "event time of the newest event it was trained on, ms"),
    value("gate", DOCUMENT, "figures that the gate decided by, and the reason"),
    value("manifest", BYTES, "the Manifest record as published: streams.codec.Reader(Manifest).decode"),
    value("published", BOOL, "false until the broker has acknowledged the manifest"),
    value("created_wall", BIG, "wall clock of writing, ms"),
)
release_parts = table(
    "release_parts",
    "Weights of the releases' parts.",
    key("part", WORD, "`encoder`, `slow` or `fast`; `din`, `alone` or `s2f` for standalone nets"),
    key("version", INTEGER, "version of the release that changed the part"),
    value("data", BYTES, "weights, safetensors; those of the encoder without the item table E"),
)
item_embeddings = table(
    "item_embeddings",
    "Rows of the item table E. E of encoder version v is the newest row of version <= v per item.",
    key("item", BIG, "item key; negative for the reserved rows (padding, unknown)"),
    key("encoder", INTEGER, "version of the encoder that changed the row"),
    value("row", INTEGER, "row of E; never changes for an item"),
    value("vector", BYTES, "numpy <f4 [dim]"),
)
proposals = table(
    "proposals",
    "Release candidates of learner and retrain, and requests for a rollback.",
    key("epoch", INTEGER, "epoch after which it was made"),
    key("kind", WORD, "`retrain`, `learner` or `rollback`"),
    value("status", WORD, "`waiting`, `accepted`, `rejected`, `superseded`, or `empty` if nothing is proposed"),
    value("parent", INTEGER, "version of the release it was trained from"),
    optional("data", BYTES, "safetensors of byte arrays: the parts, and the learner's state; null once not needed"),
    value("offsets", DOCUMENT, '{"topic/partition": next offset to be consumed by the learner}'),
    value(
        "quality",
        DOCUMENT,
        "{`active`, `candidate`: losses on the same clicks, `n`: examples, `finite`: weights, ...; later `verdict`}",
    ),
    value("trained_until", BIG, "event time of the newest event it was trained on, ms"),
    value("created_wall", BIG, "wall clock of writing, ms"),
)
decisions = table(
    "decisions",
    "One row per epoch: which release applies from the next epoch on.",
    key("epoch", INTEGER, "epoch that is over"),
    value("release", INTEGER, "version of the release that applies from epoch + 1 on"),
    value("outcome", WORD, "`unchanged`, `retrain`, `learner`, `rejected` or `rollback`"),
    value("reason", TEXT, "explanation in words"),
)
progress = table(
    "progress",
    "Progress of the recorder in the log.",
    key("role", WORD, "`recorder`"),
    value("epoch", INTEGER, "last epoch that was written completely; -1 before the first"),
    value("time", BIG, "event time reached, ms"),
    value("over", BOOL, "true if the log is over and written to its end"),
    optional(
        "not_ranked", BIG, "clicks drawn for evaluation that had no other candidate; null in runs of earlier versions"
    ),
    optional("forgotten", INTEGER, "last epoch in which a user was forgotten; null: nobody was"),
    optional("forgotten_users", INTEGER, "how often a user was forgotten; null: never, or by an earlier version"),
    optional("trimmed", BIG, "event time before which outcomes were deleted, ms; null: none were"),
)
outcomes = table(
    "outcomes",
    "One row per ranked click.",
    key("user", TEXT, _USER),
    key("seq", BIG, "sequence number of the click"),
    value("epoch", INTEGER, "epoch of the click"),
    value("time", BIG, _EVENT),
    value("target", BIG, "key of the clicked item"),
    value("target_index", INTEGER, "index of the target in `candidates`, from 0; equal scores rank in this order"),
    value("candidates", BYTES, "item keys in the order shown, the target among them: numpy <i8 [n]"),
    value("slate", sa.String(8), "`sampled`: drawn from the catalogue; `logged`: the items that were shown"),
    value("cold", BOOL, "the target is not in the catalogue, or the catalogue has too few negatives"),
    value("expired", BOOL, "no answer of the cloud in time; false in lockstep"),
    value("ranks", DOCUMENT, "{variant: rank of the target, from 1}"),
    value("not_finite", INTEGER, "scores that were NaN or infinite and were ranked last"),
    value("release", INTEGER, "version of the release in force"),
    value("encoder", INTEGER, "version of its encoder"),
    value("slow", INTEGER, "version of its slow nets"),
    value("fast", INTEGER, "version of its fast nets"),
    value("window", BIG, "number of the window whose r2 was used; 0: none"),
    value("r2_age", BIG, "event time since that window closed, ms; 0 if there is none"),
    value("history", INTEGER, "uploaded clicks that the slow nets used"),
    value("bytes_up", INTEGER, "size of the request to the cloud, bytes"),
    value("bytes_down", INTEGER, "size of the answer, bytes; 0 if expired"),
    value("asked_wall", BIG, "wall clock of the request, ms"),
    value("answered_wall", BIG, "wall clock of the answer, ms"),
    recorded(),
    optional(
        "statistics_epoch",
        INTEGER,
        "epoch at whose begin the item statistics were counted: `epoch`, free-running the newest known; null in rows "
        "of version 0.1",
    ),
    optional("served", NAME, "variant that was served: rank `served`; null in rows of earlier versions"),
    sa.Index("outcomes_by_time", "run", "time"),
    sa.Index("outcomes_by_epoch", "run", "epoch"),
)
user_snapshots = stored(
    "user_snapshots",
    "The newest state of each user on device and cloud.",
    key("side", sa.String(8), "`device` or `cloud`"),
    key("user", TEXT, _USER),
    value("epoch", INTEGER, "epoch whose end it is of: the last one in which the state changed"),
    value(
        "state",
        BYTES,
        "a DeviceState or CloudState (streams/state) as MessagePack behind 8 bytes of fencing epoch and CRC-32; decode "
        "it with streams.state.row_codec.decode_row(state, DeviceState)",
    ),
    rowid=True,  # a state may take a quarter of a page
)
metric_points = table(
    "metric_points",
    "Online metrics at the end of each epoch, per variant, subset and form of the mean.",
    key("epoch", INTEGER, "epoch that is over"),
    key("variant", NAME, "name of the ranking model"),
    key("subset", WORD, "`all`; of these `cold` or `known`; `collaborative`: known, with uploaded history and r2"),
    key(
        "form",
        WORD,
        "`cumulative`; `sliding`: over the setting quality_span_s; `fading`: weight 0.998 per later outcome",
    ),
    value("time", BIG, "event time reached, ms"),
    value("n", BIG, "outcomes in the mean"),
    *(
        optional(f"{metric}_{k}", FLOAT, f"mean {label}@{k}, 0 to 1; null if n is 0")
        for metric, label, cutoffs in (("hr", "hit rate", (1, 5, 10)), ("ndcg", "NDCG", (5, 10)))
        for k in cutoffs
    ),
    optional("mrr", FLOAT, "mean reciprocal rank, 0 to 1; null if n is 0"),
    optional("chance_hr_10", FLOAT, "HR@10 of a constant scorer on the same lists"),
    optional("chance_ndcg_10", FLOAT, "NDCG@10 of a constant scorer on the same lists"),
    rowid=False,
)
drifts = table(
    "drifts",
    "Changes of NDCG@10 detected by ADWIN.",
    key("variant", NAME, "name of the ranking model"),
    key("user", TEXT, "user of the outcome that raised the alarm"),
    key("seq", BIG, "sequence number of that outcome's click"),
    value("epoch", INTEGER, "epoch it was recorded with"),
    value("time", BIG, "event time of that outcome, ms"),
    value("before", FLOAT, "mean NDCG@10 in ADWIN's window before the alarm"),
    value("after", FLOAT, "mean NDCG@10 in the part of the window that ADWIN kept"),
)
dead_letters = table(
    "dead_letters",
    "Records that a processor refused.",
    key("topic", TEXT, "topic of the record, without the run prefix"),
    key("partition", INTEGER, "partition of the record"),
    key("offset", BIG, "offset of the record"),
    key("envelope_index", INTEGER, "index of the record in its envelope"),
    key("role", WORD, "the processor that refused it"),
    value("key", BYTES, "key of the record"),
    value("value", BYTES, "value of the record"),
    value("reason", TEXT, "why it was refused"),
    recorded(),
    optional("resent_wall", BIG, "wall clock of the last time it was sent again, ms"),
)
consumer_offsets = table(
    "consumer_offsets",
    "The recorder's positions, written in one transaction with what it read.",
    key("consumer", WORD, "the processor"),
    key("topic", TEXT, "topic, without the run prefix"),
    key("partition", INTEGER, "partition of the topic"),
    value("offset", BIG, "next offset to read"),
)
idempotency_keys = table(
    "idempotency_keys",
    "One row per batch of events that its sender did not number: by its key a repeat is recognised.",
    key("user", TEXT, _USER),
    key("seq", BIG, "sequence number that its first event was given"),
    value("key", BIG, "hash of the key: streams.state.numbering.key_hash"),
)
leases = table(
    "leases",
    "The active process of each role.",
    key("role", WORD, "the processor"),
    value("holder", TEXT, "id of the process"),
    value("until_wall", BIG, "wall clock of the lease's end, ms"),
)
