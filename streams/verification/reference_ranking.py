"""The evaluation in plain Python, from its definitions: ranked clicks, candidate lists, ranks and metrics.

It shares no code with `models.evaluation.candidates` and `models.evaluation.metrics`, but must give the same results.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

EXPOSURE, CLICK, CANDIDATE, PAST_CLICK = 0, 1, 2, 3  # kinds of events in `interactions`


class CandidateList(NamedTuple):
    """Item keys in the order shown, and the index of the target. `cold`: the list does not follow the rule."""

    keys: list[int]
    target_index: int
    cold: bool


def numbers(purpose: str, seed: int, user: str, seq: int, n: int) -> list[int]:
    """Return the first n 64-bit numbers of the hash of (purpose, seed, user, seq)."""
    data = hashlib.shake_128(f"{purpose}\0{seed}\0{user}\0{seq}".encode()).digest(8 * n)
    return [int.from_bytes(data[i : i + 8], "little") for i in range(0, 8 * n, 8)]


def evaluated(seed: int, user: str, seq: int, share: float) -> bool:
    """Return True if a click is ranked."""
    return numbers("evaluated", seed, user, seq, 1)[0] < share * 2**64


def sampled(seed: int, user: str, seq: int, catalogue: Sequence[int], target: int, n: int) -> CandidateList:
    """Return the target and n others of the catalogue: the smallest hashes of a small one, else drawn ones."""
    others = [key for key in catalogue if key != target]
    if len(others) <= 4 * n:
        drawn = numbers("sampled", seed, user, seq, len(others))
        negatives = [others[i] for i in sorted(range(len(others)), key=drawn.__getitem__)[:n]]
    else:
        draws, negatives = 2 * n + 32, []
        while len(negatives) < n:
            drawn_keys = [catalogue[i % len(catalogue)] for i in numbers("sampled", seed, user, seq, draws)]
            negatives = list(dict.fromkeys(key for key in drawn_keys if key != target))[:n]
            draws *= 2
    cold = len(others) == len(catalogue) or len(negatives) < n
    return _shuffled(seed, user, seq, negatives, target, cold=cold)


def slate(seed: int, user: str, seq: int, shown: Sequence[int], target: int, *, cold: bool) -> CandidateList:
    """Return the target and the other items of its slate."""
    return _shuffled(seed, user, seq, sorted(set(shown) - {target}), target, cold=cold)


def _shuffled(seed: int, user: str, seq: int, negatives: list[int], target: int, *, cold: bool) -> CandidateList:
    keys = [*negatives, target]
    drawn = numbers("shuffled", seed, user, seq, len(keys))
    order = sorted(range(len(keys)), key=drawn.__getitem__)
    return CandidateList([keys[i] for i in order], order.index(len(negatives)), cold)


def rank(scores: Sequence[float], target_index: int) -> int:
    """Return the rank, from 1, of the item at `target_index`: ties by index, scores that are not finite last."""
    if not math.isfinite(scores[target_index]):
        return len(scores)
    finite = [i for i in range(len(scores)) if math.isfinite(scores[i])]
    return sorted(finite, key=lambda i: (-scores[i], i)).index(target_index) + 1


def means(ranks: Sequence[int]) -> dict[str, float]:
    """Return HR@{1,5,10}, NDCG@{5,10} and MRR."""
    n = len(ranks)
    values = {f"hr@{k}": math.fsum(r <= k for r in ranks) / n for k in (1, 5, 10)}
    values |= {f"ndcg@{k}": math.fsum(float(1 / np.log2(r + 1.0)) for r in ranks if r <= k) / n for k in (5, 10)}
    return values | {"mrr": math.fsum(1 / r for r in ranks) / n}
