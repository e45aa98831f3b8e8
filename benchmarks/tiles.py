"""The cost of serving on tiles against the same arithmetic without them: `python -m benchmarks.tiles`.

A request's candidates are scored by all four variants. `tiles` is the stream's scorer: candidates padded to whole
tiles of 64 rows, the slow nets request by request, the fast ones on groups of tiles of all requests. `batch` is the
same nets called once on many requests, as training does; there a score may differ in its last bits between batches.
CPU seconds of one thread, interleaved; `tiles.json` has the medians of the ratios.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import described
from models.layers.mlp import PaddedVectors
from models.layers.tiles import TILE
from models.mc2sf.nets import NetConfig, Nets
from models.mc2sf.tiled_scorer import FastQuery, Scorer, SlowQuery

RESULT = Path(__file__).with_name("tiles.json")
ROWS, REQUESTS, REPEATS = 4000, 64, 9
CANDIDATES = (20, 64, 100, 1000)


class Requests:
    """Requests with full histories, and their scores computed both ways."""

    def __init__(self, candidates: int) -> None:
        chance = np.random.default_rng(1)
        self._config = config = NetConfig()
        self._nets = Nets.initial(config, ROWS, 1).eval()
        self._scorer = Scorer(self._nets)

        def rows(length: int) -> np.ndarray:
            return chance.integers(2, ROWS, (REQUESTS, length))

        self._history, self._candidates = rows(config.history_long), rows(candidates)
        self._clicks, self._exposures = rows(config.history_short), rows(config.history_short)
        self._r2 = chance.normal(size=(REQUESTS, config.dim)).astype(np.float32)

    def tiles(self) -> np.ndarray:
        """Return scores [4, REQUESTS, n], as in the stream."""
        lists = self._candidates
        slow = self._scorer.slow_of([SlowQuery(self._history[i], self._r2[i], lists[i]) for i in range(REQUESTS)])
        fast = self._scorer.fast_of(
            [FastQuery(self._clicks[i], self._exposures[i], lists[i], *slow[i][:2]) for i in range(REQUESTS)]
        )
        return np.stack([(s.din, s.f2s, f.fast, f.mc2sf) for s, f in zip(slow, fast, strict=True)], 1)

    @torch.inference_mode()
    def batch(self) -> np.ndarray:
        """Return scores [4, REQUESTS, n], all requests at once."""
        nets = self._nets
        gru_n = nets.encoder.gru_n

        def sequence(rows: np.ndarray) -> PaddedVectors:
            return PaddedVectors(vectors(rows), torch.ones(rows.shape, dtype=torch.bool))

        def vectors(rows: np.ndarray) -> Tensor:
            return nets.encoder.E.detach()[torch.from_numpy(rows)]

        unseen = torch.zeros(*self._candidates.shape, 3, dtype=torch.int64)
        e = nets.encoder.with_statistics(vectors(self._candidates), unseen)
        r_t, r_n = nets.priors(sequence(self._history), torch.from_numpy(self._r2), e)
        clicks, exposures = sequence(self._clicks), sequence(self._exposures)
        travelled = r_t.half().float(), r_n.half().float()
        scores = (
            nets.slow.score_din(r_t, e),
            nets.slow.score_f2s(r_n, r_t, e),
            nets.fast.score_fast(nets.fast.from_zero(gru_n, clicks, exposures), e),
            nets.fast.score_s2f(gru_n, clicks, exposures, e, *travelled),
        )
        return torch.stack(scores).numpy()


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of one call."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def measured(candidates: int) -> dict[str, Any]:
    """Return the ratio for requests of so many candidates, and the largest difference of scores."""
    requests = Requests(candidates)
    apart = float(np.abs(requests.tiles() - requests.batch()).max())
    spent = [(seconds(requests.tiles), seconds(requests.batch)) for _ in range(REPEATS)]
    return {
        "candidates": candidates,
        "padded_to": -(-candidates // TILE) * TILE,
        "ms_a_request": round(1e3 * float(np.median([tiles for tiles, _ in spent])) / REQUESTS, 2),
        "ratio": round(float(np.median([tiles / batch for tiles, batch in spent])), 2),
        "largest_difference": apart,
    }


def main() -> None:
    """Measure, and write the result."""
    torch.set_num_threads(1)
    rows = []
    for candidates in CANDIDATES:
        rows.append(measured(candidates))
        print(json.dumps(rows[-1]))
    result = {"requests": REQUESTS, "rows": rows, "machine": described(("torch", "numpy"))}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
