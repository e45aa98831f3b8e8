"""Retraining: what is learnt, what is not changed, and that the seed determines the result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.data.catalogue import FIRST_ROW, ROW_PADDING, ROW_UNKNOWN, Catalogue
from models.data.event_kinds import CANDIDATE, CLICK, EXPOSURE
from models.data.interaction_log import InteractionLog, click_states
from models.data.views import ViewSpec
from models.evaluation.metrics import chance, metrics, rank
from models.mc2sf.checkpoint import pack
from models.mc2sf.nets import NetConfig, Nets
from models.mc2sf.tiled_scorer import Scorer
from models.optimisers.row_adam import RowAdam
from models.training.minibatches import ClickSource
from models.training.negative_sampling import draw_uniform
from models.training.retrain import TrainConfig, TrainResult, at_pace, retrain, select, train, with_larger_batches

SIZES = NetConfig(dim=8, history_long=8, history_short=4, threshold=3, attention=(8, 4), gate=(8, 4), head=(16, 8))
SPEC = ViewSpec(history_long=8, history_short=4, threshold=3)
CONFIG = TrainConfig(batch=64, learning_rate=5e-3, older=1.0, held_out_max=200)


def log_of(users: int, events: int, items: int, seed: int = 0, *, learnable: bool = True) -> InteractionLog:
    """Return a log in which each user clicks items of one of four groups and is also shown items of the others."""
    rng = np.random.default_rng(seed)
    n = users * events
    group = np.repeat(rng.integers(0, 4, users), events)
    kinds = rng.integers(0, 2, n)
    of_group = np.where(kinds == CLICK, group, (group + rng.integers(1, 4, n)) % 4)
    keys = rng.integers(0, items // 4, n) * 4 + (of_group if learnable else rng.integers(0, 4, n))
    times = np.tile(np.arange(events) * 1000, users) + np.repeat(np.arange(users), events)
    zeros = np.zeros(n, np.int64)
    return InteractionLog(
        np.arange(0, n + 1, events), keys + 100, kinds, times, zeros, np.tile(np.arange(events) // 10, users)
    )


def retrained(log: InteractionLog, **changes: object) -> TrainResult:
    nets, config = Nets.initial(SIZES, FIRST_ROW, 1), replace(CONFIG, **changes)  # type: ignore[arg-type]  # fields by name
    return retrain(nets, Catalogue([]), log, config=config, spec=SPEC, seed=1)


def ndcg(result: TrainResult, log: InteractionLog) -> dict[str, float]:
    """Return a metric of the four scores, on the last clicks of `log` against 20 negatives."""
    scorer, catalogue, states = Scorer(result.nets), result.catalogue, click_states(log, SPEC)
    statistics = log.item_statistics(catalogue)
    rng = np.random.default_rng(5)
    ranks: dict[str, list[int]] = {name: [] for name in ("din", "f2s", "fast", "mc2sf")}
    for i in states.order()[-300:]:
        seen = states.view(i)
        target = catalogue.rows(states.target[i : i + 1])
        rows, place = draw_uniform(rng, target, catalogue.size, 20)[0], int(rng.integers(0, 21))
        rows = np.insert(rows, place, target)
        window = catalogue.rows(seen.window_items)
        r2 = scorer.encode_exposures(np.zeros((1, 8), np.float32), [window])[0]
        buckets = statistics.buckets_of(rows, np.full(len(rows), log.epochs[states.event[i]]))
        slow = scorer.slow(catalogue.rows(seen.history), r2, rows, buckets)
        short = catalogue.rows(seen.clicks), catalogue.rows(seen.exposures)
        fast = scorer.fast(*short, rows, slow.r_t, slow.r_n, buckets)
        for name, scores in (("din", slow.din), ("f2s", slow.f2s), ("fast", fast.fast), ("mc2sf", fast.mc2sf)):
            ranks[name].append(rank(scores, place).rank)
    return {name: metrics(of)["ndcg@10"] for name, of in ranks.items()}


@pytest.mark.slow
def test_users_with_a_taste_are_learnt_by_all_four_nets_and_noise_by_none() -> None:
    log = log_of(60, 30, 40)
    found = ndcg(retrained(log, passes=8), log)
    constant = chance(21)["ndcg@10"]
    # knowing the group leaves a quarter of the items: a rank of about 3 of 21
    assert min(found.values()) > constant + 0.15
    noise = log_of(100, 30, 80, learnable=False)
    result, unseen = retrained(noise, passes=3), log_of(100, 30, 80, seed=9, learnable=False)
    assert ndcg(result, unseen) == pytest.approx(dict.fromkeys(found, constant), abs=0.07)


def test_users_with_a_single_click_are_trained_on() -> None:
    result = retrained(log_of(200, 1, 40))
    assert result.steps > 0
    assert result.finite
    assert all(bool(torch.isfinite(weight).all()) for weight in result.nets.parameters())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    log, config = log_of(40, 30, 40), replace(CONFIG, passes=3)
    nets = Nets.initial(SIZES, FIRST_ROW, 1)
    one, same, other = (retrain(nets, Catalogue([]), log, config=config, spec=SPEC, seed=seed) for seed in (1, 1, 2))
    assert one.kept
    assert pack(one.nets) == pack(same.nets)
    assert torch.equal(one.nets.encoder.E, same.nets.encoder.E)
    assert (one.active, one.candidate) == (same.active, same.candidate)
    assert pack(one.nets) != pack(other.nets)


def test_the_nets_passed_in_are_not_changed() -> None:
    nets = Nets.initial(SIZES, FIRST_ROW, 1)
    before = {name: w.clone() for name, w in nets.state_dict().items()}
    result = retrain(nets, Catalogue([]), log_of(10, 20, 40), config=CONFIG, spec=SPEC, seed=1)
    assert result.steps > 0
    assert all(torch.equal(w, before[name]) for name, w in nets.state_dict().items())


def test_rows_of_items_that_no_batch_holds_stay_equal_byte_for_byte() -> None:
    log, untouched = log_of(10, 20, 40), np.arange(900, 950)
    catalogue = Catalogue(untouched).extended(np.unique(log.keys))
    nets = Nets.initial(SIZES, catalogue.size, 1)
    source = ClickSource.from_states(click_states(log, SPEC), catalogue)
    some = np.arange(32)
    batch = source.batch(some, np.random.default_rng(1), n=4, unknown=0.2)
    before = nets.encoder.E.detach().clone()
    for _ in train(nets, [batch] * 3, CONFIG, 3):
        pass
    changed = set((nets.encoder.E.detach() != before).any(1).nonzero().flatten().tolist())
    assert changed
    assert changed <= set(batch.rows.tolist()) - {ROW_PADDING}
    assert ROW_UNKNOWN in changed
    assert not nets.encoder.E[ROW_PADDING].any()


def test_training_computes_where_the_weights_are() -> None:
    """Tensors created without a device argument would be on the meta device here, and mixing would fail."""
    log = log_of(10, 20, 40)
    catalogue = Catalogue([]).extended(np.unique(log.keys))
    batch = ClickSource.from_states(click_states(log, SPEC), catalogue).batch(
        np.arange(32), np.random.default_rng(1), n=4
    )

    def trained(made: str) -> list[torch.Tensor]:
        nets = Nets.initial(SIZES, catalogue.size, 1)
        with torch.device(made):
            for _ in train(nets, [batch] * 2, CONFIG, 2):
                pass
        return list(nets.parameters())

    assert all(torch.equal(a, b) for a, b in zip(trained("meta"), trained("cpu"), strict=True))


@pytest.mark.accelerator
def test_a_retrain_on_an_accelerator_learns_as_much() -> None:
    if not torch.cuda.is_available():
        pytest.skip("NO ACCELERATOR: retrains on one are not tested")
    log = log_of(60, 20, 12)
    losses = [
        retrain(
            Nets.initial(SIZES, 2, 1), Catalogue([]), log, config=CONFIG, spec=SPEC, seed=1, device=torch.device(device)
        ).candidate
        for device in ("cpu", "cuda")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_larger_batches_leave_enough_steps_and_the_rate_grows_with_their_root() -> None:
    config = TrainConfig(batch=64, batch_max=256, min_steps=100, passes=2, learning_rate=0.01)
    for clicks, batch in ((10, 64), (6_272, 64), (6_273, 128), (12_545, 256), (10**6, 256)):
        larger = with_larger_batches(config, clicks, warm=True)
        assert with_larger_batches(replace(config, min_steps=50), clicks, warm=False).batch == batch
        assert (larger.batch, larger.learning_rate) == (batch, pytest.approx(0.01 * (batch / 64) ** 0.5))
    assert with_larger_batches(replace(config, batch=512), 10**6, warm=True).batch == 512


def test_row_adam_is_adam_on_the_batches_that_hold_a_row() -> None:
    torch.manual_seed(0)
    E = torch.randn(6, 4)
    plain = [torch.nn.Parameter(row.clone()) for row in E]
    adams = [torch.optim.Adam([row], lr=0.01, weight_decay=0.1) for row in plain]
    rows = RowAdam(E, learning_rate=0.01, l2=0.1)
    for held in ([1, 2], [2, 3, 5], [1], [2, 5], [1, 2, 3]):
        gradient = torch.randn(len(held), 4)
        rows.step(torch.tensor(held), gradient)
        for row, g in zip(held, gradient, strict=True):
            plain[row].grad = g.clone()
            adams[row].step()
    torch.testing.assert_close(E, torch.stack([row.detach() for row in plain]))


@pytest.mark.slow
def test_what_is_held_out_is_the_newest_and_is_trained_on_next_time() -> None:
    log, few = log_of(40, 30, 40), {"held_out_min": 0, "passes": 8}
    times = np.sort(click_states(log, SPEC).time)
    first = retrained(log, held_out=0.2, **few)
    assert first.kept
    assert first.trained == len(times) - len(times) // 5
    assert first.n == len(times) // 5 // 2  # the others select
    assert first.trained_until == times[first.trained - 1]
    config = replace(CONFIG, held_out_min=0, held_out=0.2)
    again = retrain(first.nets, first.catalogue, log, config=config, spec=SPEC, seed=1, since=first.trained_until)
    new = int((times > first.trained_until).sum())
    assert again.trained == 2 * (new - new // 5)  # and as many older ones
    assert again.catalogue == first.catalogue
    assert retrained(log, held_out_max=5, **few).n == 2


def test_a_warm_start_shows_no_more_new_clicks_than_old_ones_if_there_are_many() -> None:
    config = TrainConfig(max_clicks=2000, older=3)
    generator = np.random.default_rng(1)
    for new, old, warm, news, all_shown in (
        (900, 0, False, 900, 1800),  # two passes
        (3000, 0, False, 3000, 2000),  # the first of so many
        (100, 900, True, 100, 800),  # two passes
        (800, 900, True, 800, 2000),  # one and a fraction
        (1500, 1200, True, 1000, 2000),
        (1500, 900, True, 1100, 2000),  # fewer old ones than there is room for
    ):
        fresh, older = np.arange(new), new + np.arange(old)
        selected, planned = select(fresh, older, config, generator, warm=warm)
        assert len(np.unique(selected)) == len(selected)
        assert int((selected < new).sum()) == news
        assert min(planned.max_clicks, planned.passes * len(selected)) == all_shown


@pytest.mark.slow
def test_training_that_helps_on_no_held_out_click_leaves_the_nets_as_they_were() -> None:
    nets = Nets.initial(replace(SIZES, floor=True), FIRST_ROW, 1)
    with torch.no_grad():
        nets.encoder.popularity.zero_()
    log = log_of(60, 30, 80, learnable=False)
    result = retrain(nets, Catalogue([]), log, config=replace(CONFIG, passes=8), spec=SPEC, seed=1)
    assert result.steps > 50
    assert result.candidate <= result.active
    assert (result.kept, result.trained_until) == (0, 0)
    assert torch.equal(result.nets.encoder.E[FIRST_ROW:], nets.encoder.E[ROW_UNKNOWN].expand(len(result.catalogue), -1))


@pytest.mark.slow
def test_after_a_retrain_that_learnt_nothing_the_next_one_begins_from_scratch() -> None:
    log, nets, config = log_of(60, 30, 40), Nets.initial(SIZES, FIRST_ROW, 1), replace(CONFIG, passes=4)
    first, zero, later = (
        retrain(nets, Catalogue([]), log, config=config, spec=SPEC, seed=1, since=since) for since in (None, 0, 1)
    )
    assert first.kept
    assert (zero.steps, zero.trained, zero.active) == (first.steps, first.trained, first.active)
    assert torch.equal(zero.nets.encoder.E, first.nets.encoder.E)
    assert not torch.equal(later.nets.encoder.E, first.nets.encoder.E)


def test_held_out_clicks_on_rare_items_do_not_refuse_the_popularity_floor() -> None:
    """The newest clicks may come from a few users at the end of their visits, and no net learns anything here."""
    log, rng = log_of(60, 40, 80, learnable=False), np.random.default_rng(2)
    popular, rare = 100 + rng.integers(0, 10, len(log.keys)), 110 + rng.integers(0, 70, len(log.keys))
    late = np.tile(np.arange(40) >= 36, 60)
    log = replace(log, keys=np.where(late | (rng.random(len(late)) < 0.2), rare, popular))
    nets = Nets.initial(replace(SIZES, floor=True), FIRST_ROW, 1)
    result = retrain(nets, Catalogue([]), log, config=replace(CONFIG, floor_clicks=500), spec=SPEC, seed=1)
    assert not torch.equal(result.nets.encoder.popularity, nets.encoder.popularity)
    clicks = result.nets.encoder.popularity[0]
    assert clicks[-1] > clicks[1] + 1


def test_nets_above_a_floor_rank_by_popularity_before_any_training() -> None:
    nets, buckets = Nets.initial(replace(SIZES, floor=True), FIRST_ROW, 1), np.zeros((6, 3), np.uint8)
    buckets[:, 0] = [0, 3, 9, 1, 23, 12]
    zero, unknown = np.zeros(8, np.float32), np.full(6, ROW_UNKNOWN)
    slow = Scorer(nets).slow(unknown[:2], zero, unknown, buckets)
    fast = Scorer(nets).fast(unknown[:2], unknown[:2], unknown, slow.r_t, slow.r_n, buckets)
    for scores in (slow.din, slow.f2s, fast.fast, fast.mc2sf):
        assert np.argsort(scores).tolist() == [0, 3, 1, 2, 5, 4]


def test_a_retrain_moves_the_nets_less_the_less_of_the_log_it_uses() -> None:
    """Adam's first step moves a weight by the learning rate."""
    log = log_of(40, 30, 40)
    catalogue = Catalogue(np.unique(log.keys))
    batch = ClickSource.from_states(click_states(log, SPEC), catalogue).batch(
        np.arange(32), np.random.default_rng(1), n=4
    )
    for used in (100, 20):
        nets = Nets.initial(SIZES, catalogue.size, 1)
        before = [weight.detach().clone() for weight in nets.slow.parameters()]
        list(train(nets, [batch], at_pace(CONFIG, used, 100), 1))
        pairs = zip(nets.slow.parameters(), before, strict=True)
        moved = max(float((after - old).detach().abs().max()) for after, old in pairs)
        assert moved == pytest.approx(CONFIG.learning_rate * (used / 100) ** 1.5, rel=1e-3)


