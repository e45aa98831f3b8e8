"""Ranks by popularity, recomputed: the number of clicks in all earlier impression groups, in total order."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from streams.database import schema
from streams.verification.differences import require_equal
from streams.verification.reference_ranking import CLICK, PAST_CLICK, rank


def check(connection: Connection, run: str, epochs: int) -> None:
    """Compare the recorded ranks of epochs 0 to `epochs` - 1. Raises DifferenceFound."""
    i, o = schema.interactions.c, schema.outcomes.c
    counts: Counter[int] = Counter()
    for epoch in range(epochs):
        clicked = (i.run == run) & (i.epoch == epoch) & i.kind.in_([CLICK, PAST_CLICK])
        clicks = sorted(connection.execute(sa.select(i.group_time, i.user, i.seq, i.item, i.impression).where(clicked)))
        query = sa.select(o.user, o.seq, o.target_index, o.candidates, o.ranks).where(o.run == run, o.epoch == epoch)
        outcomes = {(row.user, row.seq): row for row in connection.execute(query)}
        for _, of_group in groupby(clicks, lambda click: (click[0], click[1], click[4] or -1 - click[2])):
            group = list(of_group)
            for _, user, seq, _, _ in group:
                if (row := outcomes.get((user, seq))) is not None:
                    scores = [counts[key] for key in np.frombuffer(row.candidates, "<i8").tolist()]
                    recomputed = rank(scores, row.target_index)
                    require_equal(user, f"seq {seq}", "rank by popularity", row.ranks["popularity"], recomputed)
            counts.update(item for _, _, _, item, _ in group)
