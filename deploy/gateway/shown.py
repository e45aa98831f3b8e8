"""Conversion of a Ranking record to the list of items that a client gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from deploy.gateway.api.bodies import RankedItem, RankingAnswer
from deploy.gateway.rankings import answer_id
from streams.records import Ranking

Names = Callable[[Sequence[int]], list[str]]  # of items, given by key


def order(ranking: Ranking) -> list[int]:
    """Return the indices of the items that are shown, best first; scores that are not finite come last."""
    scores = ranking.scores[ranking.variant].array()
    return [int(i) for i in np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")[: ranking.k]]


def shown(ranking: Ranking, names: Names) -> list[str]:
    """Return the names of the items that are shown, best first."""
    indices = order(ranking)
    if ranking.names:
        return [ranking.names[i] for i in indices]
    return names(ranking.items.array()[indices].tolist())


def answer(ranking: Ranking, names: Names) -> RankingAnswer:
    """Return the answer to the client."""
    scores, now = ranking.scores[ranking.variant].array(), ranking.asked_wall
    pairs = zip(shown(ranking, names), order(ranking), strict=True)
    return RankingAnswer(
        ranking=answer_id(ranking),
        user=ranking.user,
        items=[RankedItem(name, float(np.nan_to_num(scores[i]))) for name, i in pairs],
        release=ranking.versions.release,
        variant=ranking.variant,
        degraded=ranking.degraded,
        next_seq=ranking.seq,
        r2_age=max(now - ranking.closed, 0) if ranking.window else None,
        history_age=max(now - ranking.uploaded, 0) if ranking.history.shape[0] else None,
        history=ranking.history.shape[0],
        not_uploaded=ranking.not_uploaded,
    )
