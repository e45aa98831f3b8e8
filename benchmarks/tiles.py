"""The cost of serving on tiles against the same arithmetic without them: `python -m benchmarks.tiles`.

`tiles` is the stream's scorer: the candidates of all requests one after the other on tiles of 64 rows. `plain` is the
same nets called once on all requests, as training does; there a score may differ in its last bits between batches.
`priors` is what the cloud answers (r_t, r_n, din and f2s), `all` that and the scores of the device; a request
`alone` is scored by itself. CPU seconds of one thread, interleaved; `tiles.json` has the medians.
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
from models.mc2sf.nets import NetConfig, Nets
from models.mc2sf.tiled_scorer import FastQuery, Scorer, SlowAnswer, SlowQuery

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

    def priors(self) -> list[SlowAnswer]:
        """Return the cloud's answers, as in the stream."""
        return self._scorer.slow_many(
            [SlowQuery(*each) for each in zip(self._history, self._r2, self._candidates, strict=True)]
        )

    def tiles(self) -> np.ndarray:
        """Return scores [4, REQUESTS, n], as in the stream."""
        slow = self.priors()
        asked = zip(self._clicks, self._exposures, self._candidates, slow, strict=True)
        fast = self._scorer.fast_many([FastQuery(c, x, listed, r.r_t, r.r_n) for c, x, listed, r in asked])
        return np.stack([(s.din, s.f2s, f.fast, f.mc2sf) for s, f in zip(slow, fast, strict=True)], 1)

    def alone(self) -> None:
        """Score each request by itself."""
        asked = zip(self._clicks, self._exposures, self._history, self._r2, self._candidates, strict=True)
        for clicks, exposures, history, r2, candidates in asked:
            made = self._scorer.slow(history, r2, candidates)
            self._scorer.fast(clicks, exposures, candidates, made.r_t, made.r_n)

    @torch.inference_mode()
    def plain_priors(self) -> tuple[Tensor, ...]:
        """Return e, r_t, r_n and the scores of the slow part, all requests at once."""
        nets = self._nets
        unseen = torch.zeros(*self._candidates.shape, 3, dtype=torch.int64)
        e = nets.encoder.with_statistics(self._sequence(self._candidates).x, unseen)
        r_t, r_n = nets.priors(self._sequence(self._history), torch.from_numpy(self._r2), e)
        return e, r_t, r_n, nets.slow.score_din(r_t, e), nets.slow.score_f2s(r_n, r_t, e)

    @torch.inference_mode()
    def plain(self) -> np.ndarray:
        """Return scores [4, REQUESTS, n], all requests at once."""
        e, r_t, r_n, din, f2s = self.plain_priors()
        short = self._nets.encoder.gru_n, self._sequence(self._clicks), self._sequence(self._exposures)
        fast = self._nets.fast.score_fast(self._nets.fast.from_zero(*short), e)
        mc2sf = self._nets.fast.score_s2f(*short, e, r_t.half().float(), r_n.half().float())
        return torch.stack([din, f2s, fast, mc2sf]).numpy()

    def _sequence(self, rows: np.ndarray) -> PaddedVectors:
        mask = torch.ones(rows.shape, dtype=torch.bool)
        return PaddedVectors(self._nets.encoder.E.detach()[torch.from_numpy(rows)], mask)


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of one call."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def measured(candidates: int) -> dict[str, Any]:
    """Return the ratios of tiles to plain for requests of so many candidates, and the largest difference of scores."""
    requests = Requests(candidates)
    apart = float(np.abs(requests.tiles() - requests.plain()).max())
    works = (requests.priors, requests.plain_priors, requests.tiles, requests.plain, requests.alone)
    spent = np.array([[seconds(work) for work in works] for _ in range(REPEATS)])
    priors, plain_priors, tiles, plain, alone = spent.T
    return {
        "candidates": candidates,
        "priors_ms": round(1e3 * float(np.median(priors)) / REQUESTS, 3),
        "priors_ratio": round(float(np.median(priors / plain_priors)), 2),
        "all_ms": round(1e3 * float(np.median(tiles)) / REQUESTS, 3),
        "all_ratio": round(float(np.median(tiles / plain)), 2),
        "alone_ms": round(1e3 * float(np.median(alone)) / REQUESTS, 3),
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
