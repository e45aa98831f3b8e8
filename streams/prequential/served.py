"""The variant `served`: in each epoch the variant whose mean NDCG@10 over all earlier epochs is the highest.

This is follow-the-leader: it changes only where the leader changes, and there the sums of both are equal, so over a run
it gains as much as the best variant, minus the cost of the changes. The means are exact, so every process finds the
same leader. `river` can't be served: its model exists in the recorder alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

SERVED = "served"
By = Literal["popularity", "mc2sf", "fast", "f2s", "din"]  # at equal means the first: nothing is learnt yet
SERVABLE: tuple[By, ...] = get_args(By)


def leader(ndcg_10: Mapping[str, float]) -> By:
    """Return the variant with the highest of the means."""
    return max(SERVABLE, key=lambda variant: ndcg_10.get(variant, 0.0))


def served_by(leader: By, ranks: Mapping[str, int]) -> By:
    """Return the variant that is served for a click: without an answer of the cloud, that of the device alone."""
    choices: tuple[By, ...] = (leader, "fast", "popularity")
    return next(variant for variant in choices if variant in ranks)
