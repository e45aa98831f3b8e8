"""Popularity and river once more over the recorded log: their ranks, from the tables alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from streams.database.schema import interactions, outcomes
from streams.prequential.evaluator import clicks_of
from streams.prequential.popularity_baseline import Click, Popularity, units
from streams.prequential.river_baseline import RiverBaseline
from streams.settings import Settings

Key = tuple[str, int]  # user, seq


def replayed(connection: Connection, settings: Settings, until: int | None = None) -> dict[Key, dict[str, int]]:
    """The two variants' ranks of each recorded click, up to event time `until`, learnt in total order."""
    popularity, river = Popularity(), RiverBaseline(settings.seed)
    found: dict[Key, dict[str, int]] = {}
    for clicks, judged in _epochs(connection, settings.run, until):
        for unit in units(clicks, judged):
            asked = [(row, np.frombuffer(row.candidates, "<i8")) for row in unit.judged]
            for row, candidates in asked:
                ranks = (
                    popularity.rank(candidates, row.target_index),
                    river.rank(row.user, candidates, row.target_index),
                )
                found[row.user, row.seq] = {"popularity": ranks[0].rank, "river": ranks[1].rank}
            for row, candidates in asked:
                river.learn(row.user, candidates, row.target_index)
            popularity.learn(unit.clicked)
    return found


def _epochs(connection: Connection, run: str, until: int | None) -> Iterator[tuple[list[Click], dict[Key, sa.Row]]]:  # type: ignore[type-arg]  # of the columns below
    """Each epoch's clicks, and the outcomes that were judged with them."""
    o, i = outcomes.c, interactions.c
    last = connection.execute(sa.select(sa.func.max(i.epoch)).where(i.run == run)).scalar_one()
    some = (o.run == run) if until is None else (o.run == run) & (o.time <= until)
    for epoch in range(-1 if last is None else last + 1):
        query = sa.select(o.recorded_epoch, o.user, o.seq, o.target_index, o.candidates).where(
            some & (o.recorded_epoch == epoch)
        )
        yield clicks_of(connection, run, epoch), {(row.user, row.seq): row for row in connection.execute(query)}
