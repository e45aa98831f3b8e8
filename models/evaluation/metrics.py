"""Ranks and ranking metrics: HR@{1,5,10}, NDCG@{5,10} and MRR, with one relevant item per list."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

METRICS = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr")


class Rank(NamedTuple):
    """A rank from 1, and the number of scores of the list that were NaN or infinite."""

    rank: int
    not_finite: int


def rank(scores: ArrayLike, target_index: int) -> Rank:
    """Return the rank of the item at `target_index`: 1 + higher scores + equal scores before it.

    Lists are shuffled, so a constant scorer gets chance level. A score that is not finite ranks last.
    """
    values: NDArray[np.floating] = np.asarray(scores)
    finite = np.isfinite(values)
    bad = len(values) - int(np.count_nonzero(finite))
    if not finite[target_index]:
        return Rank(len(values), bad)
    own = values[target_index]
    with np.errstate(invalid="ignore"):
        better = np.count_nonzero((values > own) & finite)
    return Rank(1 + int(better) + int(np.count_nonzero(values[:target_index] == own)), bad)


def gains(ranks: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Return the value of each rank by each metric: [n] -> name -> [n]."""
    values: NDArray[np.float64] = np.asarray(ranks, np.float64)
    discounted = 1 / np.log2(values + 1)
    return {
        **{f"hr@{k}": (values <= k).astype(np.float64) for k in (1, 5, 10)},
        **{f"ndcg@{k}": np.where(values <= k, discounted, 0.0) for k in (5, 10)},
        "mrr": 1 / values,
    }


def metrics(ranks: ArrayLike) -> dict[str, float]:
    """Return the mean of each metric over ranks [n]; exactly the same for any order; NaN if n is 0."""
    count = np.size(np.asarray(ranks))
    return {name: math.fsum(values) / count if count else math.nan for name, values in gains(ranks).items()}


@functools.lru_cache(maxsize=4096)
def _chance(n: int) -> tuple[float, ...]:
    """Return the means of METRICS over all ranks of a list of `n`."""
    means = metrics(np.arange(1, n + 1))
    return tuple(means[name] for name in METRICS)


def chance(n: int) -> dict[str, float]:
    """Return the expected metrics of a constant scorer on a list of `n` candidates."""
    return dict(zip(METRICS, _chance(n), strict=True))


def mean_chance(sizes: Sequence[int]) -> dict[str, float]:
    """Return the mean of `chance` over lists of several sizes; NaN without lists."""
    return {
        name: math.fsum(_chance(int(n))[i] for n in sizes) / len(sizes) if len(sizes) else math.nan
        for i, name in enumerate(METRICS)
    }
