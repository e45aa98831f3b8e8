"""Prequential evaluation: predict, score, learn, outcome by outcome in total order.

Computes the baselines popularity and river, the online metrics of all variants, and drift detection. All of it is a
function of the outcomes before. At a start it is computed again from the tables, and continues as if it had never
stopped.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

from sqlalchemy import Connection

from models.data.event_kinds import CLICK
from models.evaluation.candidates import evaluated
from streams.plugins.loaded import loaded
from streams.prequential import served
from streams.prequential.drift import Drift, DriftDetectors
from streams.prequential.live_differences import LiveDifferences
from streams.prequential.metrics import Quality, Ranked, ndcg_10, subsets
from streams.prequential.plugin_metrics import PluginMetrics
from streams.prequential.popularity_baseline import Click, Popularity, impression_groups
from streams.prequential.recorded import OutcomeRow, click_counts, recorded_outcomes
from streams.prequential.river_baseline import RiverBaseline
from streams.prequential.sliding import SlidingDifference
from streams.records import RANKED, Outcome
from streams.settings import Settings


class EvaluatedOutcome(NamedTuple):
    """An outcome, the ranks of all variants, the variant that was served, and the drifts that it raised."""

    outcome: Outcome
    ranks: dict[str, int]
    served: str
    drifts: list[Drift]


class PrequentialEvaluator:
    """The baselines, and the measures of all variants."""

    def __init__(self, settings: Settings, popularity: Popularity | None = None) -> None:
        self._popularity = popularity or Popularity()
        self._river = RiverBaseline(settings.seed)
        self._drifts = DriftDetectors()
        span_ms = int(settings.quality_span_s * 1000)
        self.quality = Quality(span_ms)
        self.ahead_of_popularity = SlidingDifference(span_ms)
        self.plugin_metrics = PluginMetrics(loaded(settings.plugins).metrics)
        self.live = LiveDifferences(loaded(settings.plugins).variants)

    @classmethod
    def recorded(cls, connection: Connection, settings: Settings, epoch: int) -> PrequentialEvaluator:
        """Return the evaluator as it was when `epoch` had been recorded."""
        self = cls(settings, Popularity(click_counts(connection, settings.run, epoch)))
        for row in recorded_outcomes(connection, settings.run):
            candidates = row.keys()
            self._river.learn(row.user, candidates, row.target_index)
            self._measure(row.user, _ranked(row, len(candidates), row.ranks))
            self.live.update(row.epoch, row.user, row.ranks)
        return self

    def epoch(self, clicks: Iterable[Click], outcomes: dict[tuple[str, int], Outcome]) -> Iterator[EvaluatedOutcome]:
        """Evaluate the outcomes of an epoch, given its clicks."""
        leader = served.leader(self.quality.cumulative_ndcg())
        for group in impression_groups(clicks, outcomes):
            ranks = [self._predict(outcome) for outcome in group.outcomes]
            for outcome, all_ranks in zip(group.outcomes, ranks, strict=True):
                by = served.served_by(leader, all_ranks)
                all_ranks[served.SERVED] = all_ranks[by]
                self.live.update(outcome.epoch, outcome.user, all_ranks)
                drifts = self._measure(outcome.user, _ranked(outcome, outcome.candidates.shape[0], all_ranks))
                yield EvaluatedOutcome(outcome, all_ranks, by, drifts)
                self._river.learn(outcome.user, outcome.candidates.array(), outcome.target_index)
            self._popularity.learn(group.clicked)

    def _predict(self, outcome: Outcome) -> dict[str, int]:
        candidates = outcome.candidates.array()
        popularity = self._popularity.rank(candidates, outcome.target_index).rank
        river = self._river.rank(outcome.user, candidates, outcome.target_index).rank
        return {**outcome.ranks, "popularity": popularity, "river": river}

    def _measure(self, user: str, ranked: Ranked) -> list[Drift]:
        self.quality.update(ranked)
        self.plugin_metrics.update(ranked)
        if "mc2sf" in ranked.ranks:
            ahead = ndcg_10(ranked.ranks["mc2sf"]) - ndcg_10(ranked.ranks["popularity"])
            self.ahead_of_popularity.add(ranked.time, user, ahead)
        return list(self._drifts.update(ranked))


def _ranked(outcome: Outcome | OutcomeRow, n: int, ranks: dict[str, int]) -> Ranked:
    """Return the input of the metrics."""
    where = subsets(cold=outcome.cold, history=outcome.history, window=outcome.window)
    return Ranked(outcome.time, n, where, ranks)


def not_ranked(settings: Settings, clicks: Iterable[Click], outcomes: Container[tuple[str, int]]) -> int:
    """Return how many of an epoch's clicks were drawn for evaluation and have no outcome."""
    return sum(
        click.kind == CLICK
        and (click.user, click.seq) not in outcomes
        and (click.impression >= RANKED or evaluated(settings.seed, click.user, click.seq, settings.evaluate))
        for click in clicks
    )
