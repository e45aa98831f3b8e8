"""The benchmark of a day's increment: how it cuts the log, and that it judges what nobody was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.training import increment
from models.data.catalogue import Catalogue
from models.training.retrain import TrainConfig, at_pace
from replay.prepare.plan import Options
from replay.prepare.prepare import prepare
from replay.sources.source import parse


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("plan")
    return prepare(parse("synthetic:users=30,items=40,clicks=30"), Options(epoch="100"), folder)


def test_the_log_is_cut_where_the_plan_ends_its_epochs(plan: Any) -> None:
    log = increment.read(plan)
    assert np.bincount(log.epochs).tolist() == np.diff((0, *plan.ends)).tolist()
    early = increment.until(log, 3)
    assert len(early.keys) == plan.ends[2]
    assert early.epochs.max() == 2
    kept = log.epochs < 3
    assert np.array_equal(early.users, log.users[kept])
    assert np.array_equal(early.keys, log.keys[kept])


def test_it_judges_the_clicks_of_the_epochs_asked_for(plan: Any) -> None:
    log = increment.read(plan)
    judge = increment.Judge(log, Catalogue(np.unique(log.keys)), 4, 6, seed=1)
    asked = (log.epochs >= 4) & (log.epochs < 6) & (log.kinds == 1)
    assert 0 < len(judge) == int(asked.sum())


@pytest.mark.slow
def test_every_point_has_a_row_and_later_events_change_none(plan: Any) -> None:
    log = increment.read(plan)
    config = TrainConfig(table_passes=1)
    rows = increment.measured(log, 4, 2, config, 1, lambda _row: None, (64, 128), (128,))
    shown = {
        how: [row["clicks_shown"] for row in rows if row["how"] == how] for how in ("warm", "whole rate", "scratch")
    }
    assert shown == {"warm": [64, 128], "whole rate": [64, 128], "scratch": [128]}
    rates = [at_pace(replace(config, pace=pace), 64, 900).learning_rate for pace in (config.pace, 0.0)]
    assert rates[0] < rates[1] == config.learning_rate  # on so few clicks both may end with the nets before
    assert all(0 <= value <= 1 for row in rows for value in row["ndcg@10"].values())
    without = increment.measured(increment.until(log, 8), 4, 2, config, 1, lambda _row: None, (64, 128), (128,))
    assert [row["ndcg@10"] for row in without] == [row["ndcg@10"] for row in rows]
    assert "<svg" in increment.draw(rows)
