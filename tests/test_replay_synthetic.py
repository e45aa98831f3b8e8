"""Synthetic users: the laws of their world, the optimum as a bound; what can be learnt is learnt, noise is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models.data.catalogue import FIRST_ROW, ROW_PADDING, Catalogue
from models.data.interaction_log import ClickStates, InteractionLog, Ints, click_states
from models.data.views import ViewSpec
from models.evaluation.metrics import chance, metrics, rank
from models.mc2sf.nets import NetConfig, Nets
from models.training.minibatches import to_batch
from models.training.retrain import TrainConfig, retrain
from replay.errors import SourceError
from replay.sources.synthetic.optimum import of_source, optimum, probabilities
from replay.sources.synthetic.users import MAXIMA, PAST, RECENT, RING, SHOWN, TIRED, Synthetic, Traces
from streams.records import Kind

SMALL = Synthetic(users=40, items=60, groups=6, favourites=2, clicks=20)


def table(world: Synthetic) -> pa.Table:
    return pa.Table.from_batches(list(world.batches()))


def columns(world: Synthetic) -> tuple[Ints, ...]:
    """Numbers of users and items, kinds and times of the log."""
    log = table(world)
    users = np.array([int(name[1:]) for name in log["user"].to_pylist()])
    return users, np.array(log["item"].to_pylist()).astype(np.int64), log["kind"].to_numpy(), log["time"].to_numpy()


def test_the_same_seed_gives_the_same_log_and_another_seed_another() -> None:
    assert table(SMALL).equals(table(SMALL))
    assert not table(SMALL).equals(table(replace(SMALL, seed=2)))


@hypothesis_settings(max_examples=25)
@given(
    users=st.integers(1, 30),
    items=st.integers(8, 90),
    groups=st.integers(3, 8),
    clicks=st.integers(2, 20),
    noise=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_any_world_has_as_many_users_items_and_clicks_as_it_says(
    users: int, items: int, groups: int, clicks: int, noise: float, seed: int
) -> None:
    world = Synthetic(users=users, items=items, groups=groups, favourites=2, clicks=clicks, noise=noise, seed=seed)
    user, item, kind, time = columns(world)
    assert set(user) == set(range(1, users + 1))
    assert 1 <= item.min() <= item.max() <= items
    past = kind == Kind.PAST_CLICK
    for number in range(1, users + 1):
        n = int(((user == number) & (kind == Kind.CLICK)).sum())
        assert clicks - clicks // 2 <= n <= clicks + clicks // 2
        assert ((user == number) & (kind == Kind.EXPOSURE)).sum() == SHOWN * n
        assert ((user == number) & past).sum() == PAST * 2
        assert time[(user == number) & past].max() < time[(user == number) & ~past].min()


@pytest.mark.parametrize("wrong", [{"users": 0}, {"noise": 1.5}, {"favourites": 6}, {"items": 5}, {"clicks": 1}])
def test_a_world_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SourceError):
        replace(SMALL, **wrong)


@pytest.mark.parametrize("name", MAXIMA)
def test_a_world_too_large_for_memory_or_the_calendar_is_refused_with_its_limit(name: str) -> None:
    with pytest.raises(SourceError, match=f"{name}=.* is too many: at most {MAXIMA[name]:,}"):
        Synthetic(**{name: MAXIMA[name] + 1})


def test_clicks_come_as_often_as_the_optimum_says_from_each_kind_of_group() -> None:
    world = replace(SMALL, users=200)
    traces = Traces(world, 0, world.users)
    expected, spread, found = (dict.fromkeys(("tired", "recent", "following", "favourite"), 0.0) for _ in range(3))
    for user, past in enumerate(traces.past):
        for step in range(5, int(traces.length[user])):
            clicks, shown = traces.item[user, :step], traces.shown[user, : step + 1].ravel()
            p, target = probabilities(world, past, clicks, shown), int(traces.item[user, step])
            assert p.sum() == pytest.approx(1)
            before = world.group[np.append(past, clicks)]
            times_shown = np.bincount(world.group[shown[-RING:]], minlength=world.groups)
            kinds = {
                "tired": times_shown[world.group] >= TIRED,
                "recent": np.isin(world.group, before[-RECENT:]),
                "following": world.group == world.follows[before[-1]],
                "favourite": np.isin(world.group, world.group[past]),
            }
            for name, some in kinds.items():
                share = float(p[some].sum())
                expected[name] += share
                spread[name] += share * (1 - share)
                found[name] += bool(some[target])
    for name in expected:
        assert abs(found[name] - expected[name]) < 4 * np.sqrt(spread[name]), name


def test_no_other_ranker_gets_above_the_optimum() -> None:
    world = replace(SMALL, users=150)
    traces, draw = Traces(world, 0, world.users), np.random.default_rng(3)
    ranks: dict[str, list[int]] = {name: [] for name in ("optimum", "popular", "taste", "last", "fresh")}
    for user, past in enumerate(traces.past):
        for step in range(int(traces.length[user])):
            clicks, shown = traces.item[user, :step], traces.shown[user, : step + 1].ravel()
            before = world.group[np.append(past, clicks)]
            scores = {
                "optimum": probabilities(world, past, clicks, shown),
                "popular": world.popular,
                "taste": np.isin(world.group, world.group[past]) + world.popular,
                "last": (world.group == world.follows[before[-1]]) + world.popular,
                "fresh": ~np.isin(world.group, world.group[shown[-RING:]]) + world.popular,
            }
            target = int(traces.item[user, step])
            others = draw.choice(np.delete(np.arange(world.items), target), 20, replace=False)
            listed = draw.permutation(np.append(others, target))
            for name, values in scores.items():
                ranks[name].append(rank(values[listed], int(np.flatnonzero(listed == target)[0])).rank)
    best = metrics(ranks.pop("optimum"))
    for name, of in ranks.items():
        assert all(value < best[metric] for metric, value in metrics(of).items()), name


def test_where_all_is_noise_the_optimum_is_chance() -> None:
    found = optimum(replace(SMALL, noise=1.0, users=100, items=150))
    assert found == pytest.approx(chance(100), abs=0.03)


def test_a_source_that_is_not_synthetic_has_no_known_optimum() -> None:
    assert of_source("ml-1m:somewhere") is None
    assert of_source("synthetic:users=20,items=120") == optimum(Synthetic(users=20, items=120))


def log_of(world: Synthetic) -> InteractionLog:
    """The log as the tables hold it, in epochs of two days."""
    user, item, kind, time = columns(world)
    order = np.lexsort((time, user))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=world.users + 1)[1:])])
    item, kind, time = item[order], kind[order].astype(np.int64), time[order]
    return InteractionLog(offsets, item, kind, time, np.zeros_like(item), time // (2 * 86_400_000))


@torch.no_grad()
def ndcg(nets: Nets, catalogue: Catalogue, states: ClickStates, some: Ints) -> dict[str, float]:
    """Return the metrics of mc2sf and of the clicks so far, against all other items."""
    spec, draw = states.spec, np.random.default_rng(0)
    size = len(catalogue)
    listed = draw.permuted(np.tile(np.arange(FIRST_ROW, FIRST_ROW + size), (len(some), 1)), axis=1)
    clicks, shown = catalogue.rows(states.click_keys), catalogue.rows(states.exposure_keys)
    of = (
        states.history.gather(clicks, some, spec.history_long, ROW_PADDING),
        states.closed.gather(shown, some, spec.threshold, ROW_PADDING),
        states.clicks.gather(clicks, some, spec.history_short, ROW_PADDING),
        states.exposures.gather(shown, some, spec.history_short, ROW_PADDING),
        listed,
    )
    log = states.log
    statistics = log.item_statistics(catalogue)
    buckets = statistics.buckets_of(listed, np.repeat(log.epochs[states.event[some], None], size, 1))
    batch = to_batch(of, buckets, catalogue.size, draw, 0.0)
    scores = nets(batch.inputs(nets, nets.encoder.E[batch.rows])).mc2sf.numpy()
    counts = np.bincount(catalogue.rows(states.target[states.time < states.time[some].min()]), minlength=size + 2)
    place = np.argmax(listed == catalogue.rows(states.target[some])[:, None], axis=1)
    ranked = {"mc2sf": scores, "popularity": counts[listed]}
    return {
        name: metrics([rank(row, int(at)).rank for row, at in zip(values, place, strict=True)])["ndcg@10"]
        for name, values in ranked.items()
    }


def learnt(world: Synthetic) -> dict[str, float]:
    """NDCG@10 on the newest clicks after one retrain on all before them."""
    spec = ViewSpec(history_long=24, history_short=8, threshold=5)
    sizes = NetConfig(16, 24, 8, 5, attention=(16, 8), gate=(16, 8), head=(32, 16))
    config = TrainConfig(passes=4, held_out=0.1)
    log = log_of(world)
    result = retrain(Nets.initial(sizes, FIRST_ROW, 1), Catalogue([]), log, config=config, spec=spec, seed=1)
    states = click_states(log, spec)
    return ndcg(result.nets, result.catalogue, states, states.order()[-result.n :][:500])


@pytest.mark.slow
def test_a_short_retrain_lifts_mc2sf_far_above_popularity() -> None:
    found = learnt(Synthetic(users=150, items=40, groups=8, favourites=2, clicks=24))
    assert found["popularity"] > chance(40)["ndcg@10"]
    assert found["mc2sf"] > 1.4 * found["popularity"], found


@pytest.mark.slow
def test_noise_is_not_learnt() -> None:
    found = learnt(Synthetic(users=60, items=40, groups=8, favourites=2, clicks=24, noise=1.0))
    assert found["mc2sf"] == pytest.approx(chance(40)["ndcg@10"], abs=0.06)
