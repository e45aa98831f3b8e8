"""The recorded clicks of a run, and its recorded outcomes in the order of their evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Connection

from models.data.event_kinds import CLICK_KINDS
from streams.database.schema import interactions, outcomes
from streams.prequential.popularity_baseline import Click


class OutcomeRow(NamedTuple):
    """Columns of `outcomes` from which the evaluator's state is computed again."""

    epoch: int
    time: int
    user: str
    seq: int
    target_index: int
    candidates: bytes
    ranks: dict[str, int]
    cold: bool
    history: int
    window: int

    def keys(self) -> NDArray[np.int64]:
        """Return the candidates' item keys, i8 [n]."""
        return np.frombuffer(self.candidates, "<i8")


def recorded_outcomes(connection: Connection, run: str) -> Iterator[OutcomeRow]:
    """Yield the recorded outcomes in the order of their evaluation."""
    o = outcomes.c
    query = sa.select(*(o[name] for name in OutcomeRow._fields)).where(o.run == run).order_by(o.epoch)
    rows = (OutcomeRow(*row) for row in connection.execute(query, execution_options={"yield_per": 1000}))
    for _, of_epoch in groupby(rows, attrgetter("epoch")):
        yield from sorted(of_epoch, key=attrgetter("time", "user", "seq"))


def click_counts(connection: Connection, run: str, epoch: int) -> dict[int, int]:
    """Return the clicks of each item in epochs up to `epoch`."""
    i = interactions.c
    clicked = (i.run == run) & i.kind.in_(CLICK_KINDS) & (i.epoch <= epoch)
    query = sa.select(i.item, sa.func.count()).where(clicked).group_by(i.item)
    return {item: count for item, count in connection.execute(query)}  # noqa: C416 - rows are no pairs to mypy


def clicks_of(connection: Connection, run: str, epoch: int) -> list[Click]:
    """Return the clicks recorded in `epoch`."""
    i = interactions.c
    clicked = (i.run == run) & (i.epoch == epoch) & i.kind.in_(CLICK_KINDS)
    query = sa.select(i.group_time, i.user, i.seq, i.item, i.impression, i.kind).where(clicked)
    return [Click(*row) for row in connection.execute(query)]