def test_new_items_are_appended_and_no_row_moves() -> None:
    first = retrained(log_of(10, 20, 40))
    more = log_of(10, 30, 80)
    second = retrain(first.nets, first.catalogue, more, config=CONFIG, spec=SPEC, seed=1, since=first.trained_until)
    assert np.array_equal(second.catalogue.keys[: len(first.catalogue)], first.catalogue.keys)
    assert set(second.catalogue.keys.tolist()) == set(first.catalogue.keys.tolist()) | set(more.keys.tolist())
    assert len(second.nets.encoder.E) == second.catalogue.size > first.catalogue.size
    assert second.finite
    assert np.isfinite(second.active)


@pytest.mark.slow
def test_training_lowers_the_held_out_loss() -> None:
    result = retrained(log_of(100, 40, 80), passes=4)
    assert result.candidate < result.active - 0.1


@pytest.mark.parametrize(("kind", "items"), [(EXPOSURE, 0), (EXPOSURE, 3), (CLICK, 1)])
def test_a_log_without_a_click_or_with_one_item_trains_nothing_and_says_so(kind: int, items: int) -> None:
    keys, zeros = np.arange(9) % items if items else np.empty(0, np.int64), np.zeros(9 if items else 0, np.int64)
    log = InteractionLog(np.array([0, len(keys)]), keys, zeros + kind, np.arange(len(keys)), zeros, zeros)
    nets = Nets.initial(replace(SIZES, floor=True, stacked=True), FIRST_ROW, 1)
    result = retrain(nets, Catalogue([]), log, config=CONFIG, spec=SPEC, seed=1)
    assert (result.n, result.steps, result.kept, len(result.catalogue)) == (0, 0, 0, items)
    assert result.finite


