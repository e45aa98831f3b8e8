"""Sampling of evaluated clicks and candidate lists: pure functions of a hash of (seed, user, seq).

Without a random generator, which has a state, every process gets the same lists, in any order and with any numpy.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int64]


class Candidates(NamedTuple):
    """Item keys [m] in list order, the index of the target, and whether the list is cold."""

    keys: Keys
    target_index: int
    cold: bool  # the target is not in the catalogue, or the catalogue is too small for all negatives


def evaluated(seed: int, user: str, seq: int, share: float) -> bool:
    """Return True if click `seq` of `user` is ranked: a `share` of all clicks, a subset of any higher share."""
    return share > 0 and int.from_bytes(_digest("evaluated", seed, user, seq, 8), "little") < share * 2**64


def sampled(seed: int, user: str, seq: int, keys: Keys, target: int, n: int) -> Candidates:
    """Return `target` with `n` other items drawn without replacement from the catalogue's `keys`, shuffled."""
    available = len(keys) - int(np.count_nonzero(keys == target))
    known = available < len(keys)
    if available <= 4 * n:
        others = keys[keys != target]
        negatives = others[np.argsort(_chance("sampled", seed, user, seq, available), kind="stable")[:n]]
    else:
        draws, negatives = 2 * n + 32, np.empty(0, np.int64)
        while len(negatives) < n:  # almost always once; more draws extend the same sequence
            drawn = keys[(_chance("sampled", seed, user, seq, draws) % np.uint64(len(keys))).astype(np.int64)]
            drawn = drawn[drawn != target]
            _, first = np.unique(drawn, return_index=True)
            negatives = drawn[np.sort(first)[:n]]
            draws *= 2
    return _shuffled(seed, user, seq, negatives, target, cold=not known or len(negatives) < n)


def slate(seed: int, user: str, seq: int, keys: Keys, target: int, *, cold: bool = False) -> Candidates:
    """Return the items shown with `target` (whose key may be among `keys`), each once, shuffled by the same hash.

    The caller leaves out the impression's other clicks, and sets `cold` if the catalogue lacks the target.
    """
    others = np.unique(np.asarray(keys, np.int64))  # sorted: the order of the log must not reveal the target
    return _shuffled(seed, user, seq, others[others != target], target, cold=cold)


def _shuffled(seed: int, user: str, seq: int, negatives: Keys, target: int, *, cold: bool) -> Candidates:
    """Return negatives and target in the order of a hash."""
    listed = np.append(negatives, np.int64(target))
    order = np.argsort(_chance("shuffled", seed, user, seq, len(listed)), kind="stable")
    return Candidates(listed[order], int(np.flatnonzero(order == len(negatives))[0]), cold)


def _chance(purpose: str, seed: int, user: str, seq: int, n: int) -> NDArray[np.uint64]:
    """Return `n` uniform 64-bit numbers; a larger `n` continues the same sequence."""
    return np.frombuffer(_digest(purpose, seed, user, seq, 8 * n), dtype="<u8")


def _digest(purpose: str, seed: int, user: str, seq: int, size: int) -> bytes:
    """Return `size` bytes of a hash; a change of the purpose strings would change every result."""
    return hashlib.shake_128(f"{purpose}\0{seed}\0{user}\0{seq}".encode()).digest(size)
