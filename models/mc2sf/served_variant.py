"""A fitted form as a release would serve it: the same scores, made by the scorer of the stream on its tiles.

Fitting scores many queries at once, and may differ from this in the last bit; what is reported must not.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.data.catalogue import ROW_PADDING
from models.data.queries import Queries
from models.mc2sf.tiled_scorer import Floats, Rows, Scorer
from models.mc2sf.variants import MC2SF, Variant


class ServedVariant:
    """Scores queries by `form` through a `Scorer`; its weights must not change meanwhile."""

    def __init__(self, form: Variant) -> None:
        self._variant = form.served_as
        if isinstance(form, MC2SF) and form.cloud is not None:
            self._scorer = Scorer(form.cloud.nets, {"s2f": form.nets})
        else:
            self._scorer = Scorer(form.nets)

    def __call__(self, queries: Queries, items: Tensor) -> Tensor:
        """Scores [V, C] of `items` [V, C]; 0 on padding."""
        scores = torch.zeros(items.shape)
        history, of = queries.history.numpy(), queries.of.numpy()
        clicks, exposures = queries.clicks.numpy(), queries.exposures.numpy()
        for i, (listed, r2) in enumerate(zip(items.numpy(), self._memories(queries.window.numpy()), strict=True)):
            candidates = _real(listed)
            slow = self._scorer.slow(_real(history[of[i]]), r2, candidates)
            if self._variant in ("din", "f2s"):
                found = getattr(slow, self._variant)
            else:
                fast = self._scorer.fast(_real(clicks[i]), _real(exposures[i]), candidates, slow.r_t, slow.r_n)
                found = getattr(fast, self._variant)
            scores[i, torch.from_numpy(listed != ROW_PADDING)] = torch.from_numpy(found)
        return scores

    def _memories(self, window: Rows) -> Floats:
        """r2 of each query, folded as on the device: rows [V, W], left-padded -> [V, d]."""
        zero = np.zeros((len(window), self._scorer.config.dim), np.float32)
        return self._scorer.encode_exposures(zero, [_real(rows) for rows in window])


def _real(rows: Rows) -> Rows:
    """Without padding."""
    some: Rows = rows[rows != ROW_PADDING]
    return some