def test_weights_that_are_not_finite_are_noticed() -> None:
    log = log_of(5, 20, 40)
    nets = Nets.initial(SIZES, FIRST_ROW, 1)
    with torch.no_grad():
        nets.slow.w_s.bias[0] = torch.nan
    assert not retrain(nets, Catalogue([]), log, config=CONFIG, spec=SPEC, seed=1).finite


def test_progress_is_called_at_every_step() -> None:
    calls: list[tuple[int, int, float]] = []
    result = retrain(
        Nets.initial(SIZES, FIRST_ROW, 1),
        Catalogue([]),
        log_of(10, 20, 40),
        config=CONFIG,
        spec=SPEC,
        seed=1,
        progress=lambda *step: calls.append(step),
    )
    assert [step for step, _, _ in calls] == list(range(1, result.steps + 1))
    assert {steps for _, steps, _ in calls} == {result.steps}


def test_uniform_negatives_are_all_items_but_the_target_alike() -> None:
    rng = np.random.default_rng(0)
    drawn = draw_uniform(rng, np.full(20_000, 5), FIRST_ROW + 10, 4)
    counts = np.bincount(drawn.ravel(), minlength=FIRST_ROW + 10)
    assert counts[[ROW_PADDING, ROW_UNKNOWN, 5]].tolist() == [0, 0, 0]
    assert abs(np.delete(counts, [0, 1, 5]) - 80_000 / 9).max() < 500
    unknown = draw_uniform(rng, np.full(1000, ROW_UNKNOWN), FIRST_ROW + 10, 4)
    assert set(unknown.ravel().tolist()) <= set(range(FIRST_ROW, FIRST_ROW + 10))
    with pytest.raises(ValueError, match="two items"):
        draw_uniform(rng, np.array([2]), FIRST_ROW + 1, 4)


