"""The nets' scores of one list without tiles or padding: the equations as `models.mc2sf.nets` has them, in one call."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.item_statistics import Buckets
from models.layers.gru import RecurrentCell
from models.layers.mlp import PaddedVectors
from models.mc2sf.nets import STANDALONE, Nets
from models.mc2sf.tiled_scorer import SlowAnswer
from streams.releases.release import Release

Rows = NDArray[np.int64]


@torch.inference_mode()
def scores(
    release: Release,
    history: Rows,
    window: Rows,
    clicks: Rows,
    exposures: Rows,
    candidates: Rows,
    standing: Buckets,
    slow: SlowAnswer,
) -> dict[str, NDArray[np.float32]]:
    """din, f2s, fast and mc2sf, f4 [n]; the fast nets get the 16-bit priors of `slow`, as they travelled."""
    nets = release.nets
    din, alone, s2f = (release.standalone.get(form, nets) for form in STANDALONE)

    def vectors(of: Nets, rows: Rows) -> Tensor:
        return of.encoder.E.detach()[torch.from_numpy(rows)][None]

    def listed(of: Nets) -> Tensor:
        stands = torch.from_numpy(standing.astype(np.int64))[None]
        return vectors(of, candidates) + sum(of.encoder.standing[i][stands[..., i]] for i in range(stands.shape[-1]))

    def sequence(of: Nets, rows: Rows) -> PaddedVectors:
        if not len(rows):  # nothing, as the nets take it
            return PaddedVectors(torch.zeros(1, 1, nets.config.dim), torch.zeros(1, 1, dtype=torch.bool))
        return PaddedVectors(vectors(of, rows), torch.ones(1, len(rows), dtype=torch.bool))

    def short(of: Nets) -> tuple[RecurrentCell, PaddedVectors, PaddedVectors]:
        return of.encoder.gru_n, sequence(of, clicks), sequence(of, exposures)

    def travelled(prior: NDArray[np.float16]) -> Tensor:
        return torch.from_numpy(prior.astype(np.float32))[None]

    e = listed(nets)
    r2 = torch.zeros(1, nets.config.dim)
    for x in vectors(nets, window)[0]:
        r2 = nets.encoder.gru_n.step(x[None], r2)
    r_t, r_n = nets.priors(sequence(nets, history), r2, e)
    of_din = sequence(din, history)
    own_r_t = din.slow.din(of_din.x, of_din.mask, listed(din))
    priors = travelled(slow.r_t), travelled(slow.r_n)
    found = {
        "din": din.slow.score_din(own_r_t, listed(din)),
        "f2s": nets.slow.score_f2s(r_n, r_t, e),
        "fast": alone.fast.score_fast(alone.fast.from_zero(*short(alone)), listed(alone)),
        "mc2sf": s2f.fast.score_s2f(*short(s2f), listed(s2f), *priors),
    }
    return {name: values[0].numpy() for name, values in found.items()}
