"""summary.json of a run as types. Its JSON schema and its page in docs/reference are generated from them.

The file is a contract: fields are added, never removed or given another meaning. Times are ms since 1970 (UTC), memory
is in 10^6 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from deploy.report.intervals import Intervals
from replay.prepare.plan import LogDescription
from streams.prequential.live_differences import LiveDifference

Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Score = Annotated[float, Meta(ge=0, le=1)] | None
Value = bool | int | float | str | None


class Quality(msgspec.Struct, frozen=True):
    """Ranking metrics of one variant, means over `n` outcomes; null if there are none."""

    hr_1: Score = field(name="hr@1")
    hr_5: Score = field(name="hr@5")
    hr_10: Score = field(name="hr@10")
    ndcg_5: Score = field(name="ndcg@5")
    ndcg_10: Score = field(name="ndcg@10")
    mrr: Score
    n: Count
    chance_hr_10: Score = field(name="chance_hr@10")

    def metric(self, name: str) -> float | None:
        """Return a metric by its name in the JSON, such as `hr@10`."""
        value: float | None = getattr(self, name.replace("@", "_"))
        return value


METRICS = Quality.__struct_encode_fields__[:6]
Qualities = dict[str, Quality]


def by_variant(metrics: Mapping[str, Mapping[str, float | None]]) -> Qualities:
    """Return metrics per variant as types. Raises msgspec.ValidationError if a metric is missing or out of range."""
    return msgspec.convert(metrics, Qualities)


class ReleaseEntry(msgspec.Struct, frozen=True):
    """A release, or a candidate that the gate refused."""

    version: Annotated[int, Meta(ge=0)] | None
    kind: Literal["initial", "retrain", "learner", "rollback", "rejected"]
    trained_until: int
    gate: dict[str, Value]


class PluginMetric(msgspec.Struct, frozen=True):
    """The mean of a metric that is a plugin over all outcomes, and that of a constant scorer."""

    online: Share
    offline: Share | None
    chance: Share


class Experiment(msgspec.Struct, frozen=True):
    """Comparison of a `protocol:SOURCE` run with its experiment."""

    metrics: Annotated[dict[str, dict[str, Share]], Meta(description="Per variant: the experiment's metrics.")]
    differences: Annotated[int, Meta(ge=0, description="Lists, target indexes and ranks that differ; 0 if all agree.")]


class Latency(msgspec.Struct, frozen=True):
    """Quantiles in ms; null if nothing was measured."""

    p50: float | None
    p95: float | None
    p99: float | None


class Bytes(msgspec.Struct, frozen=True):
    """Bytes between devices and cloud, from the metrics of the device workers; null if one could not be read."""

    up: Annotated[Count | None, Meta(description="Negative memories, clicks and requests; null if unread.")]
    down: Annotated[Count | None, Meta(description="Answers; null if unread.")]
    training: Annotated[Count | None, Meta(description="Online training examples; null if unread.")]
    per_user: Annotated[Amount | None, Meta(description="Up and down, per user; null if unread.")]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """summary.json of an mc2sf run. Fields are added, never removed or given another meaning."""

    run: Annotated[str, Meta(description="The run's id.")]
    source: Annotated[str, Meta(description="SOURCE as given on the command line.")]
    events_sent: Annotated[Count, Meta(description="Events written to device-events, each counted once.")]
    events_applied: Annotated[
        Count,
        Meta(
            description="Events applied to device state and recorded. With events_forgotten equal to events_sent if no"
            " gateway sent others."
        ),
    ]
    events_duplicate: Annotated[
        Count | None,
        Meta(
            description="Events delivered again (after a restart) and skipped by their sequence number; null if unread."
        ),
    ]
    dead_letters: Annotated[
        Count, Meta(description="Records refused by any process; bytes and reasons are in the table dead_letters.")
    ]
    faults: Annotated[
        dict[str, Count] | None,
        Meta(
            description="Effects of --faults, in events (late_clicks: clicks; hostile: records); null without --faults."
            " See docs/faults.md."
        ),
    ]
    users: Annotated[Count, Meta(description="Users with at least one event.")]
    items: Annotated[Count, Meta(description="Items in at least one event.")]
    clicks: Annotated[Count, Meta(description="Clicks, past clicks included.")]
    r2_uploads: Annotated[
        Count,
        Meta(description="Negative memories uploaded and recorded: one per user, window and version of the encoder."),
    ]
    rank_requests: Annotated[
        Count | None,
        Meta(description="Requests for priors sent by devices, repeated requests included; null if unread."),
    ]
    outcomes: Annotated[Count, Meta(description="Evaluated clicks, each ranked by every variant.")]
    expired: Annotated[
        Count, Meta(description="Outcomes without an answer in time, ranked by the device alone. Always 0 in lockstep.")
    ]
    cold: Annotated[
        Count,
        Meta(
            description="Outcomes whose item the release in force did not know, or with too few items for a full list."
            " Part of `online`; see also `online_cold` and `online_known`."
        ),
    ]
    releases: Annotated[
        list[ReleaseEntry],
        Meta(
            description="Releases in order, and the candidates that the gate refused (version null, kind rejected)."
            " trained_until is event time, gate the held-out losses that were compared."
        ),
    ]
    online: Annotated[Qualities, Meta(description="Per variant, over all outcomes, as ranked online.")]
    offline: Annotated[
        Qualities,
        Meta(description="The same, scored again from the tables. Equal to `online`, exactly; free-running too."),
    ]
    online_collaborative: Annotated[
        Qualities,
        Meta(description="Per variant, over outcomes whose user had a delayed history and an r2 in the cloud."),
    ]
    online_cold: Annotated[Qualities, Meta(description="Per variant, over cold outcomes.")]
    last_quarter: Annotated[Qualities, Meta(description="Per variant, over the newest quarter of all outcomes.")]
    plugin_metrics: Annotated[
        dict[str, dict[str, PluginMetric]],
        Meta(description="Metrics that are plugins, by metric and variant. See docs/plugins.md."),
    ] = field(default_factory=dict)
    optimum: Annotated[
        dict[str, Share] | None,
        Meta(description="Metrics of the best possible ranker on synthetic users; null for logs."),
    ]
    experiment: Annotated[Experiment | None, Meta(description="Only for protocol:SOURCE, else null.")]
    offline_differences: Annotated[Count, Meta(description="Ranks that differ between online and offline.")]
    share_with_history: Annotated[
        Share, Meta(description="Share of outcomes whose user had a delayed history in the cloud.")
    ]
    share_with_r2: Annotated[Share, Meta(description="Share of outcomes whose user had uploaded an r2.")]
    seconds: Annotated[
        Amount, Meta(description="Wall-clock seconds from the start of the replay to the last recorded epoch.")
    ]
    events_per_second: Annotated[Amount, Meta(description="events_sent / seconds: retrains are included.")]
    freshness_ms: Annotated[
        Latency, Meta(description="From sending an event until the state that it changed is durable, ms.")
    ]
    bytes: Annotated[Bytes, Meta(description="Traffic between devices and cloud.")]
    peak_memory_mb: Annotated[
        dict[str, float], Meta(description="Largest memory per process, 10^6 bytes; shared pages count in equal parts.")
    ]
    restarts: Annotated[dict[str, Count], Meta(description="Restarts per process; processes without one are left out.")]
    digest: Annotated[
        str,
        Meta(
            description="Of outcomes and states. In lockstep equal for equal log, seed and settings, on one CPU family"
            " and torch version."
        ),
    ]
    seed: Annotated[int, Meta(description="Seed of everything that is drawn.")]
    settings: Annotated[
        dict[str, Value], Meta(description="Settings that decide results, the exposure policy and workers included.")
    ]
    versions: Annotated[dict[str, str], Meta(description="Versions of the software, and the CPU.")]
    log: Annotated[
        LogDescription | None,
        Meta(
            description="The log as it was read: contents, what became of every row (`account`: read + added = sent +"
            " refused + left_out + outside + lost), and findings; null in files of version 0.1."
        ),
    ] = None
    online_known: Annotated[
        Qualities, Meta(description="Per variant, over outcomes that are not cold; empty in files of version 0.1.")
    ] = field(default_factory=dict)
    answer_ms: Annotated[
        Latency | None,
        Meta(description="From a device's request until the cloud's answer is ranked by, ms; null in older files."),
    ] = None
    warnings: Annotated[
        list[str], Meta(description="Reasons not to trust the metrics: nothing was ranked, nothing was learnt.")
    ] = field(default_factory=list)
    not_ranked: Annotated[
        Count,
        Meta(description="Evaluated clicks that were not ranked, as no other item was known yet: not in `outcomes`."),
    ] = 0
    live_differences: Annotated[
        list[LiveDifference],
        Meta(
            description="NDCG@10 of mc2sf and of served minus each other variant, over the clicks that all ranked, with"
            " 95 % intervals that hold at all times: they may be looked at during the run. `since`: the first epoch at"
            " whose end zero was outside. Empty with fewer than 30 users."
        ),
    ] = field(default_factory=list)
    events_forgotten: Annotated[
        Count,
        Meta(description="Events of users that were forgotten during the run, applied before or refused afterwards."),
    ] = 0
    online_intervals: Annotated[Intervals | None, Meta(description="Of `online`; null in files of version 0.1.")] = None
    last_quarter_intervals: Annotated[
        Intervals | None, Meta(description="Of `last_quarter`; null in files of version 0.1.")
    ] = None


def json_schema() -> bytes:
    """Return the JSON schema of summary.json (draft 2020-12) as in docs/summary.schema.json."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Summary)}
    return msgspec.json.format(msgspec.json.encode(schema)) + b"\n"
