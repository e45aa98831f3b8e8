"""Rescoring: every recorded click is ranked again from the tables alone, by the release in force or by another.

Views are rebuilt from `interactions`, nets and embeddings are read from the tables of releases, r2 is computed again
from item keys, popularity and river learn from the log again. By the releases in force, ranks and metrics equal the
recorded ones to the last digit.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import sqlalchemy as sa
import torch
from sqlalchemy import Engine

from streams.database import run_state
from streams.database.schema import releases, runs
from streams.plugins.loaded import loaded
from streams.prequential import served
from streams.prequential.metrics import SUBSETS, Ranked, Sums, subsets, summary
from streams.prequential.plugin_metrics import PluginMean, PluginMetrics
from streams.releases.release import read_manifest
from streams.rescoring.baseline_scorer import baseline_ranks
from streams.rescoring.net_scorer import NetScorer, ranks_in_process, start_process
from streams.rescoring.ranking_queries import RankingQueries, RankingQuery, RecordedOutcome
from streams.settings import Settings

_CHUNK = 256  # clicks per call
_PARALLEL_FROM = 2000  # clicks from which starting processes saves time
_MAX_PENDING = 8  # chunks submitted and not yet consumed

Ranks = dict[str, int]
Progress = Callable[[int, int], None]
Submit = Callable[[int, list[RankingQuery], bool], Future[list[Ranks]]]  # version, queries, late


class Difference(NamedTuple):
    """A rank that differs from the recorded one; 0: there is none."""

    user: str
    seq: int
    variant: str
    online: int
    offline: int


@dataclass(frozen=True)
class OfflineResult:
    """Metrics by variant as in summary.json, for each subset, and the ranks that differ from the recorded ones.

    `hindsight` counts the clicks that are not later than the training data of the release given. `differences` is empty
    if a release was given.
    """

    metrics: dict[str, dict[str, float]]
    subsets: dict[str, dict[str, dict[str, float]]]
    outcomes: int
    hindsight: int = 0
    differences: list[Difference] = field(default_factory=list)
    plugin_metrics: dict[str, dict[str, PluginMean]] = field(default_factory=dict)  # by metric and variant
    ranks: dict[tuple[str, int], Ranks] = field(default_factory=dict)  # by user and seq


def rescore(
    engine: Engine,
    run: str,
    *,
    as_of: int | None = None,
    release: int | None = None,
    without_learner: bool = False,
    progress: Progress | None = None,
    processes: int | None = None,
    extra_plugins: str = "",
) -> OfflineResult:
    """Rank every recorded click of `run` again; `as_of`: those up to this event time, ms.

    `release`: by that release instead of the one in force. `without_learner`: by the newest release, up to the one in
    force, that the learner did not make. `extra_plugins`: plugins in addition to those of the run. Raises LookupError
    if the run is not in the tables, ReleaseError if a release is incomplete, PluginError.
    """
    with engine.connect() as connection:
        settings = _settings(connection, run)
        plugins = " ".join(dict.fromkeys(f"{settings.plugins} {extra_plugins}".split()))
        # variants whose recorded ranks can't be compared: added ones, and those that learn from outcomes now deleted
        not_comparable = loaded(plugins).variants.keys() - loaded(settings.plugins).variants.keys()
        if run_state.trimmed(connection, run):
            not_comparable |= {"river", served.SERVED}
        trained_until = -1 if release is None else read_manifest(connection, run, release).trained_until
        replacements = _without_learner(connection, run) if without_learner else {}
        baselines = baseline_ranks(connection, settings, as_of)
        queries = RankingQueries(connection, settings, as_of)
        total, done, hindsight = queries.count(), 0, 0
        ranked: list[Ranked] = []
        scored: list[tuple[RecordedOutcome, Ranks]] = []
        by_click: dict[tuple[str, int], Ranks] = {}
        plugin_metrics = PluginMetrics(loaded(plugins).metrics)
        differences: list[Difference] = []
        for recorded, nets in _net_ranks(engine, run, plugins, queries, total, release, replacements, processes):
            for outcome, by_nets in zip(recorded, nets, strict=True):
                scored.append((outcome, by_nets | baselines.pop((outcome.user, outcome.seq))))
            done += len(recorded)
            if progress is not None:
                progress(done, total)
    _serve(scored)
    for outcome, ranks in scored:
        in_subsets = subsets(cold=outcome.cold, history=outcome.history, window=outcome.window)
        by_click[outcome.user, outcome.seq] = ranks
        ranked.append(Ranked(outcome.time, outcome.n, in_subsets, ranks))
        plugin_metrics.update(ranked[-1])
        hindsight += outcome.time <= trained_until
        if release is None and not without_learner:
            differences += _differences(outcome, ranks, not_comparable)
    by_subset = {subset: summary(ranked, subset) for subset in SUBSETS}
    return OfflineResult(by_subset["all"], by_subset, total, hindsight, differences, plugin_metrics.of_all(), by_click)


def _serve(scored: list[tuple[RecordedOutcome, Ranks]]) -> None:
    """Add the ranks by `served`, epoch by epoch, to outcomes that have one."""
    sums: defaultdict[str, Sums] = defaultdict(Sums)

    def epoch(each: tuple[RecordedOutcome, Ranks]) -> int:
        return each[0].epoch

    for _, of_epoch in groupby(sorted(scored, key=epoch), epoch):
        leader = served.leader({variant: each.point().metrics["ndcg@10"] for variant, each in sums.items()})
        for outcome, ranks in of_epoch:
            for variant in served.SERVABLE:
                if variant in ranks:
                    sums[variant].add(ranks[variant], outcome.n)
            if served.SERVED in outcome.ranks:
                ranks[served.SERVED] = ranks[served.served_by(leader, ranks)]


def _settings(connection: sa.Connection, run: str) -> Settings:
    row = connection.execute(sa.select(runs.c.settings).where(runs.c.run == run)).scalar_one_or_none()
    if row is None:
        raise LookupError(f"no run {run!r} in {connection.engine.url.render_as_string()}")
    return Settings.model_validate(row | {"run": run})


def _without_learner(connection: sa.Connection, run: str) -> dict[int, int]:
    """Return for each release the newest one up to it that the learner did not make."""
    query = sa.select(releases.c.version, releases.c.kind).where(releases.c.run == run).order_by(releases.c.version)
    replacements, last = {}, 0
    for version, kind in connection.execute(query):
        last = last if kind == "learner" else version
        replacements[version] = last
    return replacements


def _differences(outcome: RecordedOutcome, ranks: Ranks, ignored: AbstractSet[str]) -> Iterator[Difference]:
    for variant in sorted((outcome.ranks.keys() | ranks) - ignored):
        online, offline = outcome.ranks.get(variant, 0), ranks.get(variant, 0)
        if online != offline:
            yield Difference(outcome.user, outcome.seq, variant, online, offline)


def _net_ranks(
    engine: Engine,
    run: str,
    plugins: str,
    queries: RankingQueries,
    total: int,
    release: int | None,
    replacements: Mapping[int, int],
    processes: int | None,
) -> Iterator[tuple[list[RecordedOutcome], list[Ranks]]]:
    """Yield the nets' ranks, chunk by chunk in order."""
    with (
        closing(queries.by_release(_CHUNK)) as chunks,  # on errors too: the server holds the cursor
        _scoring(engine, run, plugins, total, processes) as submit,
    ):
        pending: list[tuple[list[RecordedOutcome], Future[list[Ranks]]]] = []
        for version, chunk in chunks:
            outcomes, of_chunk = [outcome for outcome, _ in chunk], [query for _, query in chunk]
            by = replacements.get(version, version) if release is None else release
            pending.append((outcomes, submit(by, of_chunk, release is not None)))
            if len(pending) >= _MAX_PENDING:
                first, future = pending.pop(0)
                yield first, future.result()
        for outcomes, future in pending:
            yield outcomes, future.result()


@contextmanager
def _scoring(engine: Engine, run: str, plugins: str, total: int, processes: int | None) -> Iterator[Submit]:
    """Yield a function that ranks queries, in several processes if there are many."""
    if processes is None:
        processes = min(os.cpu_count() or 1, 2) if total > _PARALLEL_FROM else 1
    if processes == 1:
        scorer = NetScorer(engine, run, plugins)

        def in_this_process(version: int, queries: list[RankingQuery], late: bool) -> Future[list[Ranks]]:
            future: Future[list[Ranks]] = Future()
            future.set_result(scorer.ranks(version, queries, late=late))
            return future

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in every worker: on a busy machine two threads mostly wait for each other
        try:
            yield in_this_process
        finally:
            torch.set_num_threads(threads)
        return
    url = engine.url.render_as_string(hide_password=False)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, start_process, (url, run, plugins)) as pool:
        yield lambda version, queries, late: pool.submit(ranks_in_process, version, queries, late)
