"""Predict, score, learn, at each outcome's place in total order: popularity, river, quality, drift.

Everything here is a function of what was judged before. At a start it is made again from the tables, and goes on as
if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from models.data.event_kinds import CLICK_KINDS
from streams.database.schema import interactions, outcomes
from streams.prequential.drift import Drift, Drifts
from streams.prequential.metrics import Quality, Ranked, subsets
from streams.prequential.popularity_baseline import Click, Popularity, units
from streams.prequential.river_baseline import RiverBaseline
from streams.records import Outcome
from streams.settings import Settings


class Judged(NamedTuple):
    """An outcome, the ranks of all variants, and the changes that it revealed."""

    outcome: Outcome
    ranks: dict[str, int]
    drifts: list[Drift]


class Prequential:
    """The variants that need no nets, and the measures of all."""

    def __init__(self, settings: Settings, popularity: Popularity | None = None) -> None:
        self._popularity = popularity or Popularity()
        self._river = RiverBaseline(settings.seed)
        self._drifts = Drifts()
        self.quality = Quality(int(settings.quality_span_s * 1000))

    @classmethod
    def recorded(cls, connection: Connection, settings: Settings, epoch: int) -> Prequential:
        """As it was when `epoch` had been recorded."""
        self = cls(settings, Popularity(click_counts(connection, settings.run, epoch)))
        for row in recorded_outcomes(connection, settings.run):
            candidates = np.frombuffer(row.candidates, "<i8")
            self._river.learn(row.user, candidates, row.target_index)
            where = subsets(cold=row.cold, history=row.history, window=row.window)
            self._measure(Ranked(row.time, len(candidates), where, row.ranks))
        return self

    def epoch(self, clicks: Iterable[Click], judged: dict[tuple[str, int], Outcome]) -> Iterator[Judged]:
        """Judge an epoch's outcomes among its clicks."""
        for unit in units(clicks, judged):
            ranks = [self._predict(outcome) for outcome in unit.judged]
            for outcome, all_ranks in zip(unit.judged, ranks, strict=True):
                yield Judged(outcome, all_ranks, self._measure(ranked(outcome, all_ranks)))
                self._river.learn(outcome.user, outcome.candidates.array(), outcome.target_index)
            self._popularity.learn(unit.clicked)

    def _predict(self, outcome: Outcome) -> dict[str, int]:
        candidates = outcome.candidates.array()
        popularity = self._popularity.rank(candidates, outcome.target_index).rank
        river = self._river.rank(outcome.user, candidates, outcome.target_index).rank
        return {**outcome.ranks, "popularity": popularity, "river": river}

    def _measure(self, outcome: Ranked) -> list[Drift]:
        self.quality.update(outcome)
        return list(self._drifts.update(outcome))


def ranked(outcome: Outcome, ranks: dict[str, int]) -> Ranked:
    """Return the input of the metrics."""
    where = subsets(cold=outcome.cold, history=outcome.history, window=outcome.window)
    return Ranked(outcome.time, outcome.candidates.shape[0], where, ranks)


def click_counts(connection: Connection, run: str, epoch: int) -> dict[int, int]:
    """The clicks of each item in epochs up to `epoch`."""
    i = interactions.c
    some = (i.run == run) & i.kind.in_(CLICK_KINDS) & (i.epoch <= epoch)
    query = sa.select(i.item, sa.func.count()).where(some).group_by(i.item)
    return {item: count for item, count in connection.execute(query)}  # noqa: C416 - rows are no pairs to mypy


def clicks_of(connection: Connection, run: str, epoch: int) -> list[Click]:
    """The clicks recorded in `epoch`."""
    i = interactions.c
    some = (i.run == run) & (i.epoch == epoch) & i.kind.in_(CLICK_KINDS)
    query = sa.select(i.group_time, i.user, i.seq, i.item, i.impression).where(some)
    return [Click(*row) for row in connection.execute(query)]


def recorded_outcomes(connection: Connection, run: str) -> Iterator[sa.Row]:  # type: ignore[type-arg]  # of the columns below
    """The recorded outcomes in the order in which they were judged."""
    o = outcomes.c
    columns = (
        o.recorded_epoch,
        o.epoch,
        o.time,
        o.user,
        o.seq,
        o.target_index,
        o.candidates,
        o.ranks,
        o.cold,
        o.history,
        o.window,
    )
    query = sa.select(*columns).where(o.run == run).order_by(o.recorded_epoch)
    for judged, group in groupby(
        connection.execution_options(yield_per=1000).execute(query), attrgetter("recorded_epoch")
    ):
        rows = list(group)
        yield from sorted((row for row in rows if row.epoch == judged), key=attrgetter("time", "user", "seq"))
        yield from sorted((row for row in rows if row.epoch != judged), key=attrgetter("user", "seq"))
