"""The recorded outcomes of a run, in the order of their evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Connection

from streams.database.schema import outcomes


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
    rows = (OutcomeRow(*row) for row in connection.execution_options(yield_per=1000).execute(query))
    for _, of_epoch in groupby(rows, attrgetter("epoch")):
        yield from sorted(of_epoch, key=attrgetter("time", "user", "seq"))
