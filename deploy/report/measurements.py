"""Measurements of a run for summary.json, from its tables and from the metrics of its processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from deploy.report import timeline
from deploy.report.intervals import intervals
from deploy.report.process_metrics import Samples, counted, latency, total
from deploy.report.summary import (
    Bytes,
    Experiment,
    PluginMetric,
    Qualities,
    Quality,
    ReleaseEntry,
    Summary,
    by_variant,
)
from models.data.event_kinds import CLICK_KINDS
from replay.prepare.plan import LogDescription
from streams.database import schema
from streams.plugins.loaded import loaded
from streams.prequential import metrics
from streams.prequential.live_differences import live_differences
from streams.prequential.metrics import Ranked, subsets
from streams.prequential.plugin_metrics import PluginMean, PluginMetrics
from streams.prequential.ranked_clicks import ranked_clicks
from streams.prequential.served import By, leader
from streams.rescoring.run_digest import digest
from streams.settings import Settings
from streams.state.device import DeviceState
from streams.state.row_codec import decode_row


@dataclass(frozen=True)
class Measured:
    """The part of a summary that is not in the tables. `samples`: see `process_metrics.total`."""

    source: str
    log: LogDescription
    events_sent: int
    forgotten_users: int
    events_forgotten: int
    seconds: float
    samples: Sequence[Samples | None]
    offline: Qualities
    offline_differences: int
    plugin_metrics: Mapping[str, Mapping[str, PluginMean]]  # offline
    optimum: dict[str, float] | None
    experiment: Experiment | None
    faults: dict[str, int] | None
    workers: int
    peak_memory_mb: dict[str, float]
    restarts: dict[str, int]
    versions: dict[str, str]


def summarise(connection: sa.Connection, settings: Settings, measured: Measured) -> Summary:
    """Return the summary of a finished run."""
    run, samples = settings.run, measured.samples
    i, o, p = schema.interactions.c, schema.outcomes.c, schema.progress.c
    rows = partial(timeline.count, connection, run)

    def traffic(direction: str) -> int | None:
        return counted(total(samples, f'mc2sf_device_traffic_bytes_total{{direction="{direction}"}}'))

    distinct = sa.select(sa.func.count(i.user.distinct()), sa.func.count(i.item.distinct())).where(i.run == run)
    users, items = connection.execute(distinct).one()
    applied = events_applied(connection, run).total()
    outcomes, up, down = rows(schema.outcomes), traffic("up"), traffic("down")
    made, clicks = releases(connection, run), ranked_clicks(connection, run)
    newest = clicks.select(slice(3 * len(clicks) // 4, None))
    return Summary(
        run=run,
        source=measured.source,
        log=measured.log,
        events_sent=measured.events_sent,
        events_applied=applied,
        events_forgotten=measured.events_forgotten,
        events_duplicate=counted(total(samples, "mc2sf_events_duplicate_total")),
        dead_letters=rows(schema.dead_letters),
        faults=measured.faults,
        users=int(users),
        items=int(items),
        clicks=rows(schema.interactions, i.kind.in_(CLICK_KINDS)),
        r2_uploads=rows(schema.negative_memories),
        rank_requests=counted(total(samples, 'mc2sf_rank_requests_total{side="device"}')),
        outcomes=outcomes,
        not_ranked=connection.execute(sa.select(p.not_ranked).where(p.run == run)).scalar() or 0,
        expired=rows(schema.outcomes, o.expired.is_(True)),
        cold=rows(schema.outcomes, o.cold.is_(True)),
        releases=made,
        online=online(connection, run),
        offline=measured.offline,
        online_collaborative=online(connection, run, "collaborative"),
        online_cold=online(connection, run, "cold"),
        online_known=online(connection, run, "known"),
        warnings=[
            *warnings(settings, outcomes, made),
            *forgotten(measured),
            *live_events(applied + measured.events_forgotten - measured.events_sent),
        ],
        last_quarter=last_quarter(connection, run),
        plugin_metrics=plugin_metrics(connection, settings, measured.plugin_metrics),
        optimum=measured.optimum,
        experiment=measured.experiment,
        offline_differences=measured.offline_differences,
        share_with_history=rows(schema.outcomes, o.history > 0) / max(outcomes, 1),
        share_with_r2=rows(schema.outcomes, o.window > 0) / max(outcomes, 1),
        seconds=round(measured.seconds, 1),
        events_per_second=round(measured.events_sent / measured.seconds, 1),
        freshness_ms=latency(samples, "mc2sf_freshness_seconds"),
        answer_ms=latency(samples, "mc2sf_answer_seconds"),
        bytes=Bytes(
            up, down, traffic("training"), None if up is None or down is None else round((up + down) / max(users, 1), 1)
        ),
        peak_memory_mb=measured.peak_memory_mb,
        restarts=measured.restarts,
        digest=digest(connection, run),
        seed=settings.seed,
        settings=settings.semantic() | {"exposure_policy": settings.exposures, "workers": measured.workers},
        versions=measured.versions,
        live_differences=live_differences(connection, settings),
        online_intervals=intervals(clicks.select(clicks.subsets["all"])),
        last_quarter_intervals=intervals(newest.select(newest.subsets["all"])),
    )


def warnings(settings: Settings, outcomes: int, made: Sequence[ReleaseEntry]) -> list[str]:
    """Return warnings about the metrics of a run, one sentence each."""
    sentences = []
    if not outcomes:
        sentences.append("No click was ranked: no metric exists.")
    if settings.frozen:
        return sentences
    retrains = [entry for entry in made if entry.kind == "retrain"]
    refused = [entry for entry in made if entry.kind == "rejected" and "kept" in entry.gate]
    if refused and not retrains:
        sentences.append(
            f"All {len(refused)} retrains were refused: the nets are those of release 0, which learnt nothing."
        )
    elif not retrains:
        sentences.append("No retrain was made: the nets are those of release 0, which learnt nothing.")
    elif not any(entry.gate.get("candidate") != entry.gate.get("active") for entry in retrains):
        sentences.append(
            f"None of {len(retrains)} retrains improved the loss on held-out clicks: all variants follow popularity."
        )
    return sentences


def forgotten(measured: Measured) -> list[str]:
    """Return a warning if users were forgotten: not everything can be computed again without their events."""
    users, gone, differ = measured.forgotten_users, measured.events_forgotten, measured.offline_differences
    if not users:
        return []
    sentence = (
        f"Users were forgotten during the run ({users:,}, with {gone:,} events): others were ranked with clicks that"
    )
    return [f"{sentence} are gone, and {differ:,} ranks differ when scored again."]


def live_events(more: int) -> list[str]:
    """Return a warning if more events were applied than the replay had sent."""
    return [f"{more:,} more events were applied than the log has: gateways sent them."] if more > 0 else []


def served_now(online: Qualities) -> By:
    """Return the variant to serve, given the online metrics so far."""
    return leader({variant: quality.ndcg_10 or 0.0 for variant, quality in online.items()})


def online(connection: sa.Connection, run: str, subset: str = "all") -> Qualities:
    """Return the cumulative online metrics of each variant over its outcomes in `subset`, as last recorded."""
    points = schema.metric_points.c
    newest = sa.select(sa.func.max(points.epoch)).where(points.run == run).scalar_subquery()
    query = sa.select(schema.metric_points).where(
        points.run == run, points.epoch == newest, points.subset == subset, points.form == "cumulative"
    )
    last = {str(row.variant): row for row in connection.execute(query)}
    return {
        variant: Quality(
            row.hr_1, row.hr_5, row.hr_10, row.ndcg_5, row.ndcg_10, row.mrr, n=row.n, chance_hr_10=row.chance_hr_10
        )
        for variant, row in sorted(last.items())
    }


def last_quarter(connection: sa.Connection, run: str) -> Qualities:
    """Return the metrics of each variant over the newest quarter of the outcomes in total order."""
    recorded = ranked(connection, run)
    return by_variant(metrics.summary(recorded[3 * len(recorded) // 4 :]))


def ranked(connection: sa.Connection, run: str) -> list[Ranked]:
    """Return the recorded ranks of all outcomes, in total order."""
    o = schema.outcomes.c
    query = sa.select(o.time, o.candidates, o.ranks, o.cold, o.history, o.window).where(o.run == run)
    return [
        Ranked(r.time, len(r.candidates) // 8, subsets(cold=r.cold, history=r.history, window=r.window), r.ranks)
        for r in connection.execute(query.order_by(o.time, o.user, o.seq))
    ]


def plugin_metrics(
    connection: sa.Connection, settings: Settings, offline: Mapping[str, Mapping[str, PluginMean]]
) -> dict[str, dict[str, PluginMetric]]:
    """Return the metrics that are plugins: online over the recorded ranks, and `offline`, which were scored again."""
    if not offline:
        return {}
    online = PluginMetrics(loaded(settings.plugins).metrics)
    for outcome in ranked(connection, settings.run):
        online.update(outcome)
    return {
        metric: {
            v: PluginMetric(mean.value, again.value if (again := offline[metric].get(v)) else None, mean.chance)
            for v, mean in by_variant.items()
        }
        for metric, by_variant in online.of_all().items()
    }


def scored_again(means: Mapping[str, Mapping[str, PluginMean]]) -> dict[str, dict[str, PluginMetric]]:
    """Return the metrics of a second scoring, for the table that a run ends with."""
    return {
        metric: {v: PluginMetric(mean.value, mean.value, mean.chance) for v, mean in by_variant.items()}
        for metric, by_variant in means.items()
    }


def releases(connection: sa.Connection, run: str) -> list[ReleaseEntry]:
    """Return the releases in order, with the refused candidates (version None, kind rejected) between them."""
    made = [
        (row.epoch, 1, ReleaseEntry(row.version, row.kind, row.trained_until, row.gate))
        for row in connection.execute(sa.select(schema.releases).where(schema.releases.c.run == run))
    ]
    c = schema.proposals.c
    query = sa.select(c.epoch, c.trained_until, c.quality).where(c.run == run, c.status == "rejected")
    refused = [
        (row.epoch, 0, ReleaseEntry(None, "rejected", row.trained_until, row.quality))
        for row in connection.execute(query)
    ]
    return [entry for _, _, entry in sorted(made + refused, key=lambda each: (each[0], each[1]))]


def events_applied(connection: sa.Connection, run: str) -> Counter[str]:
    """Return the number of events in each device's state: the next expected `seq` of its user."""
    u = schema.user_snapshots.c
    query = sa.select(u.user, u.state).where(u.run == run, u.side == "device")
    return Counter({user: decode_row(bytes(state), DeviceState).seq for user, state in connection.execute(query)})


def events_forgotten(sent: Counter[str], applied: Counter[str], forgotten_users: int) -> int:
    """Return how many events of a log are missing since their users were forgotten, given the events of each user.

    Events of such a user that came later are refused, as they are numbered. The tables don't name who was forgotten, so
    the users that lack most events count, as many as were forgotten: what others lack was lost.
    """
    missing = sorted((sent - applied).values(), reverse=True)
    return sum(missing[:forgotten_users])
