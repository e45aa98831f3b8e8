"""Minibatches: the rows of E that a batch needs, and histories and candidates as indices among those rows.

Histories, windows and candidates of a batch overlap. E is gathered once per batch and gets gradients for those rows
only, so that an update changes no other row.
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
from models.data.repeats import repeats
from models.layers.mlp import PaddedVectors
from models.mc2sf.nets import Inputs, Nets
from models.training.negative_sampling import draw_from_slates, draw_uniform

Ints = NDArray[np.int64]


class Batch(NamedTuple):
    """B clicks. `rows` [R] are rows of E, first padding; the other columns are indices into `rows`, left-padded."""

    rows: Tensor
    history: Tensor  # [B, L_S]
    window: Tensor  # [B, threshold]
    clicks: Tensor  # [B, L_F]
    exposures: Tensor  # [B, L_F]
    items: Tensor  # [B, 1 + N]; column 0 is the click
    item_statistics: Tensor  # [B, 1 + N, 3], of `items` in the epoch of the click
    repeats: Tensor  # f4 [B, 1 + N, 2], of `items` in `history` and in `clicks`

    def inputs(self, nets: Nets, table: Tensor) -> Inputs:
        """Return the nets' inputs from `table` [R, d] = E[rows]. r2 is recomputed with the present GRU_n, as data."""
        with torch.no_grad():
            r2 = nets.encoder.r2(_sequence(table, self.window))
        return Inputs(
            history=_sequence(table, self.history),
            r2=r2,
            clicks=_sequence(table, self.clicks),
            exposures=_sequence(table, self.exposures),
            e=nets.encoder.with_statistics(functional.embedding(self.items, table), self.item_statistics),
            floor=nets.encoder.floor(self.item_statistics),
            repeats=self.repeats.movedim(-1, 0),
        )

    def to(self, device: torch.device) -> Batch:
        """Return the same batch on `device`."""
        return Batch(*(column.to(device) for column in self))

    def share(self, rank: int, world_size: int) -> tuple[Batch, float]:
        """Return every `world_size`-th click, from `rank` on, over the same rows, and its share of the clicks.

        A rank without clicks gets the first one with a share of 0: every process must take part in collectives.
        """
        clicks = slice(rank, None, world_size) if rank < len(self.items) else slice(1)
        part = Batch(self.rows, *(column[clicks] for column in self[1:]))
        return part, len(part.items) / len(self.items) if rank < len(self.items) else 0.0


def _sequence(table: Tensor, indices: Tensor) -> PaddedVectors:
    """Return rows of `table` [R, d] with their mask; index 0 is padding: [B, L] -> [B, L, d]."""
    return PaddedVectors(functional.embedding(indices, table), indices != 0)


