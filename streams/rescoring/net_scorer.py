"""Ranks of ranking queries by the nets, computed in this process or in several, with equal results."""

from __future__ import annotations

import functools

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
        """Return each query's ranks by release `version`. `late`: also those whose answer came too late online."""
        release = self._read(version)
        rows = release.catalogue.rows
        states = self._r2(release, [query.r2_items for query in queries])
        asked = [
            SlowQuery(rows(query.history), r2, rows(query.candidates), query.item_statistics)
            for query, r2 in zip(queries, states, strict=True)
        ]
        slow, fast = release.scorer.slow_many(asked), []
        for query, (_, _, candidates, statistics), priors in zip(queries, asked, slow, strict=True):
            short = rows(query.clicks), rows(query.exposures)
            near = release.near(query.clicks, query.candidates)
            fast.append(FastQuery(*short, candidates, priors.r_t, priors.r_n, statistics, priors.f2s, near))
        scores = release.scorer.fast_many(fast)
        return [self._rank(release, *scored, late=late) for scored in zip(queries, slow, scores, strict=True)]

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


@functools.cache
def _of_process() -> dict[str, NetScorer]:
    """Return the scorer of a process started by `rescore`, under the key "own"."""
    return {}


def start_process(url: str, run: str, plugins: str) -> None:
    """Prepare this process. The schema is up to date: the parent process has connected."""
    torch.set_num_threads(1)
    _of_process()["own"] = NetScorer(create_engine(url), run, plugins)


def ranks_in_process(version: int, queries: list[RankingQuery], late: bool) -> list[dict[str, int]]:
    """Return `NetScorer.ranks` in a prepared process."""
    return _of_process()["own"].ranks(version, queries, late=late)
