"""The device's arithmetic: GRU_n over exposures, put off until those of a whole batch of users can be done together.

`Scorer.encode_exposures` works on tiles of one shape, so a state depends neither on the other users of the batch nor
on how the events were cut into batches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np

from models.data.catalogue import Catalogue
from models.mc2sf.tiled_scorer import Scorer


class Fold:
    """GRU_n over `keys` from `start` on (bytes of f4 [d], empty for zero), under a release; `value` once computed."""

    __slots__ = ("keys", "release", "start", "value")

    def __init__(self, start: Fold | bytes, keys: list[int], release: int) -> None:
        self.start, self.keys, self.release = start, keys, release
        self.value: bytes | None = None


def value(memory: Fold | bytes) -> bytes:
    """The bytes of a memory whose folds are computed."""
    if isinstance(memory, bytes):
        return memory
    assert memory.value is not None
    return memory.value


def compute(wanted: Iterable[Fold | bytes], nets: Callable[[int], tuple[Scorer, Catalogue]]) -> None:
    """Give each wanted fold, and those that it starts from, its value. `nets` are those of a release."""
    left: dict[int, Fold] = {}
    for memory in wanted:
        fold = memory
        while isinstance(fold, Fold) and fold.value is None and id(fold) not in left:
            left[id(fold)] = fold
            fold = fold.start
    while left:
        ready: defaultdict[int, list[Fold]] = defaultdict(list)
        for fold in left.values():
            if isinstance(fold.start, bytes) or fold.start.value is not None:
                ready[fold.release].append(fold)
        for release, some in ready.items():
            _wave(some, *nets(release))
            for fold in some:
                del left[id(fold)]


def _wave(folds: list[Fold], scorer: Scorer, catalogue: Catalogue) -> None:
    ends = np.cumsum([len(fold.keys) for fold in folds])
    dim = scorer.config.dim
    states = np.zeros((len(folds), dim), dtype="<f4")
    for state, fold in zip(states, folds, strict=True):
        if start := value(fold.start):
            state[:] = np.frombuffer(start, dtype="<f4")
    rows = catalogue.rows([key for fold in folds for key in fold.keys])
    after = scorer.encode_exposures(states, np.split(rows, ends[:-1])).astype("<f4")
    data, width = after.tobytes(), 4 * dim
    for i, fold in enumerate(folds):
        fold.value = data[i * width : (i + 1) * width]
