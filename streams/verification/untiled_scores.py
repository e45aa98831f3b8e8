"""The nets' scores of one list of candidates without tiles or padding, by the equations of `models.mc2sf.nets`."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.catalogue import ROW_PADDING, ROW_UNKNOWN
from models.data.item_statistics import Buckets
from models.layers.gru import RecurrentCell
from models.layers.mlp import PaddedVectors
from models.mc2sf.nets import STANDALONE, Nets
from models.mc2sf.stacking import DECAY
from models.mc2sf.tiled_scorer import SlowAnswer
from streams.releases.release import Release

Rows = NDArray[np.int64]


@torch.inference_mode()
def scores(
    release: Release,
    history: Rows,
    r2_items: Rows,
    clicks: Rows,
    exposures: Rows,
    candidates: Rows,
    buckets: Buckets,
    slow: SlowAnswer,
    near: tuple[Rows, Rows],
) -> dict[str, NDArray[np.float32]]:
    """Return the scores din, f2s, fast and mc2sf, f4 [n]. The fast nets receive the 16-bit priors of `slow`.

    `near` are the rows of clicks and candidates among the item neighbours.
    """
    nets = release.nets
    din, alone, s2f = (release.standalone.get(name, nets) for name in STANDALONE)

    def vectors(nets: Nets, rows: Rows) -> Tensor:
        return nets.encoder.E.detach()[torch.from_numpy(rows)][None]

    def candidate_vectors(nets: Nets) -> Tensor:
        by_feature = torch.from_numpy(buckets.astype(np.int64)).T
        tables = zip(nets.encoder.standing, by_feature, strict=True)
        return vectors(nets, candidates) + torch.stack([table[bucket] for table, bucket in tables]).sum(0)

    def sequence(nets: Nets, rows: Rows) -> PaddedVectors:
        if not len(rows):  # an empty sequence, as the nets expect it
            return PaddedVectors(torch.zeros(1, 1, nets.config.dim), torch.zeros(1, 1, dtype=torch.bool))
        return PaddedVectors(vectors(nets, rows), torch.ones(1, len(rows), dtype=torch.bool))

    def short_histories(nets: Nets) -> tuple[RecurrentCell, PaddedVectors, PaddedVectors]:
        return nets.encoder.gru_n, sequence(nets, clicks), sequence(nets, exposures)

    def full_precision(prior: NDArray[np.float16]) -> Tensor:
        return torch.from_numpy(prior.astype(np.float32))[None]

    e = candidate_vectors(nets)
    r2 = torch.zeros(1, nets.config.dim)
    for x in vectors(nets, r2_items)[0]:
        r2 = nets.encoder.gru_n.step(x[None], r2)
    r_t, r_n = nets.priors(sequence(nets, history), r2, e)
    history_of_din = sequence(din, history)
    r_t_of_din = din.slow.din(history_of_din.x, history_of_din.mask, candidate_vectors(din))
    priors = full_precision(slow.r_t), full_precision(slow.r_n)
    fast = _add_floor(
        alone,
        2,
        buckets,
        _repeats(clicks[-alone.config.history_short :], candidates),
        alone.fast.score_fast(alone.fast.from_zero(*short_histories(alone)), candidate_vectors(alone)),
    )
    again = _repeats(clicks[-s2f.config.history_short :], candidates)
    mc2sf = _add_floor(
        s2f, 3, buckets, again, s2f.fast.score_s2f(*short_histories(s2f), candidate_vectors(s2f), *priors)
    )
    if s2f.config.stacked:
        last_clicks, near_candidates = near[0][-s2f.config.history_short :].tolist(), near[1].tolist()
        mc2sf = _stacked(s2f, (mc2sf, fast, torch.from_numpy(slow.f2s)), last_clicks, near_candidates)
    again = _repeats(history[-nets.config.history_long :], candidates)
    logits = {
        "din": _add_floor(din, 0, buckets, again, din.slow.score_din(r_t_of_din, candidate_vectors(din))),
        "f2s": _add_floor(nets, 1, buckets, again, nets.slow.score_f2s(r_n, r_t, e)),
        "fast": fast,
        "mc2sf": mc2sf,
    }
    return {name: values[0].numpy() for name, values in logits.items()}


def _repeats(clicks: Rows, candidates: Rows) -> Tensor:
    """Return log(1 + how often each known candidate [n] was clicked), [1, n]."""
    counts = Counter(row for row in clicks.tolist() if row not in (ROW_PADDING, ROW_UNKNOWN))
    return torch.tensor([[math.log1p(counts[row]) for row in candidates.tolist()]])


def _add_floor(nets: Nets, net: int, buckets: Buckets, repeats: Tensor, score: Tensor) -> Tensor:
    """Return the logits of net number `net` [1, n]: popularity, and repeats and `score` by their weights."""
    if not nets.config.floor:
        return score
    indices = torch.from_numpy(buckets.astype(np.int64)).T
    by_feature = [scores.gather(0, index) for scores, index in zip(nets.encoder.popularity, indices, strict=True)]
    return nets.encoder.gains[net] * score + torch.stack(by_feature).sum(0) + nets.encoder.repeats[net] * repeats


def _stacked(nets: Nets, scores: tuple[Tensor, ...], clicks: list[int], candidates: list[int]) -> Tensor:
    """Return mc2sf [1, n] from the scores of S2F, fast alone and F2S, and the neighbours of each click."""
    *weights_of_scores, w_ease, w_transitions = nets.fast.stack.tolist()
    affinity = [0.0] * len(candidates)
    for age, click in enumerate(reversed(clicks)):
        rows, weights = nets.fast.neighbours.rows[click].tolist(), nets.fast.neighbours.weights[click].tolist()
        neighbours = {row: w_ease * e + w_transitions * t for row, (e, t) in zip(rows, weights, strict=True) if row}
        for i, candidate in enumerate(candidates):
            affinity[i] += DECAY**age * neighbours.get(candidate, 0.0)
    weighted = (weight * score.double() for weight, score in zip(weights_of_scores, scores, strict=True))
    return sum(weighted, torch.tensor(affinity)).float().view(1, -1)
