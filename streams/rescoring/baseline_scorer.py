"""Ranks of the baselines popularity and river, computed again from the tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Connection

from streams.database.schema import interactions, outcomes
from streams.prequential.popularity_baseline import Click, Popularity, impression_groups
from streams.prequential.recorded import clicks_of
from streams.prequential.river_baseline import RiverBaseline
from streams.settings import Settings

Key = tuple[str, int]  # user, seq


class _Candidates(NamedTuple):
    """The candidates of a recorded outcome."""

    user: str
    seq: int
    target_index: int
    keys: NDArray[np.int64]


def baseline_ranks(connection: Connection, settings: Settings, until: int | None = None) -> dict[Key, dict[str, int]]:
    """Return the baselines' ranks of each recorded click up to event time `until`; they learn in total order."""
    popularity, river = Popularity(), RiverBaseline(settings.seed)
    ranks: dict[Key, dict[str, int]] = {}
    for clicks, recorded in _epochs(connection, settings.run, until):
        for group in impression_groups(clicks, recorded):
            for user, seq, target_index, keys in group.outcomes:
                by_popularity, by_river = popularity.rank(keys, target_index), river.rank(user, keys, target_index)
                ranks[user, seq] = {"popularity": by_popularity.rank, "river": by_river.rank}
            for user, _, target_index, keys in group.outcomes:
                river.learn(user, keys, target_index)
            popularity.learn(group.clicked)
    return ranks


def _epochs(
    connection: Connection, run: str, until: int | None
) -> Iterator[tuple[list[Click], dict[Key, _Candidates]]]:
    """Yield each epoch's clicks and outcomes."""
    o, i = outcomes.c, interactions.c
    last = connection.execute(sa.select(sa.func.max(i.epoch)).where(i.run == run)).scalar_one()
    selected = (o.run == run) if until is None else (o.run == run) & (o.time <= until)
    for epoch in range(-1 if last is None else last + 1):
        query = sa.select(o.user, o.seq, o.target_index, o.candidates).where(selected & (o.epoch == epoch))
        rows = connection.execute(query)
        ranked = [_Candidates(user, seq, index, np.frombuffer(data, "<i8")) for user, seq, index, data in rows]
        yield clicks_of(connection, run, epoch), {(each.user, each.seq): each for each in ranked}
