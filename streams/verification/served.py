"""The variant `served`, recomputed: the leader of each epoch, from the ranks of all earlier ones."""

from __future__ import annotations

from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from streams.database import schema
from streams.verification.differences import require_equal

_VARIANTS = ("popularity", "mc2sf", "fast", "f2s", "din")


def check(connection: Connection, run: str, epochs: int) -> None:
    """Compare the recorded choice and ranks of epochs 0 to `epochs` - 1. Raises DifferenceFound."""
    o = schema.outcomes.c
    gains: defaultdict[str, Fraction] = defaultdict(Fraction)
    ranked: Counter[str] = Counter()
    for epoch in range(epochs):
        means = {variant: float(gains[variant]) / max(ranked[variant], 1) for variant in _VARIANTS}
        leader = max(_VARIANTS, key=means.__getitem__)
        query = sa.select(o.user, o.seq, o.ranks, o.served).where(o.run == run, o.epoch == epoch)
        for user, seq, ranks, served in connection.execute(query):
            if served is not None:  # recorded by an earlier version
                recomputed = next(variant for variant in (leader, "fast", "popularity") if variant in ranks)
                require_equal(user, f"seq {seq}", "served", served, recomputed)
                require_equal(user, f"seq {seq}", "rank by served", ranks.get("served"), ranks[recomputed])
            for variant in ranks.keys() & set(_VARIANTS):
                gains[variant] += Fraction(float(1 / np.log2(ranks[variant] + 1.0))) if ranks[variant] <= 10 else 0
                ranked[variant] += 1
