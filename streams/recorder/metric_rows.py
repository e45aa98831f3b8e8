"""Online quality as rows of the tables and as Prometheus gauges."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from models.evaluation.metrics import METRICS
from streams.prequential.evaluator import EvaluatedOutcome, PrequentialEvaluator
from streams.prequential.metrics import QualityPoint
from streams.prequential.sliding import SlidingDifference
from streams.process import telemetry
from streams.recorder.rows import Row

_online = cache(telemetry.ONLINE.labels)  # to look one up costs more than to set it, and an epoch sets hundreds


def point_rows(run: str, epoch: int, time: int, points: Iterable[QualityPoint]) -> list[Row]:
    """Return the rows of metric_points, one per series, at the end of `epoch`."""
    return [
        (
            *(run, epoch, variant, subset, form, time, point.n),
            *(point.metrics.get(name) for name in METRICS),
            *(point.chance.get(name) for name in ("hr@10", "ndcg@10")),
        )
        for variant, subset, form, point in points
    ]


def drift_rows(run: str, epoch: int, evaluated: Iterable[EvaluatedOutcome]) -> list[Row]:
    """Return the rows of drifts, one per detected drift, and count them for Prometheus."""
    rows: list[Row] = []
    for outcome, _, _, drifts in evaluated:
        for drift in drifts:
            telemetry.DRIFTS.labels(drift.variant).inc()
            what = (drift.variant, outcome.user, outcome.seq, epoch, outcome.time, drift.before, drift.after)
            rows.append((run, *what))
    return rows


def show(prequential: PrequentialEvaluator, points: Iterable[QualityPoint]) -> None:
    """Set the Prometheus gauges."""
    for variant, subset, form, point in points:
        for name, value in point.metrics.items():
            _online(name, variant, subset, form).set(value)
        if form == "cumulative" and variant == "random":
            for name, value in point.chance.items():
                telemetry.ONLINE_CHANCE.labels(name, subset).set(value)
    for each in prequential.live.differences():
        for bound, value in (("low", each.low), ("mean", each.difference), ("high", each.high)):
            telemetry.ONLINE_DIFFERENCE.labels(each.variant, each.minus, bound).set(value)
    show_sliding(prequential.ahead_of_popularity)
    for mean in prequential.plugin_metrics.means():
        telemetry.ONLINE.labels(mean.metric, mean.variant, mean.subset, "cumulative").set(mean.value)
        if mean.variant == "random":
            telemetry.ONLINE_CHANCE.labels(mean.metric, mean.subset).set(mean.chance)


def show_sliding(ahead_of_popularity: SlidingDifference) -> None:
    """Set the gauge of the last span; remove it if the span has too few users, as one before may have had enough."""
    if (interval := ahead_of_popularity.interval()) is None:
        telemetry.ONLINE_SLIDING_DIFFERENCE.clear()
    else:
        for bound, value in interval._asdict().items():
            telemetry.ONLINE_SLIDING_DIFFERENCE.labels("mc2sf", "popularity", bound).set(value)
