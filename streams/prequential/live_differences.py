"""Differences of NDCG@10 between variants on the same clicks, with intervals that may be looked at at any time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import numpy as np
from sqlalchemy import Connection

from models.evaluation.confidence_sequence import MIN_USERS, by_clusters, half_width
from streams.plugins.loaded import loaded
from streams.prequential.metrics import ndcg_10
from streams.prequential.recorded import recorded_outcomes
from streams.prequential.served import SERVED
from streams.settings import Settings

COMPARED = ("mc2sf", SERVED)  # these minus each other variant
_VARIANTS = (*COMPARED, "fast", "f2s", "din", "river", "popularity", "random")
_DIGITS = 6  # sums of floats may differ beyond between machines


class LiveDifference(msgspec.Struct, frozen=True):
    """NDCG@10 of `variant` minus that of `minus` on the same clicks, with a 95 % interval that holds at all times."""

    variant: str
    minus: str
    difference: float
    low: float
    high: float
    since: int | None  # first epoch at whose end the interval excluded zero; null: it never did


class LiveDifferences:
    """Sums of NDCG@10 per user and variant, over the clicks that all variants ranked."""

    def __init__(self, plugins: Iterable[str] = ()) -> None:
        """`plugins` are the names of further variants."""
        self._variants = (*_VARIANTS, *plugins)
        self._rows: dict[str, int] = {}  # user -> row
        self._sums = np.zeros((64, 1 + len(self._variants)))  # per user: clicks, then the sums by variant
        self._epoch = -1
        self._since: dict[tuple[str, str], int] = {}

    def update(self, epoch: int, user: str, ranks: Mapping[str, int]) -> None:
        """Add an outcome, in order of epochs; without the ranks of all variants it does not count."""
        if epoch != self._epoch:
            self.differences()
            self._epoch = epoch
        if not all(variant in ranks for variant in self._variants):
            return
        row = self._rows.setdefault(user, len(self._rows))
        if row == len(self._sums):
            self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)])
        self._sums[row] += [1, *(ndcg_10(ranks[variant]) for variant in self._variants)]

    def differences(self) -> list[LiveDifference]:
        """Return the differences at the end of the epoch; none with too few users."""
        found: list[LiveDifference] = []
        users = len(self._rows)
        if users < MIN_USERS:
            return found
        counts, sums = self._sums[:users, 0], self._sums[:users, 1:]
        for a, variant in enumerate(COMPARED):
            means, variances = by_clusters(sums[:, [a]] - sums, counts)
            widths = half_width(variances, int(counts.sum()))
            for b, minus in enumerate(self._variants[a + 1 :], start=a + 1):
                if abs(means[b]) > widths[b]:
                    self._since.setdefault((variant, minus), self._epoch)
                low, value, high = (round(float(means[b] + side * widths[b]), _DIGITS) for side in (-1, 0, 1))
                since = self._since.get((variant, minus))
                found.append(LiveDifference(variant, minus, value, low, high, since))
        return found


def live_differences(connection: Connection, settings: Settings) -> list[LiveDifference]:
    """Return the differences after the last recorded epoch of a run."""
    live = LiveDifferences(loaded(settings.plugins).variants)
    for row in recorded_outcomes(connection, settings.run):
        live.update(row.epoch, row.user, row.ranks)
    return live.differences()