@dataclass(frozen=True)
class ClickSource:
    """The clicks of a log, as rows of one catalogue, from which batches are drawn."""

    states: ClickStates
    catalogue: Catalogue
    rows: int  # number of rows of E
    click_rows: Ints
    exposure_rows: Ints
    targets: Ints  # [M]
    not_clicked: Ints  # rows of the non-clicked items of all logged slates
    slate: Ranges  # range of `not_clicked` for each click, empty if its slate has none
    item_statistics: ItemStatisticsByEpoch

    @classmethod
    def from_states(cls, states: ClickStates, catalogue: Catalogue) -> ClickSource:
        """Return the clicks as rows of `catalogue`; items of the log that it lacks become the unknown row."""
        # impressions below 0 are simulated by the replayer from popularity, not what the user was shown
        on_slates = is_negative(states.log) & (states.log.impressions > 0)
        before = np.concatenate([[0], np.cumsum(on_slates)])  # [N + 1] of these before each event
        groups = slates(states)
        return cls(
            states=states,
            catalogue=catalogue,
            rows=catalogue.size,
            click_rows=catalogue.rows(states.click_keys),
            exposure_rows=catalogue.rows(states.exposure_keys),
            targets=catalogue.rows(states.target),
            not_clicked=catalogue.rows(states.log.keys[on_slates]),
            slate=Ranges(before[groups.start], before[groups.end]),
            item_statistics=states.log.item_statistics(catalogue),
        )

    def batch(self, clicks: Ints, generator: np.random.Generator, *, n: int, unknown: float = 0.0) -> Batch:
        """Return `clicks` with `n` negatives each; a share `unknown` of the items becomes the unknown row.

        An item is replaced everywhere in the batch, as history, click and negative, so that the row reveals no labels.
        """
        clicks = clicks[self.by_history(clicks)]
        return self.batch_of(clicks, self.candidates(clicks, generator, n=n), generator, unknown)

    def by_history(self, clicks: Ints) -> Ints:
        """Return the order of `clicks` by the length of their history: the cheapest for `local_attention`."""
        return np.argsort(self.states.history.lengths(clicks, self.states.spec.history_long), kind="stable")

    def candidates(self, clicks: Ints, generator: np.random.Generator, *, n: int) -> Ints:
        """Return the items of `clicks` and `n` negatives each, from their slates or uniform: rows [B, 1 + n]."""
        items = np.empty((len(clicks), 1 + n), np.int64)
        items[:, 0] = self.targets[clicks]
        items[:, 1:] = draw_uniform(generator, items[:, 0], self.rows, n)
        with_slate = np.flatnonzero(self.slate.end[clicks] > self.slate.start[clicks])
        if len(with_slate):
            start, end = self.slate.start[clicks[with_slate]], self.slate.end[clicks[with_slate]]
            items[with_slate, 1:] = draw_from_slates(generator, self.not_clicked, start, end, n)
        return items

    def batch_of(
        self, clicks: Ints, items: Ints, generator: np.random.Generator | None = None, unknown: float = 0.0
    ) -> Batch:
        """Return `clicks` with candidates `items`, rows [B, C]; for `unknown` see `batch`."""
        spec, states = self.states.spec, self.states
        short = spec.history_short
        columns = (
            states.history.gather(self.click_rows, clicks, spec.history_long, ROW_PADDING),
            states.closed.gather(self.exposure_rows, clicks, spec.threshold, ROW_PADDING),
            states.clicks.gather(self.click_rows, clicks, short, ROW_PADDING),
            states.exposures.gather(self.exposure_rows, clicks, short, ROW_PADDING),
            items,
        )
        epochs = np.broadcast_to(states.log.epochs[states.event[clicks], None], items.shape)
        item_statistics = self.item_statistics.buckets_of(items, epochs)  # also of items replaced by the unknown row
        return to_batch(columns, item_statistics, self.rows, generator, unknown)


def to_batch(
    columns: tuple[Ints, ...],
    item_statistics: Buckets,
    size: int,
    generator: np.random.Generator | None,
    unknown: float,
) -> Batch:
    """Return a Batch of history, window, clicks, exposures and items, given as rows of an E of `size` rows.

    Repeats are counted before a share `unknown` of the items is replaced by the unknown row.
    """
    again = [repeats(clicked, columns[-1]) for clicked in (columns[0], columns[2])]
    present = np.zeros(size, bool)
    for rows in columns:
        present[rows] = True
    if generator is not None and unknown:
        replaced = np.flatnonzero(present)
        replaced = replaced[(replaced >= FIRST_ROW) & (generator.random(len(replaced)) < unknown)]
        present[replaced] = False
        present[ROW_UNKNOWN] = True
    present[ROW_PADDING] = True
    used = np.flatnonzero(present)
    index = np.zeros(size, np.int64)
    index[used] = np.arange(len(used))
    if generator is not None and unknown:
        index[replaced] = index[ROW_UNKNOWN]
    history, window, clicks, exposures, items = (torch.from_numpy(index[rows]) for rows in columns)
    buckets = torch.from_numpy(item_statistics.astype(np.int64))
    of_items = buckets, torch.from_numpy(np.stack(again, -1))
    return Batch(torch.from_numpy(used), history, window, clicks, exposures, items, *of_items)
