"""95 % intervals of the metrics of a run, and of the differences between its variants on the same clicks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from deploy.report.variants import ordered
from models.data.interaction_log import Ints
from models.evaluation.bootstrap import Estimate, Floats, UserBootstrap
from models.evaluation.metrics import METRICS, gains
from streams.prequential.ranked_clicks import RankedClicks

SEED = 1  # of the bootstrap: the same for all runs, so that the same clicks give the same intervals
BASELINES = ("popularity", "river")
_DIGITS = 6  # sums of floats may differ beyond between machines


class MetricInterval(msgspec.Struct, frozen=True):
    """A mean over clicks with its 95 % interval; null with fewer than ten users."""

    value: float
    low: float | None
    high: float | None


class MetricDifference(msgspec.Struct, frozen=True):
    """A difference with its 95 % interval (null with fewer than ten users); distinguishable: 0 is outside."""

    difference: float
    low: float | None
    high: float | None
    distinguishable: bool

    def reversed(self) -> MetricDifference:
        """Return the difference with its sign changed."""
        low, high = (None if bound is None else -bound for bound in (self.high, self.low))
        return MetricDifference(-self.difference, low, high, self.distinguishable)

    @property
    def verdict(self) -> str:
        """The difference in words: never more than the interval carries."""
        return ("higher" if self.difference > 0 else "lower") if self.distinguishable else "not distinguishable"


class IntervalRow(NamedTuple):
    """A metric, or with `minus` its difference to another variant, with the 95 % interval: a row of a frame."""

    variant: str
    minus: str | None
    metric: str
    value: float
    low: float | None
    high: float | None
    distinguishable: bool | None


class VariantDifference(msgspec.Struct, frozen=True):
    """The metrics of variant `a` minus those of `b` on the `n` clicks that both ranked."""

    a: str
    b: str
    n: int
    metrics: dict[str, MetricDifference]


class Intervals(msgspec.Struct, frozen=True):
    """95 % intervals by a bootstrap over users; differences on the same clicks, for each pair of variants."""

    users: Annotated[int, Meta(description="Users with a click: what the bootstrap draws.")]
    metrics: Annotated[
        dict[str, dict[str, MetricInterval]], Meta(description="Per variant: the interval of each metric.")
    ]
    differences: Annotated[list[VariantDifference], Meta(description="Per pair of variants.")]
    best_baseline: Annotated[
        str | None, Meta(description="The baseline (popularity, river) with the higher NDCG@10; null without one.")
    ]

    def difference(self, a: str, b: str, metric: str) -> MetricDifference | None:
        """Return the metric of `a` minus that of `b`; None if no click was ranked by both."""
        for each in self.differences:
            if (each.a, each.b) == (a, b):
                return each.metrics[metric]
            if (each.a, each.b) == (b, a):
                return each.metrics[metric].reversed()
        return None

    def rows(self) -> list[IntervalRow]:
        """Return all metrics and differences, for a frame."""
        return [
            IntervalRow(variant, None, metric, each.value, each.low, each.high, None)
            for variant, metrics in self.metrics.items()
            for metric, each in metrics.items()
        ] + [
            IntervalRow(one.a, one.b, metric, each.difference, each.low, each.high, each.distinguishable)
            for one in self.differences
            for metric, each in one.metrics.items()
        ]

    def to_references(self, metric: str) -> Iterator[tuple[str, str, MetricDifference]]:
        """Yield the differences of each variant to `fast` and to the best baseline: variant, reference, difference."""
        for variant in self.metrics:
            for reference in dict.fromkeys(("fast", self.best_baseline)):
                if reference is not None and variant not in (reference, "random"):
                    difference = self.difference(variant, reference, metric)
                    if difference is not None:
                        yield variant, reference, difference


def intervals(clicks: RankedClicks) -> Intervals:
    """Return the intervals of all variants over `clicks`."""
    users, user = np.unique(clicks.user, return_inverse=True)
    bootstrap = UserBootstrap(len(users), SEED)
    metrics = variant_intervals(clicks, user, bootstrap)
    differences = []
    for a, b in itertools.combinations(metrics, 2):
        both = (clicks.ranks[a] > 0) & (clicks.ranks[b] > 0)
        if both.any():
            of_a, of_b = (metric_values(clicks.ranks[variant][both]) for variant in (a, b))
            compared = metric_differences(bootstrap.estimates(user[both], of_a - of_b))
            differences.append(VariantDifference(a, b, int(both.sum()), compared))
    best = max((v for v in BASELINES if v in metrics), key=lambda v: metrics[v]["ndcg@10"].value, default=None)
    return Intervals(len(users), metrics, differences, best)


def variant_intervals(
    clicks: RankedClicks, user: Ints, bootstrap: UserBootstrap
) -> dict[str, dict[str, MetricInterval]]:
    """Return each metric of each variant that ranked a click; `user` [N] are indices of the bootstrap's users."""
    found = {}
    for variant in ordered(clicks.ranks):
        ranked = clicks.ranks[variant] > 0
        if ranked.any():
            values = metric_values(clicks.ranks[variant][ranked])
            found[variant] = metric_intervals(bootstrap.estimates(user[ranked], values))
    return found


def metric_values(ranks: Ints) -> Floats:
    """Return the value of ranks [N] by each metric, [M, N]."""
    return np.stack([*gains(ranks).values()])


def bounds(estimate: Estimate) -> tuple[float | None, float | None]:
    """Return the interval's ends, rounded; None without an interval."""
    if math.isnan(estimate.low):
        return None, None
    return round(estimate.low, _DIGITS), round(estimate.high, _DIGITS)


def metric_intervals(by_metric: Iterable[Estimate]) -> dict[str, MetricInterval]:
    """Return the estimated mean of each of METRICS, in this order, as types of the summary."""
    intervals = (MetricInterval(round(each.value, _DIGITS), *bounds(each)) for each in by_metric)
    return dict(zip(METRICS, intervals, strict=True))


def metric_differences(by_metric: Iterable[Estimate]) -> dict[str, MetricDifference]:
    """Return the estimated difference of each of METRICS, in this order, as types of the summary."""
    return dict(zip(METRICS, map(metric_difference, by_metric), strict=True))


def metric_difference(estimate: Estimate) -> MetricDifference:
    """Return an estimated difference as a type of the summary."""
    low, high = bounds(estimate)
    distinguishable = low is not None and high is not None and (low > 0 or high < 0)
    return MetricDifference(round(estimate.value, _DIGITS), low, high, distinguishable)
