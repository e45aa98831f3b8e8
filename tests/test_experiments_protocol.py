from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deploy.experiments.data.candidate_lists import draw_candidates, ranks
from deploy.experiments.data.dataset import load
from deploy.experiments.data.known_history import KnownHistory
from deploy.experiments.data.protocol import Phase, Positives, Protocol, cut_as_served, cut_for_training
from models.data.catalogue import FIRST_ROW, ROW_PADDING
from models.data.event_kinds import CLICK, EXPOSURE
from models.data.queries import Queries
from models.evaluation.metrics import metrics
from replay.errors import SourceError
from replay.sources.source import parse
from streams.settings import Exposures
from tests.support.experiments import SMALL, START, dataset, write_log


def clicks_of(folder: Path, user: int = 0, **sizes: int) -> tuple[np.ndarray, np.ndarray]:
    data = dataset(folder, **sizes)
    mine = (data.log.users == user) & (data.log.kinds == CLICK)
    return data.log.keys[mine], data.phase[mine]


def test_the_last_five_are_test_and_the_five_before_fast_with_one_held_out(tmp_path: Path) -> None:
    _, phase = clicks_of(tmp_path)
    expected = [Phase.SLOW] * 20 + [Phase.FAST] * 4 + [Phase.VALIDATION] + [Phase.TEST] * 5
    assert phase.tolist() == expected


def test_exposures_have_no_phase(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    assert (data.phase[data.log.kinds != CLICK] == -1).all()


def test_users_with_too_little_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    write_log(path, users=3)
    few = "".join(f"few,{i},{START + i + 1},click\n" for i in range(19))
    path.write_text(path.read_text() + few)
    data = load(parse(f"log:{path}"), SMALL, tmp_path / "sorted")
    assert data.users == ["u0", "u1", "u2"]


def test_nothing_left_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="20 interactions"):
        dataset(tmp_path, clicks=10)
    assert dataset(tmp_path, clicks=30).items
    with pytest.raises(SourceError, match="20 interactions and 11 clicks, on items that have 20 as well"):
        dataset(tmp_path, replace(SMALL, min_count="both"), clicks=30)


def test_rare_items_are_dropped_only_where_both_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    write_log(path)
    rare = "".join(f"u{user},rare,{START + 1000 + user},click\n" for user in range(3))
    path.write_text(path.read_text() + rare)
    kept = {
        rule: load(parse(f"log:{path}"), replace(SMALL, min_count=rule, minimum=4), tmp_path / rule).items
        for rule in ("users", "both")
    }
    assert "rare" in kept["users"]
    assert "rare" not in kept["both"]


def test_a_sample_of_users_is_a_part_of_a_larger_one(tmp_path: Path) -> None:
    source = write_log(tmp_path / "log.csv")
    some, more = (load(source, SMALL, tmp_path / str(n), users=n).users for n in (5, 12))
    assert len(some) == 5
    assert set(some) < set(more)


