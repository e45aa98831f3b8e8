"""Repeats: how often a candidate is among the clicks that a net sees, in training, in serving, and in the floor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.data.catalogue import FIRST_ROW, ROW_PADDING, ROW_UNKNOWN, Catalogue
from models.data.event_kinds import CLICK
from models.data.interaction_log import InteractionLog, click_states
from models.data.repeats import repeats
from models.data.views import ViewSpec
from models.mc2sf.nets import NetConfig, Nets
from models.mc2sf.tiled_scorer import Scorer
from models.training.held_out import HeldOut
from models.training.minibatches import ClickSource
from models.training.popularity_floor import fit_repeats

CONFIG = NetConfig(dim=8, attention=(8, 4), gate=(8, 4), head=(8, 4), history_long=6, history_short=3, floor=True)
SPEC = ViewSpec(threshold=4, history_long=6, history_short=3)
ITEMS = 40


def log_of(users: int, events: int, *, again: float) -> InteractionLog:
    """Clicks of which a share `again` repeats one of the user's last three; the others are on new items."""
    draw = np.random.default_rng(1)
    keys = np.empty((users, events), np.int64)
    for user in keys:
        fresh = iter(draw.permutation(ITEMS).tolist())
        for i in range(events):
            user[i] = 100 + next(fresh) if not i or draw.random() >= again else user[max(0, i - 3) : i][0]
    n = users * events
    times = 1000 * (np.tile(np.arange(events), users) * users + np.repeat(np.arange(users), events)) + 1000
    epochs = np.tile(np.arange(events) // 5, users)
    kinds, impressions = np.full(n, CLICK, np.int64), np.zeros(n, np.int64)
    return InteractionLog(np.arange(0, n + 1, events), keys.ravel(), kinds, times, impressions, epochs)


def fitted(log: InteractionLog, before: float = 0.0) -> tuple[Nets, ClickSource]:
    """Return untrained nets with weights of the repeats fitted to all clicks, and the clicks."""
    catalogue = Catalogue(np.unique(log.keys))
    source = ClickSource.from_states(click_states(log, SPEC), catalogue)
    nets = Nets.initial(CONFIG, catalogue.size, 1)
    clicks = np.arange(len(source.targets))
    fit_repeats(nets, [HeldOut.draw(source, clicks[half::2], 1) for half in (0, 1)], torch.full((4,), before))
    return nets, source


def test_repeats_are_counted_per_candidate_and_not_of_padding_or_unknown_items() -> None:
    clicks = np.array([ROW_PADDING, ROW_UNKNOWN, ROW_UNKNOWN, 5, 6, 5])
    items = np.array([ROW_PADDING, ROW_UNKNOWN, 5, 6, 7])
    np.testing.assert_allclose(repeats(clicks, items), np.log1p([0, 0, 2, 1, 0]), rtol=1e-6)
    both = repeats(np.stack([clicks, clicks[::-1] * 0]), np.stack([items, items]))
    np.testing.assert_array_equal(both, [repeats(clicks, items), np.zeros(5)])
    assert repeats(clicks[:0], items).tolist() == [0] * 5
    assert repeats(np.full(1000, 5), np.array([5])) == pytest.approx(np.log1p(255))


def test_repeats_count_where_users_click_again_and_nowhere_else() -> None:
    nets, _ = fitted(log_of(40, 20, again=0.6))
    assert float(nets.encoder.repeats.min()) > 0.5
    nets, _ = fitted(log_of(40, 20, again=0.0))
    assert nets.encoder.repeats.tolist() == [0, 0, 0, 0]


def test_a_weight_from_before_needs_no_test_but_does_not_survive_harm() -> None:
    few = log_of(2, 8, again=0.3)
    nets, _ = fitted(few)
    assert nets.encoder.repeats.tolist() == [0, 0, 0, 0], "no evidence in so few clicks"
    nets, _ = fitted(few, before=1.0)
    assert float(nets.encoder.repeats.min()) > 0
    nets, _ = fitted(log_of(40, 20, again=0.0), before=1.0)
    assert nets.encoder.repeats.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("net", range(4))
def test_serving_counts_repeats_in_the_history_that_the_net_sees_as_training_does(net: int) -> None:
    nets, source = fitted(log_of(10, 20, again=0.6))
    with torch.no_grad():
        nets.encoder.repeats.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]))
    chosen = source.states.order()[-30:]
    items = source.candidates(chosen, np.random.default_rng(2), n=9)
    batch = source.batch_of(chosen, items)
    with torch.inference_mode():
        trained = nets(batch.inputs(nets, nets.encoder.E[batch.rows]))[net]
    scorer, zero = Scorer(nets), np.zeros(CONFIG.dim, np.float32)
    for i, click in enumerate(chosen.tolist()):
        seen = source.states.view(click)
        history, clicks = (source.catalogue.rows(keys) for keys in (seen.history, seen.clicks))
        statistics = batch.item_statistics[i].numpy().astype(np.uint8)
        # clicks before those that count: a history may be longer than the net sees
        longer = np.concatenate([np.full(9, items[i, 1]), history]) if len(history) == SPEC.history_long else history
        slow = scorer.slow(longer, zero, items[i], statistics)
        fast = scorer.fast(clicks, clicks[:0], items[i], slow.r_t, slow.r_n, statistics)
        served = (slow.din, slow.f2s, fast.fast, fast.mc2sf)[net]
        np.testing.assert_allclose(served, trained[i], rtol=1e-4, atol=1e-4)


def test_without_a_floor_repeats_change_nothing() -> None:
    nets = Nets.initial(replace(CONFIG, floor=False), 20, 1)
    rows, zero = np.array([FIRST_ROW, FIRST_ROW + 1]), np.zeros((2, CONFIG.dim), np.float16)
    assert "repeats" not in dict(nets.encoder.named_buffers())
    assert np.isfinite(Scorer(nets).fast(rows, rows, rows, zero, zero).fast).all()
