"""Ranks of ranking queries by the nets, computed in this process or in several, with equal results."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import Engine, create_engine

from models.evaluation.metrics import rank
from models.mc2sf.tiled_scorer import FastAnswer, FastQuery, SlowAnswer, SlowQuery
from streams.plugins.loaded import loaded
from streams.plugins.protocols import Seen
from streams.releases.release import Assembler, Release, read_release
from streams.rescoring.ranking_queries import RankingQuery

Floats = NDArray[np.float32]


class NetScorer:
    """Ranks queries of a run by its releases and by variants that are plugins; keeps the last release."""

    def __init__(self, engine: Engine, run: str, plugins: str = "") -> None:
        """`plugins` is a setting of that name."""
        self._engine, self._run, self._plugins = engine, run, loaded(plugins)
        self._assembler = Assembler()
        self._release: Release | None = None

    def ranks(self, version: int, queries: list[RankingQuery], *, late: bool = False) -> list[dict[str, int]]:
        """Return each query's ranks by release `version`. `late`: with priors even if online they came too late."""
        release = self._read(version)
        rows = release.catalogue.rows
        r2 = self._r2(release, [query.r2_items for query in queries])
        slow_queries = [
            SlowQuery(rows(query.history), r2_of_query, rows(query.candidates), query.item_statistics)
            for query, r2_of_query in zip(queries, r2, strict=True)
        ]
        slow, fast_queries = release.scorer.slow_many(slow_queries), []
        for query, (_, _, candidates, statistics), priors in zip(queries, slow_queries, slow, strict=True):
            short = rows(query.clicks), rows(query.exposures)
            near = release.near(query.clicks, query.candidates)
            fast_queries.append(FastQuery(*short, candidates, priors.r_t, priors.r_n, statistics, priors.f2s, near))
        fast = release.scorer.fast_many(fast_queries)
        return [self._rank(release, *answers, late=late) for answers in zip(queries, slow, fast, strict=True)]

    def _read(self, version: int) -> Release:
        if self._release is None or self._release.manifest.version != version:
            with self._engine.connect() as connection:
                self._release = read_release(connection, self._run, version, self._assembler)
        return self._release

    @staticmethod
    def _r2(release: Release, exposures: list[NDArray[np.int64]]) -> Floats:
        """Return r2 per query, [n, d]: the GRU state over its exposures, zero if there are none."""
        zero = np.zeros((len(exposures), release.scorer.config.dim), np.float32)
        return release.scorer.encode_exposures(zero, [release.catalogue.rows(keys) for keys in exposures])

    def _rank(
        self, release: Release, query: RankingQuery, slow: SlowAnswer, fast: FastAnswer, *, late: bool
    ) -> dict[str, int]:
        scores = {"fast": fast.fast}
        if query.answered or late:
            scores |= {"din": slow.din, "f2s": slow.f2s, "mc2sf": fast.mc2sf}
        ranks = {name: rank(values, query.target_index).rank for name, values in scores.items()}
        seen = Seen(query.clicks, query.exposures, query.candidates, query.item_statistics, release.vectors)
        by_plugins = self._plugins.ranks(seen, query.target_index)
        return {"random": query.target_index + 1} | ranks | {name: each.rank for name, each in by_plugins.items()}


_SCORERS: list[NetScorer] = []  # that of this process


def start_process(url: str, run: str, plugins: str) -> None:
    """Make this process's scorer. The schema is up to date: the parent process has connected."""
    torch.set_num_threads(1)
    _SCORERS[:] = [NetScorer(create_engine(url), run, plugins)]


def ranks_in_process(version: int, queries: list[RankingQuery], late: bool) -> list[dict[str, int]]:
    """Return `NetScorer.ranks` in a prepared process."""
    return _SCORERS[0].ranks(version, queries, late=late)
