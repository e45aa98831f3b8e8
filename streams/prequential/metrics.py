"""Online metrics: means of HR, NDCG and MRR per variant, over the whole run, over a sliding span, and fading.

Sums are whole numbers of a unit so small that every metric of every rank is a multiple of it. So a mean is the same to
the last digit for any order, process or batch of the ranks; the rescoring must give it exactly. Each mean has a chance
value: that of a constant scorer on the same lists.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.evaluation.metrics import METRICS, chance, gains
from streams.prequential.sliding import Sliding

SUBSETS = ("all", "known", "collaborative", "cold")
FORMS = ("cumulative", "sliding", "fading")
FADING = 0.998  # factor on an outcome's weight per later outcome: the last 500 have most of the weight

_UNIT_BITS = 128  # a double between 2**-75 and 1 is a whole number of 2**-128
_FIELD_BITS = 192  # of one sum: room for 2**64 outcomes
_WIDTH = 2 * len(METRICS)  # fields of a sum: gains, then chances


class Ranked(NamedTuple):
    """The ranks of one outcome by variant, among `n` candidates."""

    time: int
    n: int
    subsets: tuple[str, ...]
    ranks: Mapping[str, int]


class Point(NamedTuple):
    """Means over `n` outcomes by metric, and the chance values of the same lists; `n` 0: none."""

    n: int
    metrics: dict[str, float]
    chance: dict[str, float]


def subsets(*, cold: bool, history: int, window: int) -> tuple[str, ...]:
    """Return the subsets of an outcome: `all`, and either `cold` or `known`.

    A known one is also `collaborative` if the nets had uploaded clicks and r2.
    """
    if cold:
        return ("all", "cold")
    return ("all", "known", "collaborative") if history and window else ("all", "known")


@functools.lru_cache(maxsize=1 << 16)
def _values(rank: int, n: int) -> tuple[NDArray[np.float64], int]:
    """Return metrics and chance values of a rank among n, f8 [_WIDTH], and the same packed into one number."""
    metric_values, expected = gains([rank]), chance(n)
    values = [float(metric_values[m][0]) for m in METRICS] + [expected[m] for m in METRICS]
    return np.array(values), sum(_units(value) << field * _FIELD_BITS for field, value in enumerate(values))


def _units(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()
    units, rest = divmod(numerator << _UNIT_BITS, denominator)
    if rest:
        raise ValueError(f"{value} is not a whole number of units: the list is too long")
    return units


class Sums:
    """Exact sums over ranks of one variant, packed into one number, so that adding a rank is one addition."""

    __slots__ = ("n", "packed")

    def __init__(self) -> None:
        self.n = self.packed = 0

    def add(self, rank: int, n: int) -> None:
        """Add a rank among n."""
        self.n += 1
        self.packed += _values(rank, n)[1]

    def plus(self, other: Sums) -> None:
        """Add another's sums."""
        self.n += other.n
        self.packed += other.packed

    def point(self) -> Point:
        """Return the means: those of `metrics` and `mean_chance` in `models.evaluation.metrics`, bit for bit."""
        if not self.n:
            return Point(0, {}, {})
        mask, unit = (1 << _FIELD_BITS) - 1, 1 << _UNIT_BITS
        sums = [(self.packed >> field * _FIELD_BITS & mask) / unit for field in range(_WIDTH)]
        return _point(self.n, [total / self.n for total in sums])


def _point(n: int, values: Sequence[float]) -> Point:
    k = len(METRICS)
    return Point(n, dict(zip(METRICS, values[:k], strict=True)), dict(zip(METRICS, values[k:], strict=True)))


class _FadingMean:
    """Means in which an outcome's weight is multiplied by FADING per later outcome: depends on the order."""

    __slots__ = ("n", "sums", "weight")

    def __init__(self) -> None:
        self.n, self.weight = 0, 0.0
        self.sums = np.zeros(_WIDTH)

    def add(self, rank: int, n: int) -> None:
        self.n += 1
        self.weight = self.weight * FADING + 1
        self.sums *= FADING
        self.sums += _values(rank, n)[0]

    def point(self) -> Point:
        return _point(self.n, [float(total) for total in self.sums / self.weight])


Series = tuple[str, str]  # variant, subset


QualityPoint = tuple[str, str, str, Point]  # variant, subset, form of the mean, means


class Quality:
    """All series of a run. `span_ms` is the length of the sliding mean, in event time."""

    def __init__(self, span_ms: int) -> None:
        self._total: defaultdict[Series, Sums] = defaultdict(Sums)
        self._fading: defaultdict[Series, _FadingMean] = defaultdict(_FadingMean)
        self._recent: Sliding[defaultdict[Series, Sums]] = Sliding(span_ms, lambda: defaultdict(Sums))

    def update(self, outcome: Ranked) -> None:
        """Add an outcome, in total order."""
        recent = self._recent.at(outcome.time)
        for subset in outcome.subsets:
            for variant, rank in outcome.ranks.items():
                series = variant, subset
                self._total[series].add(rank, outcome.n)
                self._fading[series].add(rank, outcome.n)
                if recent is not None:
                    recent[series].add(rank, outcome.n)

    def cumulative_ndcg(self) -> dict[str, float]:
        """Return the mean NDCG@10 of each variant over all outcomes that it ranked."""
        return {v: sums.point().metrics["ndcg@10"] for (v, subset), sums in self._total.items() if subset == "all"}

    def points(self) -> Iterator[QualityPoint]:
        """Yield each series that has outcomes."""
        for (variant, subset), sums in sorted(self._total.items()):
            sliding = Sums()
            for step in self._recent:
                if (variant, subset) in step:
                    sliding.plus(step[variant, subset])
            yield variant, subset, "cumulative", sums.point()
            yield variant, subset, "sliding", sliding.point()
            yield variant, subset, "fading", self._fading[variant, subset].point()


@functools.lru_cache(maxsize=1 << 12)
def ndcg_10(rank: int) -> float:
    """Return the NDCG@10 of one rank."""
    return float(gains([rank])["ndcg@10"][0])


def summary(outcomes: Iterable[Ranked], subset: str = "all") -> dict[str, dict[str, float]]:
    """Return the cumulative means as in summary.json: {variant: {hr@1, ..., mrr, n, chance_hr@10}}."""
    sums: defaultdict[str, Sums] = defaultdict(Sums)
    for outcome in outcomes:
        if subset in outcome.subsets:
            for variant, rank in outcome.ranks.items():
                sums[variant].add(rank, outcome.n)
    points = {variant: sums[variant].point() for variant in sorted(sums)}
    return {v: {**p.metrics, "n": p.n, "chance_hr@10": p.chance["hr@10"]} for v, p in points.items()}
