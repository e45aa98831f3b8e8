"""river's recommenders and the nets on the same stream.

Run `python -m benchmarks.training.prequential RUN...` with the --out folders of finished runs.

Quality: NDCG@10 on the same candidates of the same ranked clicks, in quarters of the stream; the nets' ranks are
those recorded online. Cost: CPU time of one core per ranked list and per learnt click, each alone. Prints a table of
rows and writes it as JSON with `--out`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
import torch

from benchmarks.machine import described
from benchmarks.rounding import rounded
from benchmarks.training.river_models import Asked, models
from deploy.runs import FoundRun, find
from models.data.interaction_log import Ints
from models.evaluation.metrics import metrics
from models.training.online import FastBatchExample, FastLearner
from streams.model_config import learner_config
from streams.prequential.recorded import recorded_outcomes
from streams.records import EXAMPLE_NEGATIVES
from streams.releases.release import Release, read_release
from streams.rescoring.net_scorer import NetScorer
from streams.rescoring.ranking_queries import RankingQueries, RankingQuery

QUARTERS = 4
_LISTS = 256  # from which the nets' cost is measured


class Spent:
    """CPU seconds of the calls made through it."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0

    def __call__(self, call: Callable[[], Any], *, counts: int = 1) -> Any:
        """Call the function, and count it as `counts` calls."""
        began = time.process_time()
        found = call()
        self.seconds += time.process_time() - began
        self.calls += counts
        return found

    @property
    def each(self) -> float:
        """Return the microseconds per call."""
        return 1e6 * self.seconds / max(self.calls, 1)


def main() -> None:
    """Compare the models on each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="--out folders of `mc2sf run`")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    result = {"machine": described(["river", "torch", "numpy"]), "runs": [compared(find(run)) for run in asked.runs]}
    print(json.dumps(result, indent=1, ensure_ascii=False))
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def compared(found: FoundRun) -> dict[str, Any]:
    """Return a row for each variant of a run and for each of river's models."""
    ranks: dict[str, list[int]] = defaultdict(list)
    peers = models(found.settings.seed)
    asking, learning = ({name: Spent() for name in peers} for _ in range(2))
    with found.engine.connect() as connection:
        last = {key: int(clicks[-1]) for key, clicks in _clicks(found, connection) if len(clicks)}
        for row in recorded_outcomes(connection, found.settings.run):
            candidates = np.frombuffer(row.candidates, "<i8")
            click = Asked(row.user, candidates, row.target_index, last.get((row.user, row.seq), 0))
            for name, peer in peers.items():
                if not row.cold:  # cold clicks are learnt, but are a separate series, as in the tables of a run
                    ranks["river " + name].append(asking[name](partial(peer.rank, click)).rank)
                learning[name](partial(peer.learn, click))
            for variant, of in row.ranks.items() if not row.cold else ():
                ranks[variant].append(of)
        by_nets = nets_cost(found, connection)
    rows: dict[str, dict[str, Any]] = {name: {"ndcg@10": _quarters(of)} for name, of in ranks.items()}
    for name in peers:
        rows["river " + name] |= {"µs a list": asking[name].each, "µs a click learnt": learning[name].each}
    lists = len(next(iter(ranks.values())))
    return {"source": found.source.partition(":")[0], "lists": lists, "rows": rounded(rows), "nets": rounded(by_nets)}


def _clicks(found: FoundRun, connection: sa.Connection) -> Iterator[tuple[tuple[str, int], Ints]]:
    """Return the device's last clicks before each ranked one."""
    for _, chunk in RankingQueries(connection, found.settings).by_release(_LISTS):
        for _, query in chunk:
            yield (query.user, query.seq), query.clicks


def nets_cost(found: FoundRun, connection: sa.Connection) -> dict[str, float]:
    """The four nets at once on a list, and a click learnt by the fast part, in microseconds, with the last release."""
    settings = found.settings
    version, chunk = list(RankingQueries(connection, settings).by_release(_LISTS))[-1]
    queries = [query for _, query in chunk]
    scorer = NetScorer(found.engine, settings.run)
    scorer.ranks(version, queries[:1])  # reads the release
    asking, learning = Spent(), Spent()
    asking(lambda: scorer.ranks(version, queries), counts=len(queries))
    release = read_release(connection, settings.run, version)
    learner = FastLearner(release.nets, learner_config(settings), settings.seed)
    examples = [_example(release, query) for query in queries]
    learner.learn(examples)  # creates Adam's state
    learning(lambda: learner.learn(examples), counts=len(examples))
    return {"µs a list, four nets": asking.each, "µs a click learnt, fast part": learning.each}


def _example(release: Release, asked: RankingQuery) -> FastBatchExample:
    """Return the click and the first other items, with the priors of the cloud."""
    rows = release.catalogue.rows
    others = np.delete(asked.candidates, asked.target_index)[:EXAMPLE_NEGATIVES]
    items = rows(np.concatenate([asked.candidates[[asked.target_index]], others]))
    stands = np.concatenate(
        [
            asked.item_statistics[[asked.target_index]],
            np.delete(asked.item_statistics, asked.target_index, 0)[:EXAMPLE_NEGATIVES],
        ]
    )
    priors = release.scorer.slow(rows(asked.history), np.zeros(release.nets.config.dim, np.float32), items, stands)
    near = release.near(asked.clicks, np.concatenate([asked.candidates[[asked.target_index]], others]))
    return FastBatchExample(
        rows(asked.clicks), rows(asked.exposures), items, priors.r_t, priors.r_n, stands, priors.f2s, near
    )


def _quarters(ranks: list[int]) -> list[float]:
    """Return NDCG@10 in each quarter of the ranked clicks."""
    return [metrics(part)["ndcg@10"] for part in np.array_split(np.array(ranks), QUARTERS)]


if __name__ == "__main__":
    main()
