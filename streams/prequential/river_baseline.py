"""The variant `river`: river's biased matrix factorisation, learnt online on the candidates that all variants rank.

Its initial latent vectors are a hash of (seed, user or item), not drawn at first use. So its state depends only on what
it has learnt, not on what it has predicted: after a restart it learns again from the recorded outcomes, without
predicting a second time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from models.evaluation.metrics import Rank, rank
from streams.prequential.river import BiasedMF, optim

FACTORS = 10
NEGATIVES = 4  # per outcome, learnt as 0; the click is learnt as 1
RATE = 0.025
SIGMA = 0.1


class _Latents(dict[Hashable, NDArray[np.float64]]):
    """Latent vectors; a missing one is computed as a hash of its key, with standard deviation SIGMA."""

    def __init__(self, seed: int, side: str) -> None:
        super().__init__()
        self._prefix = f"river\0{seed}\0{side}\0"

    def __missing__(self, key: Hashable) -> NDArray[np.float64]:
        digest = hashlib.shake_128(f"{self._prefix}{key}".encode()).digest(4 * FACTORS)
        uniform = np.frombuffer(digest, "<u4") / 2**32 - 0.5
        vector: NDArray[np.float64] = uniform * (SIGMA * np.sqrt(12))
        self[key] = vector
        return vector


class RiverBaseline:
    """river's BiasedMF. Rank the candidates of an outcome first, then learn it."""

    def __init__(self, seed: int) -> None:
        sgd = optim.SGD(RATE)
        self._model = BiasedMF(n_factors=FACTORS, bias_optimizer=sgd, latent_optimizer=sgd, seed=seed)
        self._model.u_latents = _Latents(seed, "user")
        self._model.i_latents = _Latents(seed, "item")

    def rank(self, user: str, candidates: NDArray[np.int64], target_index: int) -> Rank:
        """Return the rank of the candidate at `target_index`."""
        predict = self._model.predict_one
        return rank([predict(user, key) for key in candidates.tolist()], target_index)

    def learn(self, user: str, candidates: NDArray[np.int64], target_index: int) -> None:
        """Learn the candidate at `target_index` as 1 and the first others as 0: the list is shuffled by a hash."""
        keys = candidates.tolist()
        target = keys.pop(target_index)
        self._model.learn_one(user, target, 1.0)
        for key in keys[:NEGATIVES]:
            self._model.learn_one(user, key, 0.0)
