"""Scoring again, from the tables alone: every click ranked once more by the release that it names, or by another.

Views are rebuilt from `interactions`, nets and embeddings come from the tables of releases, r2 is folded again from
item ids, popularity and river learn the log once more. Nothing is averaged that was ranked online: the ranks must come
out the same, and with them the metrics, to the last digit.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa
import torch
from sqlalchemy import Engine

from streams.database.schema import runs
from streams.prequential.metrics import Ranked, subsets, summary
from streams.releases.release import read_manifest
from streams.rescoring.baseline_scorer import replayed
from streams.rescoring.net_scorer import Rescorer, score_in_process, start_process
from streams.rescoring.ranking_queries import Question, RankingQueries, Recorded
from streams.settings import Settings

_CHUNK = 256  # clicks a call
_FEW = 2000  # clicks below which starting processes does not pay
_AHEAD = 8  # chunks handed out and not yet taken back

Ranks = dict[str, int]
Progress = Callable[[int, int], None]


class Difference(NamedTuple):
    """A rank that came out otherwise; 0 stands for none."""

    user: str
    seq: int
    variant: str
    online: int
    offline: int


@dataclass(frozen=True)
class OfflineResult:
    """Metrics by variant in the form of summary.json, for each subset; and which ranks differ from those online.

    `hindsight`: clicks that the release given had been trained on or after. Differences are told where none was given.
    """

    metrics: dict[str, dict[str, float]]
    subsets: dict[str, dict[str, dict[str, float]]]
    outcomes: int
    hindsight: int = 0
    differences: list[Difference] = field(default_factory=list)


def rescore(
    engine: Engine,
    run: str,
    *,
    as_of: int | None = None,
    release: int | None = None,
    progress: Progress | None = None,
    processes: int | None = None,
) -> OfflineResult:
    """Rank every recorded click of `run` again; `as_of`: those up to this event time, ms.

    `release`: by that release instead of the one in force. Raises LookupError where the run is not in the tables, and
    ReleaseError where a release is not whole.
    """
    with engine.connect() as connection:
        settings = _settings(connection, run)
        trained_until = -1 if release is None else read_manifest(connection, run, release).trained_until
        others = replayed(connection, settings, as_of)
        questions = RankingQueries(connection, settings, as_of)
        total, done, hindsight = questions.count(), 0, 0
        found: list[Ranked] = []
        differences: list[Difference] = []
        for recorded, nets in _ranked(engine, run, questions, total, release, processes):
            for outcome, by_nets in zip(recorded, nets, strict=True):
                ranks = by_nets | others.pop((outcome.user, outcome.seq))
                where = subsets(cold=outcome.cold, history=outcome.history, window=outcome.window)
                found.append(Ranked(outcome.time, outcome.n, where, ranks))
                hindsight += outcome.time <= trained_until
                if release is None:
                    differences += _differences(outcome, ranks)
            done += len(recorded)
            if progress is not None:
                progress(done, total)
    by_subset = {subset: summary(found, subset) for subset in ("all", "collaborative", "cold")}
    return OfflineResult(by_subset["all"], by_subset, total, hindsight, differences)


def _settings(connection: sa.Connection, run: str) -> Settings:
    row = connection.execute(sa.select(runs.c.settings).where(runs.c.run == run)).scalar_one_or_none()
    if row is None:
        raise LookupError(f"no run {run!r} in {connection.engine.url.render_as_string()}")
    return Settings.model_validate(row | {"run": run})


def _differences(outcome: Recorded, ranks: Ranks) -> Iterator[Difference]:
    for variant in sorted(outcome.ranks.keys() | ranks):
        online, offline = outcome.ranks.get(variant, 0), ranks.get(variant, 0)
        if online != offline:
            yield Difference(outcome.user, outcome.seq, variant, online, offline)


def _ranked(
    engine: Engine, run: str, questions: RankingQueries, total: int, release: int | None, processes: int | None
) -> Iterator[tuple[list[Recorded], list[Ranks]]]:
    """The nets' ranks, chunk by chunk in order."""
    with (
        closing(questions.by_release(_CHUNK)) as chunks,  # also where scoring fails: the cursor is the server's
        _scoring(engine, run, total, processes) as submit,
    ):
        waiting: list[tuple[list[Recorded], Future[list[Ranks]]]] = []
        for version, chunk in chunks:
            recorded, asked = [r for r, _ in chunk], [q for _, q in chunk]
            waiting.append((recorded, submit(version if release is None else release, asked, release is not None)))
            if len(waiting) >= _AHEAD:
                first, future = waiting.pop(0)
                yield first, future.result()
        for recorded, future in waiting:
            yield recorded, future.result()


@contextmanager
def _scoring(
    engine: Engine, run: str, total: int, processes: int | None
) -> Iterator[Callable[[int, list[Question], bool], Future[list[Ranks]]]]:
    """A function that has questions scored: in several processes where there are many."""
    if processes is None:
        processes = min(os.cpu_count() or 1, 2) if total > _FEW else 1
    if processes == 1:
        rescorer = Rescorer(engine, run)

        def at_once(version: int, asked: list[Question], hindsight: bool) -> Future[list[Ranks]]:
            future: Future[list[Ranks]] = Future()
            future.set_result(rescorer.score(version, asked, late=hindsight))
            return future

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as every worker does; two on a busy machine mostly wait for each other
        try:
            yield at_once
        finally:
            torch.set_num_threads(threads)
        return
    url: Any = engine.url.render_as_string(hide_password=False)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, start_process, (url, run)) as pool:
        yield lambda version, asked, late: pool.submit(score_in_process, version, asked, late)
