"""EB-NeRD: a scorer that reads just "was among my own slate's losers" must gain nothing from a click's view."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.data.interaction_log import ClickStates, InteractionLog, click_states, is_negative, slates
from models.data.views import ViewSpec
from models.evaluation.metrics import mean_chance, metrics, rank
from replay.prepare.plan import Options
from replay.prepare.prepare import prepare
from replay.sources.source import parse
from streams.records import item_key

SPEC = ViewSpec()
USERS = 500


@pytest.fixture(scope="module")
def states(data: Path, tmp_path_factory: pytest.TempPathFactory) -> ClickStates:
    """The clicks of some users of EB-NeRD with the state before each one's impression."""
    plan = prepare(parse(f"ebnerd:{data}"), Options(users=USERS), tmp_path_factory.mktemp("ebnerd"))
    table = pq.read_table(plan.path).sort_by([("user", "ascending"), ("seq", "ascending")])
    counts = np.unique(table["user"].to_numpy(zero_copy_only=False), return_counts=True)[1]
    keys = np.array([item_key(name) for name in table["item"].to_pylist()])
    kinds, times, impressions = (table[name].to_numpy().astype(np.int64) for name in ("kind", "time", "impression"))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return click_states(InteractionLog(offsets, keys, kinds, times, impressions, np.zeros_like(keys)), SPEC)


def quality(states: ClickStates, views: ClickStates) -> tuple[dict[str, float], dict[str, float]]:
    """Return the metric of a scorer that ranks its own slate's known losers in `views` last; and chance.

    That is what its view has as shown, or in the last window, though no earlier impression group of the user showed it.
    Candidates are the slate less its other clicks.
    """
    log, groups, negative = states.log, slates(states), is_negative(states.log)
    generator = np.random.default_rng(1)
    ranks, sizes = [], []
    for i, target in enumerate(states.target.tolist()):
        start, end = int(groups.start[i]), int(groups.end[i])
        losers = log.keys[start:end][negative[start:end] & (log.keys[start:end] != target)]
        if not len(losers):
            continue
        before = slice(int(log.offsets[states.user[i]]), start)
        earlier = log.keys[before][negative[before]]
        seen = views.view(i)
        own = np.setdiff1d(np.append(seen.exposures, seen.window_items), earlier)
        candidates = generator.permutation(np.append(losers, target))
        place = int(np.flatnonzero(candidates == target)[0])
        ranks.append(rank(-np.isin(candidates, own).astype(np.float32), place).rank)
        sizes.append(len(candidates))
    assert len(ranks) > 5_000
    return metrics(ranks), mean_chance(sizes)


def test_a_click_does_not_know_its_own_slates_losers(states: ClickStates) -> None:
    found, chance = quality(states, states)
    assert all(abs(found[name] - chance[name]) < 0.01 for name in ("hr@1", "ndcg@10", "mrr"))


def test_events_seen_one_by_one_would_know_them_so_that_the_test_above_can_fail(states: ClickStates) -> None:
    one_by_one = click_states(replace(states.log, impressions=np.zeros_like(states.log.impressions)), SPEC)
    found, chance = quality(states, one_by_one)
    assert found["ndcg@10"] > chance["ndcg@10"] + 0.1