def test_the_slow_side_sees_the_slow_phase_only_and_the_fast_one_all_before_the_target(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    known = KnownHistory.of(cut_as_served(data.log, data.phase, SMALL), SMALL)
    for user in range(4):
        places = np.flatnonzero((data.log.users == user) & (data.log.kinds == CLICK))
        keys = data.log.keys[places]
        for i in range(24, 30):
            queries = known.queries(places[i : i + 1])
            assert queries.history[0].tolist() == keys[:20].tolist()
            assert queries.clicks[0].tolist() == keys[i - 10 : i].tolist()


def test_undelayed_the_slow_side_sees_all_before_the_target(tmp_path: Path) -> None:
    protocol = replace(SMALL, delayed=False)
    data = dataset(tmp_path, protocol)
    known = KnownHistory.of(cut_as_served(data.log, data.phase, protocol), protocol)
    places = np.flatnonzero((data.log.users == 0) & (data.log.kinds == CLICK))
    assert known.queries(places[-1:]).history[0].tolist() == data.log.keys[places[9:29]].tolist()


def test_r2_is_of_the_last_exposures_or_of_the_last_closed_window(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    log = cut_as_served(data.log, data.phase, SMALL)
    place = np.flatnonzero((data.log.users == 0) & (data.log.kinds == CLICK))[-1:]
    shown = data.log.keys[(data.log.users == 0) & (data.log.kinds != CLICK)]
    assert KnownHistory.of(log, SMALL).queries(place).window[0].tolist() == shown[-5:].tolist()
    assert KnownHistory.of(log, SMALL, fresh=False).queries(place).window[0].tolist() == shown[24:28].tolist()


def test_a_training_click_never_sees_itself_or_later_ones(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    log = cut_for_training(data.log, data.phase, 6, np.random.default_rng(1))
    known = KnownHistory.of(log, SMALL)
    for user in range(4):
        places = np.flatnonzero((data.log.users == user) & (data.log.kinds == CLICK))
        keys = data.log.keys[places].tolist()
        ages = set()
        for i in range(1, 20):
            seen = known.queries(places[i : i + 1]).history[0]
            seen = seen[seen != ROW_PADDING].tolist()
            ages.add(i - len(seen))
            assert seen == keys[: len(seen)]
            assert len(seen) <= i
        assert ages == set(range(6))


def test_queries_of_one_history_share_it_and_others_do_not(tmp_path: Path) -> None:
    protocol = replace(SMALL, history=6)  # shorter than what there is: lengths alone don't tell histories apart
    data = dataset(tmp_path, protocol)
    log = cut_for_training(data.log, data.phase, 5, np.random.default_rng(1))
    known, places = KnownHistory.of(log, protocol), data.clicks(Phase.SLOW)
    together = known.queries(places)
    assert len(together.history) == int(known.blocks(places).max()) + 1
    for i in range(0, len(places), 7):
        assert (
            together.history[together.history_index[i]].tolist() == known.queries(places[i : i + 1]).history[0].tolist()
        )


# candidates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["uniform", "popularity", "full"])
def test_a_list_holds_the_click_once_among_items_that_the_user_never_had(tmp_path: Path, rule: str) -> None:
    protocol = replace(SMALL, candidates=rule)
    data = dataset(tmp_path, protocol)
    clicks = data.clicks(Phase.TEST)
    found = draw_candidates(data, clicks, protocol)
    for i, click in enumerate(clicks):
        items = found.items[i][found.items[i] != ROW_PADDING]
        had = data.log.keys[(data.log.users == data.log.users[click]) & data.interacted]
        assert len(np.unique(items)) == len(items) >= 21
        assert items[found.target_index[i]] == data.log.keys[click]
        assert not np.isin(np.delete(items, found.target_index[i]), had).any()
        assert len(items) == (21 if rule != "full" else len(data.items) - len(np.unique(had)) + 1)


def test_popular_items_are_drawn_more_often_by_popularity(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    write_log(path, users=30)
    lines = path.read_text().splitlines()
    lines += [f"fan{f},{59 if i % 2 else 100 + i},{START + i + 1},click" for f in range(10) for i in range(40)]
    path.write_text("\n".join(lines) + "\n")
    share = {}
    for rule in ("uniform", "popularity"):
        protocol = replace(SMALL, candidates=rule, negatives=5)
        data = load(parse(f"log:{path}"), protocol, tmp_path / rule)
        clicks = data.clicks(Phase.TEST)
        found = draw_candidates(data, clicks, protocol).items
        share[rule] = (found == FIRST_ROW + data.items.index("59")).any(1).mean()
    assert share["popularity"] > 2 * share["uniform"]


def test_a_users_lists_do_not_depend_on_other_users(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    clicks = data.clicks(Phase.TEST)
    whole = draw_candidates(data, clicks, SMALL)
    mine = data.log.users[clicks] == 3
    alone = draw_candidates(data, clicks[mine], SMALL)
    assert np.array_equal(whole.items[mine], alone.items)
    assert np.array_equal(whole.target_index[mine], alone.target_index)


def test_a_constant_scorer_scores_chance_and_an_oracle_one(tmp_path: Path) -> None:
    data = dataset(tmp_path, users=200)
    found = draw_candidates(data, data.clicks(Phase.TEST), SMALL)
    known = KnownHistory.of(cut_as_served(data.log, data.phase, SMALL), SMALL)

    def request(some: np.ndarray) -> Queries:
        return known.queries(found.clicks[some])

    constant = metrics(ranks(lambda _, items: items * 0.0, request, found))
    assert abs(constant["hr@10"] - 10 / 21) < 0.05
    truth = iter(found.items[np.arange(len(found)), found.target_index])
    oracle = ranks(lambda _, items: 1.0 * (items == next(truth)), request, found, pairs=1)
    assert (oracle == 1).all()


def test_lists_shorter_than_asked_for_are_ranked_as_they_are(tmp_path: Path) -> None:
    protocol = Protocol(negatives=50, history=20, recent=10, short=5)
    data = dataset(tmp_path, protocol)
    found = draw_candidates(data, data.clicks(Phase.TEST), protocol)
    known = KnownHistory.of(cut_as_served(data.log, data.phase, protocol), protocol)
    targets = torch.from_numpy(data.log.keys[found.clicks])

    def worst(queries: Queries, items: Tensor) -> Tensor:
        """The clicked item last of all real ones; padding would beat it if it were looked at."""
        assert len(queries) == len(items) == len(targets)
        return (items != targets[:, None]).float()

    given = ranks(worst, lambda some: known.queries(found.clicks[some]), found, pairs=1 << 20)
    assert given.tolist() == (found.items != ROW_PADDING).sum(1).tolist()


# ratings ------------------------------------------------------------------------------------------------------------


def rated(folder: Path, users: int = 3, ratings: int = 30) -> str:
    """A file of ratings in ML-100K's form: 4 and 2 in turn, of other items for each user."""
    lines = [
        f"{user}\t{100 * user + i}\t{4 - i % 2 * 2}\t{1_600_000_000 + i}"
        for user in range(users)
        for i in range(ratings)
    ]
    (folder / "u.data").write_text("\n".join(lines) + "\n")
    return f"ml-100k:{folder}"


def test_ratings_below_four_are_exposures_or_clicks_as_all_others(tmp_path: Path) -> None:
    source = parse(rated(tmp_path))
    found = {
        positives: load(source, replace(SMALL, positives=positives), tmp_path / positives)
        for positives in ("rated", "all")
    }
    clicks, exposures = (
        {name: int((data.log.kinds == kind).sum()) for name, data in found.items()} for kind in (CLICK, EXPOSURE)
    )
    assert clicks == {"rated": 3 * 15, "all": 3 * 30}
    assert exposures["rated"] == 3 * 15
    assert [data.policy for data in found.values()] == ["rated", "simulated"]
    assert [data.positives for data in found.values()] == ["rated", "all"]


@pytest.mark.parametrize(("positives", "exposures"), [("all", "rated"), ("rated", "simulated"), ("rated", "logged")])
def test_positives_and_exposures_that_contradict_each_other_are_refused(
    tmp_path: Path, positives: Positives, exposures: Exposures
) -> None:
    with pytest.raises(SourceError, match="contradict each other"):
        load(parse(rated(tmp_path)), replace(SMALL, positives=positives, exposures=exposures), tmp_path / "sorted")


def test_clicks_of_a_log_are_clicks_whatever_the_positives(tmp_path: Path) -> None:
    assert dataset(tmp_path, replace(SMALL, positives="all")).positives == "logged"


def test_a_user_who_had_every_item_has_nothing_to_be_ranked_against(tmp_path: Path) -> None:
    data = dataset(tmp_path, users=3)
    everything = replace(data, log=replace(data.log, keys=np.arange(len(data.log.keys)) % len(data.items) + FIRST_ROW))
    with pytest.raises(SourceError, match="'u0' interacted with every item"):
        draw_candidates(
            replace(everything, interacted=np.ones(len(data.log.keys), np.bool_)), data.clicks(Phase.TEST), SMALL
        )