def test_a_click_with_a_slate_gets_its_negatives_from_there_without_repetition() -> None:
    # two impressions: five items not clicked and two clicks, then one not clicked; and a click without an impression
    kinds = np.array([EXPOSURE, CLICK, CANDIDATE, EXPOSURE, CLICK, CANDIDATE, EXPOSURE, CLICK, EXPOSURE, CLICK])
    impressions = np.array([7] * 7 + [8] * 2 + [0])
    keys, zeros = np.arange(10, 20), np.zeros(10, np.int64)
    catalogue = Catalogue(np.arange(10, 60))
    source = ClickSource.from_states(
        click_states(InteractionLog(np.array([0, 10]), keys, kinds, zeros, impressions, zeros), SPEC), catalogue
    )
    batch = source.batch(np.arange(4), np.random.default_rng(0), n=4)
    chosen = {
        int(catalogue.keys[row[0] - FIRST_ROW]): catalogue.keys[row[1:] - FIRST_ROW].tolist()
        for row in batch.rows.numpy()[batch.items.numpy()]
    }
    for click in (11, 14):
        assert len(set(chosen[click])) == 4
        assert set(chosen[click]) <= {10, 12, 13, 15, 16}
    assert set(chosen[17]) == {18}
    assert not set(chosen[19]) & {18, 19}


