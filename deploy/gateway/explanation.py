"""The explanation of a ranking, computed again from its record and its release.

A Ranking record has all inputs of its scores. The explanation recomputes the scores from these inputs, says if they are
equal to the last digit, and shows the weights inside the nets.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from deploy.gateway.api.bodies import Name, RankingAnswer
from deploy.gateway.shown import Names, answer, order
from models.mc2sf.stacking import FEATURES
from streams.records import Ranking
from streams.releases.item_statistics import buckets_array
from streams.releases.release import Release

Keys = NDArray[np.int64]
Seqs = Mapping[int, int]  # number of the event, by item


class HistoryEvent(msgspec.Struct, frozen=True):
    """An event in a history. `seq` is its number among the user's events; null: it is not in the tables yet."""

    item: Name
    seq: int | None


class ItemExplanation(msgspec.Struct, frozen=True):
    """A shown item. w1 and w2 weigh the states of clicks and exposures (eq. 3), alpha is r_n's share (eq. 7)."""

    item: Name
    scores: dict[str, float]  # by variant: din and f2s of the cloud, fast and mc2sf of the device, popularity
    w1: float | None  # null if the ranking is degraded
    w2: float | None
    alpha: float | None


class ReleaseExplanation(msgspec.Struct, frozen=True):
    """The release of a ranking, and the figures that its gate compared."""

    version: int
    kind: str
    parent: int
    epoch: int  # epoch after which it was made
    trained_until: int  # event time, ms
    gate: dict[str, float]


class Explanation(msgspec.Struct, frozen=True):
    """The inputs of a ranking. The scores are computed again; `same`: they equal those that were served."""

    ranking: RankingAnswer
    same: bool
    items: list[ItemExplanation]
    clicks: list[HistoryEvent]  # the device's short history of clicks, oldest first
    exposures: list[HistoryEvent]  # that of exposures
    history: list[HistoryEvent]  # the uploaded clicks that the cloud used
    before_seq: int  # the histories have events with a lower number only
    before_offset: int  # of the user's partition of device-events, where the request was
    window: int  # number of the window whose r2 was used; 0: none
    window_closed: int  # event time, ms
    release: ReleaseExplanation
    stack: dict[str, float] | None  # weights by which mc2sf adds up its scores; null: it is S2F alone


def explain(ranking: Ranking, release: Release, names: Names, clicked: Seqs, exposed: Seqs) -> Explanation:
    """Return the explanation. `clicked` and `exposed` are the numbers of the user's last events on items."""
    scorer, rows = release.scorer, release.catalogue.rows
    keys, n = ranking.items.array(), ranking.items.shape[0]
    statistics = buckets_array(ranking.item_statistics, n)
    r2 = np.frombuffer(ranking.r2, "<f4") if ranking.r2 else np.zeros(scorer.config.dim, np.float32)
    short = rows(ranking.clicks.array()), rows(ranking.exposures.array())
    slow = scorer.slow(rows(ranking.history.array()), r2, rows(keys), statistics)
    zero = np.zeros_like(slow.r_t)
    priors = (zero, zero) if ranking.degraded else (slow.r_t, slow.r_n)
    near = release.near(ranking.clicks.array(), keys)
    fast = scorer.fast(*short, rows(keys), *priors, statistics, None if ranking.degraded else slow.f2s, near)
    again = {"din": slow.din, "f2s": slow.f2s, "fast": fast.fast, "mc2sf": fast.mc2sf}
    weights = None if ranking.degraded or not n else scorer.s2f_weights(*short, rows(keys), *priors, statistics)
    shown = answer(ranking, names)
    manifest = release.manifest
    items = [
        ItemExplanation(
            item=each.item,
            scores={variant: float(scores.array()[i]) for variant, scores in ranking.scores.items()},
            w1=None if weights is None else float(weights.w1[i]),
            w2=None if weights is None else float(weights.w2[i]),
            alpha=None if weights is None else float(weights.alpha[i]),
        )
        for each, i in zip(shown.items, order(ranking), strict=True)
    ]
    stack = release.nets.fast.stack.tolist() if release.nets.config.stacked else None
    return Explanation(
        ranking=shown,
        same=all(np.array_equal(ranking.scores[name].array(), again[name]) for name in again.keys() & ranking.scores),
        items=items,
        clicks=_history(ranking.clicks.array(), names, clicked),
        exposures=_history(ranking.exposures.array(), names, exposed),
        history=_history(ranking.history.array(), names, clicked),
        before_seq=ranking.seq,
        before_offset=ranking.offset,
        window=ranking.window,
        window_closed=ranking.closed,
        release=ReleaseExplanation(
            manifest.version, manifest.kind, manifest.parent, manifest.epoch, manifest.trained_until, manifest.gate
        ),
        stack=None if stack is None else dict(zip(FEATURES, stack, strict=True)),
    )


def _history(keys: Keys, names: Names, seqs: Seqs) -> list[HistoryEvent]:
    listed: list[int] = keys.tolist()
    return [HistoryEvent(name, seqs.get(key)) for name, key in zip(names(listed), listed, strict=True)]
