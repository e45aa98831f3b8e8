"""The benchmark of retrains after one another: each is judged on what comes after it only, and may be refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.training import increment, pace
from models.data.interaction_log import InteractionLog
from models.training.retrain import TrainConfig, retrain
from replay.prepare.plan import Options
from replay.prepare.prepare import prepare
from replay.sources.source import parse

CONFIG = TrainConfig(table_passes=1, passes=1)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> InteractionLog:
    folder: Path = tmp_path_factory.mktemp("plan")
    return increment.read(prepare(parse("synthetic:users=30,items=40,clicks=30"), Options(epoch="100"), folder))


@pytest.mark.slow
def test_a_row_is_judged_on_the_epochs_after_it_and_nothing_later_changes_it(log: InteractionLog) -> None:
    rows = pace.followed(log, 3, 10, CONFIG, 1)
    assert [row["epoch"] for row in rows] == [3, 6, 9]
    for row in rows:
        asked = (log.epochs >= row["epoch"]) & (log.epochs < row["epoch"] + 3) & (log.kinds == 1)
        assert 0 < row["judged"] == int(asked.sum())
    assert pace.followed(increment.until(log, 9), 3, 9, CONFIG, 1) == rows[:2]


def test_what_is_worse_on_the_held_out_clicks_is_not_released(log: InteractionLog) -> None:
    def judged(*args: object, **named: object) -> object:
        result = retrain(*args, **named)  # type: ignore[arg-type]
        return result._replace(candidate=result.active + (1 if named["since"] is not None else 0))

    first, *later = pace.followed(log, 3, 10, CONFIG, 1, judged)
    assert first["released"]  # as good as before is good enough
    assert not any(row["released"] for row in later)


def test_the_mean_is_over_clicks() -> None:
    rows = [{"judged": 1, "ndcg@10": {"din": 0.0}}, {"judged": 3, "ndcg@10": {"din": 0.4}}]
    assert pace._mean(rows) == {"din": 0.3}
