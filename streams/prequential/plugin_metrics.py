"""Means of the metrics that are plugins, by variant: the same to the last digit for any order of the outcomes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from streams.plugins.loaded import RankValue
from streams.prequential.metrics import Ranked, Series


class PluginMean(NamedTuple):
    """The mean of a metric over `n` outcomes, and that of a constant scorer on the same lists."""

    metric: str
    variant: str
    subset: str
    value: float
    chance: float
    n: int


class PluginMetrics:
    """Counts of ranks and sizes of lists, per series; nothing is counted without metrics."""

    def __init__(self, metrics: Mapping[str, RankValue]) -> None:
        self._metrics = metrics
        self._counts: defaultdict[Series, Counter[tuple[int, int]]] = defaultdict(Counter)
        self._chance: dict[tuple[str, int], Fraction] = {}

    def update(self, outcome: Ranked) -> None:
        """Add an outcome."""
        if self._metrics:
            for subset in outcome.subsets:
                for variant, rank in outcome.ranks.items():
                    self._counts[variant, subset][rank, outcome.n] += 1

    def means(self) -> Iterator[PluginMean]:
        """Yield the mean of each metric in each series that has outcomes."""
        for metric, value in self._metrics.items():
            for (variant, subset), counts in sorted(self._counts.items()):
                n, total, chance = counts.total(), Fraction(), Fraction()
                for (rank, size), count in counts.items():
                    total += count * Fraction(value(rank, size))
                    chance += count * self._chance_of(metric, size)
                yield PluginMean(metric, variant, subset, float(total) / n, float(chance / n), n)

    def of_all(self) -> dict[str, dict[str, PluginMean]]:
        """Return the means over all outcomes, by metric and variant."""
        by_metric: defaultdict[str, dict[str, PluginMean]] = defaultdict(dict)
        for mean in self.means():
            if mean.subset == "all":
                by_metric[mean.metric][mean.variant] = mean
        return dict(by_metric)

    def _chance_of(self, metric: str, size: int) -> Fraction:
        """Return the mean of a metric over all ranks of a list."""
        if (metric, size) not in self._chance:
            values = (Fraction(self._metrics[metric](rank, size)) for rank in range(1, size + 1))
            self._chance[metric, size] = sum(values, Fraction()) / size
        return self._chance[metric, size]


def plugin_means(
    metrics: Mapping[str, RankValue], sizes: Sequence[int], ranks: Sequence[int] | None
) -> dict[str, float]:
    """Return the mean of each metric over lists of `sizes` with the clicked items at `ranks`; None: over all ranks."""
    counts = PluginMetrics(metrics)
    for i, n in enumerate(sizes):
        counts.update(Ranked(0, n, ("all",), {"": ranks[i] if ranks is not None else n}))
    return {mean.metric: mean.value if ranks is not None else mean.chance for mean in counts.means()}
