"""The nets' scores of one list without tiles or padding: the equations as `models.nets` has them, in one call."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.layers import Sequence
from models.nets import Nets
from models.scorer import SlowAnswer

Rows = NDArray[np.int64]


@torch.inference_mode()
def scores(
    nets: Nets, history: Rows, window: Rows, clicks: Rows, exposures: Rows, candidates: Rows, slow: SlowAnswer
) -> dict[str, NDArray[np.float32]]:
    """din, f2s, fast and mc2sf, f4 [n]; the fast nets get the 16-bit priors of `slow`, as they travelled."""
    E = nets.encoder.E.detach()

    def sequence(rows: Rows) -> Sequence:
        if not len(rows):  # nothing, as the nets take it
            return Sequence(torch.zeros(1, 1, nets.config.dim), torch.zeros(1, 1, dtype=torch.bool))
        return Sequence(E[torch.from_numpy(rows)][None], torch.ones(1, len(rows), dtype=torch.bool))

    def travelled(prior: NDArray[np.float16]) -> Tensor:
        return torch.from_numpy(prior.astype(np.float32))[None]

    e = E[torch.from_numpy(candidates)][None]
    r2 = torch.zeros(1, nets.config.dim)
    for row in window.tolist():
        r2 = nets.encoder.gru_n.step(E[row][None], r2)
    r_t, r_n = nets.priors(sequence(history), r2, e)
    short = nets.encoder.gru_n, sequence(clicks), sequence(exposures)
    found = {
        "din": nets.slow.score_din(r_t, e),
        "f2s": nets.slow.score_f2s(r_n, r_t, e),
        "fast": nets.fast.score_fast(nets.fast.from_zero(*short), e),
        "mc2sf": nets.fast.score_s2f(*short, e, travelled(slow.r_t), travelled(slow.r_n)),
    }
    return {name: values[0].numpy() for name, values in found.items()}
