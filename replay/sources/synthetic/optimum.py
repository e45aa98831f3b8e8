"""Metrics of the optimal ranker on synthetic users: it ranks by the exact distribution of the next click.

Negatives are drawn uniformly, so ranking by probability is optimal for every metric.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.evaluation.metrics import metrics, rank
from replay.parameters import parameters
from replay.sources.synthetic.users import FLOW, RECENT, RING, TASTE, TIRED, Floats, Synthetic, Traces

MAX_USERS, NEGATIVES = 100, 99
Items = NDArray[np.int64]  # numbers of items, 0-based: the name of the item minus one


def probabilities(world: Synthetic, past: Items, clicks: Items, shown: Items) -> Floats:
    """Return the probability of each item to be the next click of a user, [items].

    `past` are the past clicks of the user, `clicks` the later ones, `shown` all exposures so far, each oldest first.
    """
    groups = np.arange(world.groups)
    before = world.group[np.append(past, clicks)[-RECENT:]]
    reasons = world.reasons(
        np.isin(groups, world.group[past])[None],
        before[-1:],
        np.isin(groups, before)[None],
        np.bincount(world.group[shown[-RING:]], minlength=world.groups)[None] >= TIRED,
    )[0]
    item = reasons[world.group] * world.within + (1 - FLOW - TASTE) * world.popular
    return np.asarray((1 - world.noise) * item + world.noise / world.items)


def of_source(text: str) -> dict[str, float] | None:
    """Return the optimum of a synthetic SOURCE, by metric; None for other sources, whose optimum is unknown."""
    scheme, _, rest = text.partition(":")
    return optimum(parameters(Synthetic, rest)) if scheme == "synthetic" else None


def optimum(world: Synthetic) -> dict[str, float]:
    """Return the metrics of the optimal ranker on all clicks of the first MAX_USERS users."""
    draw = np.random.default_rng(0)
    ranks = []
    traces = Traces(world, 0, min(MAX_USERS, world.users))
    for user, past in enumerate(traces.past):
        for step in range(int(traces.length[user])):
            target = int(traces.item[user, step])
            others = np.delete(np.arange(world.items), target)
            drawn = draw.choice(others, min(NEGATIVES, len(others)), replace=False)
            candidates = draw.permutation(np.append(drawn, target))
            scores = probabilities(world, past, traces.item[user, :step], traces.shown[user, : step + 1].ravel())
            ranks.append(rank(scores[candidates], int(np.flatnonzero(candidates == target)[0])).rank)
    return metrics(ranks)
