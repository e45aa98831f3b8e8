"""Scoring of a fitted variant by the stream's tiled scorer.

Training scores many queries in one matrix product, whose results may differ from serving in the last bit. Reported
results must equal those of serving.
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
        history, history_index = queries.history.numpy(), queries.history_index.numpy()
        clicks, exposures = queries.clicks.numpy(), queries.exposures.numpy()
        r2 = self._r2(queries.window.numpy())
        slow_queries = [
            SlowQuery(_unpadded(history[history_index[i]]), r2[i], _unpadded(candidates))
            for i, candidates in enumerate(items.numpy())
        ]
        answers: Sequence[SlowAnswer | FastAnswer] = (priors := self._scorer.slow_many(slow_queries))
        if self._name not in ("din", "f2s"):
            answers = self._scorer.fast_many(
                [
                    FastQuery(
                        _unpadded(clicks[i]),
                        _unpadded(exposures[i]),
                        query.candidates,
                        slow.r_t,
                        slow.r_n,
                        f2s=slow.f2s,
                    )
                    for i, (query, slow) in enumerate(zip(slow_queries, priors, strict=True))
                ]
            )
        for row, candidates, answer in zip(scores, items, answers, strict=True):
            row[candidates != ROW_PADDING] = torch.from_numpy(getattr(answer, self._name))
        return scores

    def _r2(self, window: Rows) -> Floats:
        """Return r2 of each query, as the device computes it: rows [V, W], left-padded -> [V, d]."""
        zero = np.zeros((len(window), self._scorer.config.dim), np.float32)
        return self._scorer.encode_exposures(zero, [_unpadded(rows) for rows in window])


def _unpadded(rows: Rows) -> Rows:
    """Return rows without padding."""
    unpadded: Rows = rows[rows != ROW_PADDING]
    return unpadded