def test_replaced_items_are_replaced_everywhere_in_the_batch_and_about_as_often_as_asked() -> None:
    log = log_of(40, 40, 400)
    catalogue = Catalogue(np.unique(log.keys))
    source, some = ClickSource.from_states(click_states(log, SPEC), catalogue), np.arange(500)
    whole = source.batch(some, np.random.default_rng(2), n=4)
    batch = source.batch(some, np.random.default_rng(2), n=4, unknown=0.2)
    pairs = set()
    for mine, its in zip(whole[1:-2], batch[1:-2], strict=True):
        pairs |= set(zip(whole.rows[mine].flatten().tolist(), batch.rows[its].flatten().tolist(), strict=True))
    assert len(pairs) == len({row for row, _ in pairs})  # one fate an item
    assert torch.equal(whole.item_statistics, batch.item_statistics)  # also known of items replaced by the unknown row
    replaced = [row for row, now in pairs if row != now]
    assert all(now == ROW_UNKNOWN for row, now in pairs if row != now)
    assert len(replaced) / len(pairs) == pytest.approx(0.2, abs=0.06)
    clicked, other = (
        float((batch.rows[batch.items[:, c]] == ROW_UNKNOWN).float().mean()) for c in (slice(1), slice(1, None))
    )
    assert clicked == pytest.approx(other, abs=0.06)  # says nothing of the label


@pytest.mark.parametrize(("sign", "other"), [(1, False), (-1, True)], ids=["logged", "simulated"])
def test_only_logged_slates_give_their_items_that_were_not_clicked_as_negatives(sign: int, other: bool) -> None:
    """Simulated exposures follow popularity: as negatives they would teach the opposite."""
    kinds = np.tile([CLICK, EXPOSURE], 200)
    keys = np.where(kinds == CLICK, 100 + np.arange(400) % 40, 7)  # item 7 is shown in each slate
    slate = sign * (np.arange(400) // 2 + 1)
    log = InteractionLog(np.arange(0, 401, 20), keys, kinds, np.arange(400) * 1000, slate, np.zeros(400, np.int64))
    catalogue = Catalogue(np.unique(keys))
    source = ClickSource.from_states(click_states(log, SPEC), catalogue)
    batch = source.batch(np.arange(50), np.random.default_rng(1), n=4)
    drawn = set(batch.rows[batch.items[:, 1:]].flatten().tolist())
    assert bool(drawn - set(catalogue.rows(np.array([7])).tolist())) is other
