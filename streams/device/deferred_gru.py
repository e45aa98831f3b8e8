"""GRU_n over exposures, deferred until the exposures of a whole batch of users can be encoded together.

The scorer works on tiles of one shape, so a GRU state depends neither on other users' states nor on the division of
events into batches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np

from models.data.catalogue import Catalogue
from models.mc2sf.tiled_scorer import Scorer


class DeferredGru:
    """The state of GRU_n after the items `keys`, from the state `start`, with the nets of a release."""

    __slots__ = ("keys", "release", "start", "value")

    def __init__(self, start: DeferredGru | bytes, keys: list[int], release: int) -> None:
        self.start, self.keys, self.release = start, keys, release
        self.value: bytes | None = None  # f4 [d] once computed


GruState = DeferredGru | bytes  # f4 [d], empty for zero


def computed(state: GruState) -> bytes:
    """Return the bytes of a GRU state that has been computed."""
    if isinstance(state, bytes):
        return state
    assert state.value is not None
    return state.value


def compute(states: Iterable[GruState], nets: Callable[[int], tuple[Scorer, Catalogue]]) -> None:
    """Compute `states` and those that they start from. `nets` returns scorer and catalogue of a release."""
    pending: dict[int, DeferredGru] = {}
    for state in states:
        while isinstance(state, DeferredGru) and state.value is None and id(state) not in pending:
            pending[id(state)] = state
            state = state.start  # noqa: PLW2901 - follows the chain
    while pending:
        ready: defaultdict[int, list[DeferredGru]] = defaultdict(list)
        for deferred in pending.values():
            if isinstance(deferred.start, bytes) or deferred.start.value is not None:
                ready[deferred.release].append(deferred)
        for release, of_release in ready.items():
            _compute_ready(of_release, *nets(release))
            for deferred in of_release:
                del pending[id(deferred)]


def _compute_ready(states: list[DeferredGru], scorer: Scorer, catalogue: Catalogue) -> None:
    ends, dim = np.cumsum([len(state.keys) for state in states]), scorer.config.dim
    starts = np.zeros((len(states), dim), dtype="<f4")
    for row, state in zip(starts, states, strict=True):
        if start := computed(state.start):
            row[:] = np.frombuffer(start, dtype="<f4")
    rows = catalogue.rows([key for state in states for key in state.keys])
    after = scorer.encode_exposures(starts, np.split(rows, ends[:-1])).astype("<f4")
    data, width = after.tobytes(), 4 * dim
    for i, state in enumerate(states):
        state.value = data[i * width : (i + 1) * width]
