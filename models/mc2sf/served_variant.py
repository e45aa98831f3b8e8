"""Scoring of a fitted variant by the stream's tiled scorer.

The scores of training, which scores many queries in one matrix product, may differ from serving in the last bit.
Reported results must equal those of serving.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.data.catalogue import ROW_PADDING
from models.data.queries import Queries
from models.mc2sf.tiled_scorer import FastAnswer, FastQuery, Floats, Rows, Scorer, SlowAnswer, SlowQuery
from models.mc2sf.variants import MC2SF, Variant


class ServedVariant:
    """Scores queries by a variant through a `Scorer`; the weights must not change while it is in use."""

    def __init__(self, variant: Variant) -> None:
        self._name = variant.served_as
        if isinstance(variant, MC2SF) and variant.cloud is not None:
            self._scorer = Scorer(variant.cloud.nets, {"s2f": variant.nets})
        else:
            self._scorer = Scorer(variant.nets)

    def __call__(self, queries: Queries, items: Tensor) -> Tensor:
        """Return scores [V, C] of `items` [V, C]; 0 on padding."""
        scores = torch.zeros(items.shape)
        history, of = queries.history.numpy(), queries.of.numpy()
        clicks, exposures = queries.clicks.numpy(), queries.exposures.numpy()
        states = self._r2(queries.window.numpy())
        asked = [
            SlowQuery(_real(history[of[i]]), r2, _real(listed))
            for i, (listed, r2) in enumerate(zip(items.numpy(), states, strict=True))
        ]
        found: Sequence[SlowAnswer | FastAnswer] = (answers := self._scorer.slow_many(asked))
        if self._name not in ("din", "f2s"):
            found = self._scorer.fast_many(
                [
                    FastQuery(_real(clicks[i]), _real(exposures[i]), query.candidates, slow.r_t, slow.r_n, f2s=slow.f2s)
                    for i, (query, slow) in enumerate(zip(asked, answers, strict=True))
                ]
            )
        for row, listed, answer in zip(scores, items, found, strict=True):
            row[listed != ROW_PADDING] = torch.from_numpy(getattr(answer, self._name))
        return scores

    def _r2(self, window: Rows) -> Floats:
        """Return r2 of each query, as the device computes it: rows [V, W], left-padded -> [V, d]."""
        zero = np.zeros((len(window), self._scorer.config.dim), np.float32)
        return self._scorer.encode_exposures(zero, [_real(rows) for rows in window])


def _real(rows: Rows) -> Rows:
    """Return rows without padding."""
    some: Rows = rows[rows != ROW_PADDING]
    return some
