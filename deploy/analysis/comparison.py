"""Comparison of runs: metrics, and differences with 95 % intervals, paired if the runs ranked the same clicks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from deploy.report.intervals import (
    SEED,
    MetricDifference,
    MetricInterval,
    metric_differences,
    metric_values,
    variant_intervals,
)
from deploy.report.variants import ordered
from models.data.interaction_log import Ints
from models.evaluation.bootstrap import Estimate, Floats, UserBootstrap, estimates
from streams.prequential.metrics import SUBSETS
from streams.prequential.ranked_clicks import RankedClicks

PAIRED_SHARE = 0.9  # share of the smaller run's clicks that must be in the other run for a paired comparison


class ComparedRun(msgspec.Struct, frozen=True):
    """The metrics of one run."""

    run: str
    clicks: Annotated[int, Meta(description="Evaluated clicks.")]
    users: Annotated[int, Meta(description="Users of these clicks.")]
    metrics: Annotated[dict[str, dict[str, MetricInterval]], Meta(description="Per variant: each metric.")]


class RunDifference(msgspec.Struct, frozen=True):
    """Metrics of run `b` minus those of run `a`, per variant that both have."""

    a: str
    b: str
    paired: Annotated[bool, Meta(description="True if the same clicks are compared.")]
    clicks: Annotated[int, Meta(description="Clicks in common.")]
    same_candidates: Annotated[int, Meta(description="Of these, clicks that were ranked against the same list.")]
    variants: dict[str, dict[str, MetricDifference]]

    @property
    def explanation(self) -> str:
        """A sentence that says if the comparison is paired, and on how many clicks."""
        if not self.paired:
            return f"compared unpaired: {self.clicks:,} evaluated clicks in common, too few of either run"
        others = self.clicks - self.same_candidates
        drawn = f", {others:,} of them with other candidates" if others else ", with the same candidates"
        return f"paired on {self.clicks:,} clicks that both evaluated{drawn}"


class Comparison(msgspec.Struct, frozen=True):
    """Runs and their differences to the first one."""

    runs: list[ComparedRun]
    differences: list[RunDifference]

    def rows(self) -> list[ComparedRow]:
        """Return all metrics and differences, for a frame."""
        return [
            ComparedRow(run.run, None, variant, metric, each.value, each.low, each.high, None)
            for run in self.runs
            for variant, metrics in run.metrics.items()
            for metric, each in metrics.items()
        ] + [
            ComparedRow(one.b, one.a, variant, metric, each.difference, each.low, each.high, each.distinguishable)
            for one in self.differences
            for variant, metrics in one.variants.items()
            for metric, each in metrics.items()
        ]


class ComparedRow(NamedTuple):
    """A metric of a run, or with `minus` its difference to another run, with the 95 % interval: a row of a frame."""

    run: str
    minus: str | None
    variant: str
    metric: str
    value: float
    low: float | None
    high: float | None
    distinguishable: bool | None


class _Common(NamedTuple):
    a: Ints  # indices of the clicks in common [N]
    b: Ints
    paired: bool


def compare(runs: Sequence[tuple[str, RankedClicks]]) -> Comparison:
    """Return the comparison of runs, given by name and ranked clicks, with the first of them."""
    evaluated = [(name, clicks.select(clicks.subsets["all"])) for name, clicks in runs]
    first = evaluated[0]
    return Comparison(
        [_run(name, clicks) for name, clicks in evaluated], [_difference(first, other) for other in evaluated[1:]]
    )


def pooled(by_seed: Mapping[int, RankedClicks]) -> RankedClicks:
    """Return the clicks of runs of one log with several seeds as one; the same click of two seeds stays two clicks."""
    parts = [*by_seed.values()]
    users = sorted({user for part in parts for user in part.users})
    number = {user: i for i, user in enumerate(users)}

    def joined(column: Callable[[RankedClicks], Ints]) -> Ints:
        return np.concatenate([column(part) for part in parts])

    return RankedClicks(
        users=users,
        user=joined(lambda part: np.array([number[user] for user in part.users], np.int64)[part.user]),
        seq=np.concatenate([part.seq + (seed << 40) for seed, part in by_seed.items()]),
        time=joined(lambda part: part.time),
        target=joined(lambda part: part.target),
        candidates=joined(lambda part: part.candidates),
        ranks={
            variant: np.concatenate([part.ranks.get(variant, np.zeros(len(part), np.int64)) for part in parts])
            for variant in {variant for part in parts for variant in part.ranks}
        },
        subsets={name: np.concatenate([part.subsets[name] for part in parts]) for name in SUBSETS},
    )


def _run(name: str, clicks: RankedClicks) -> ComparedRun:
    users, user = np.unique(clicks.user, return_inverse=True)
    metrics = variant_intervals(clicks, user, UserBootstrap(len(users), SEED))
    return ComparedRun(name, len(clicks), len(users), metrics)


def _difference(first: tuple[str, RankedClicks], other: tuple[str, RankedClicks]) -> RunDifference:
    (a, clicks_a), (b, clicks_b) = first, other
    common = _common(clicks_a, clicks_b)
    on_a, on_b = clicks_a.select(common.a), clicks_b.select(common.b)
    variants = {}
    for variant in ordered(clicks_a.ranks.keys() & clicks_b.ranks.keys()):
        estimated = _paired(on_a, on_b, variant) if common.paired else _unpaired(clicks_a, clicks_b, variant)
        if estimated:
            variants[variant] = metric_differences(estimated)
    same = int((on_a.candidates == on_b.candidates).sum())
    return RunDifference(a, b, common.paired, len(common.a), same, variants)


def _common(a: RankedClicks, b: RankedClicks) -> _Common:
    """Return the clicks in common: the same user, number, time and item."""

    def keys(clicks: RankedClicks) -> list[tuple[str, int, int, int]]:
        names = [clicks.users[user] for user in clicks.user]
        return [*zip(names, clicks.seq.tolist(), clicks.time.tolist(), clicks.target.tolist(), strict=True)]

    index = {key: i for i, key in enumerate(keys(a))}
    pairs = [(index[key], i) for i, key in enumerate(keys(b)) if key in index]
    of_a, of_b = np.array(pairs, np.int64).reshape(-1, 2).T
    return _Common(of_a, of_b, 0 < PAIRED_SHARE * min(len(a), len(b)) <= len(pairs))


def _paired(a: RankedClicks, b: RankedClicks, variant: str) -> list[Estimate]:
    both = (a.ranks[variant] > 0) & (b.ranks[variant] > 0)
    if not both.any():
        return []
    users, user = np.unique(a.user[both], return_inverse=True)
    values = metric_values(b.ranks[variant][both]) - metric_values(a.ranks[variant][both])
    return UserBootstrap(len(users), SEED).estimates(user, values)


def _unpaired(a: RankedClicks, b: RankedClicks, variant: str) -> list[Estimate]:
    """Return differences whose intervals draw the users of both runs independently."""
    values: list[Floats] = []
    resampled: list[Floats] = []
    user_counts = []
    for seed, clicks in enumerate((a, b), SEED):
        ranked = clicks.ranks[variant] > 0
        if not ranked.any():
            return []
        users, user = np.unique(clicks.user[ranked], return_inverse=True)
        bootstrap, gains = UserBootstrap(len(users), seed), metric_values(clicks.ranks[variant][ranked])
        values.append(gains.mean(1))
        resampled.append(bootstrap.resampled(user, gains))
        user_counts.append(len(users))
    return estimates(values[1] - values[0], resampled[1] - resampled[0], min(user_counts))


def distinct_names(names: Sequence[str]) -> list[str]:
    """Return `names`, repeated ones with a number."""
    seen: dict[str, itertools.count[int]] = {}
    distinct = []
    for name in names:
        number = next(seen.setdefault(name, itertools.count(1)))
        distinct.append(name if number == 1 else f"{name} ({number})")
    return distinct
