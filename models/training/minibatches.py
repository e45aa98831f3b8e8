"""From folded clicks to tensors: the rows of E that a batch needs, and everything else as places among those rows.

Histories, windows and candidates of a batch overlap much. E is gathered once a batch, the gradient comes back for
those rows alone, and so an update touches no other row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.data.catalogue import FIRST_ROW, ROW_PADDING, ROW_UNKNOWN, Catalogue
from models.data.interaction_log import ClickStates, is_negative, slates
from models.data.item_statistics import Buckets, ItemStatisticsByEpoch
from models.data.ranges import Ranges
from models.layers.mlp import PaddedVectors
from models.mc2sf.nets import Inputs, Nets
from models.training.negative_sampling import draw_from_slates, draw_uniform

Ints = NDArray[np.int64]


class Batch(NamedTuple):
    """B clicks. `rows` [R] are rows of E, the first of them padding; the others are places in `rows`, left-padded."""

    rows: Tensor
    history: Tensor  # [B, L_S]
    window: Tensor  # [B, threshold]
    clicks: Tensor  # [B, L_F]
    exposures: Tensor  # [B, L_F]
    items: Tensor  # [B, 1 + N]; column 0 is the click
    standing: Tensor  # [B, 1 + N, 3], of `items` in the epoch of the click

    def inputs(self, nets: Nets, table: Tensor) -> Inputs:
        """The vectors, from `table` [R, d] = E[rows]. r2 is recomputed with the present GRU_n, as data."""
        with torch.no_grad():
            r2 = nets.encoder.r2(_sequence(table, self.window))
        return Inputs(
            history=_sequence(table, self.history),
            r2=r2,
            clicks=_sequence(table, self.clicks),
            exposures=_sequence(table, self.exposures),
            e=nets.encoder.with_statistics(functional.embedding(self.items, table), self.standing),
        )

    def share(self, rank: int, world: int) -> tuple[Batch, float]:
        """Every `world`-th click, from `rank` on, over the same rows; and its share of the clicks.

        Where no click is left, the first one and a share of 0: a process must not stay away from an exchange.
        """
        some = slice(rank, None, world) if rank < len(self.items) else slice(1)
        part = Batch(self.rows, *(places[some] for places in self[1:]))
        return part, len(part.items) / len(self.items) if rank < len(self.items) else 0.0


def _sequence(table: Tensor, places: Tensor) -> PaddedVectors:
    return PaddedVectors(functional.embedding(places, table), places != 0)


@dataclass(frozen=True)
class ClickSource:
    """The clicks of a log, ready to be drawn as batches in rows of one catalogue."""

    folded: ClickStates
    rows: int  # of E
    click_rows: Ints
    exposure_rows: Ints
    targets: Ints  # [M]
    losers: Ints  # rows of the non-clicked items of all slates that were logged
    slate: Ranges  # of each click in `losers`, empty where its slate has none
    standings: ItemStatisticsByEpoch

    @classmethod
    def of(cls, folded: ClickStates, catalogue: Catalogue) -> ClickSource:
        """`catalogue` should hold every item of the log; others become the unknown row."""
        # a negative impression is the replayer's own: its exposures say what is popular, and not what was refused
        losing = is_negative(folded.log) & (folded.log.impressions > 0)
        before = np.concatenate([[0], np.cumsum(losing)])
        units = slates(folded)
        return cls(
            folded=folded,
            rows=catalogue.size,
            click_rows=catalogue.rows(folded.click_keys),
            exposure_rows=catalogue.rows(folded.exposure_keys),
            targets=catalogue.rows(folded.target),
            losers=catalogue.rows(folded.log.keys[losing]),
            slate=Ranges(before[units.start], before[units.end]),
            standings=folded.log.item_statistics(catalogue),
        )

    def batch(self, some: Ints, generator: np.random.Generator, *, n: int, unknown: float = 0.0) -> Batch:
        """Clicks `some` with `n` negatives each; a share `unknown` of its items is replaced by the unknown row.

        An item is replaced everywhere in the batch, as history, click or negative: so the row says nothing of labels.
        """
        spec, folded = self.folded.spec, self.folded
        some = some[
            np.argsort(folded.history.length(some, spec.history_long), kind="stable")
        ]  # cheapest: activation.py
        items = np.empty((len(some), 1 + n), np.int64)
        items[:, 0] = self.targets[some]
        items[:, 1:] = draw_uniform(generator, items[:, 0], self.rows, n)
        shown = np.flatnonzero(self.slate.end[some] > self.slate.start[some])
        if len(shown):
            start, end = self.slate.start[some[shown]], self.slate.end[some[shown]]
            items[shown, 1:] = draw_from_slates(generator, self.losers, start, end, n)
        short = spec.history_short
        of = (
            folded.history.gather(self.click_rows, some, spec.history_long, ROW_PADDING),
            folded.closed.gather(self.exposure_rows, some, spec.threshold, ROW_PADDING),
            folded.clicks.gather(self.click_rows, some, short, ROW_PADDING),
            folded.exposures.gather(self.exposure_rows, some, short, ROW_PADDING),
            items,
        )
        epochs = np.broadcast_to(folded.log.epochs[folded.event[some], None], items.shape)
        standing = self.standings.of(items, epochs)  # of the item itself, also where it is replaced by the unknown row
        return localise(of, standing, self.rows, generator, unknown)


def localise(
    of: tuple[Ints, ...], standing: Buckets, size: int, generator: np.random.Generator, unknown: float
) -> Batch:
    """A Batch of history, window, clicks, exposures and items as rows of an E of `size` rows, and as they stand."""
    present = np.zeros(size, bool)
    for rows in of:
        present[rows] = True
    if unknown:
        replaced = np.flatnonzero(present)
        replaced = replaced[(replaced >= FIRST_ROW) & (generator.random(len(replaced)) < unknown)]
        present[replaced] = False
        present[ROW_UNKNOWN] = True
    present[ROW_PADDING] = True
    used = np.flatnonzero(present)
    place = np.zeros(size, np.int64)
    place[used] = np.arange(len(used))
    if unknown:
        place[replaced] = place[ROW_UNKNOWN]
    history, window, clicks, exposures, items = (torch.from_numpy(place[rows]) for rows in of)
    stands = torch.from_numpy(standing.astype(np.int64))
    return Batch(torch.from_numpy(used), history, window, clicks, exposures, items, stands)
