"""The generated log of the shape of Alipay's: exact counts, one seed one log, and every row is accepted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from benchmarks import alipay_log
from benchmarks.alipay_log import EVENTS, ITEMS, LEAST, SHOWN, USERS
from deploy.cli.main import app

FRACTION = 0.0003


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("alipay") / "log.csv.gz"
    alipay_log.write(path, FRACTION, block=5_000)
    return path


@pytest.fixture(scope="module")
def rows(log: Path) -> pl.DataFrame:
    return pl.read_csv(log)


def test_users_and_events_are_the_share_asked_for(rows: pl.DataFrame) -> None:
    users, events = np.unique(rows["user"], return_counts=True)
    assert len(rows) == round(EVENTS * FRACTION)
    assert users.tolist() == list(range(1, round(USERS * FRACTION) + 1))
    assert events.min() >= LEAST
    assert set(rows["item"]) <= set(range(1, ITEMS + 1))


def test_few_users_and_items_have_much_of_the_log_and_few_shown_items_are_clicked(rows: pl.DataFrame) -> None:
    for column in ("user", "item"):
        events = np.sort(np.unique(rows[column], return_counts=True)[1])[::-1]
        assert events[: len(events) // 10].sum() > 0.3 * len(rows)
    assert 0.02 < np.mean(rows["event"].to_numpy() == "click") < 0.05


def test_an_impression_has_up_to_six_different_items_of_one_user_at_one_time(rows: pl.DataFrame) -> None:
    impressions = rows.group_by("impression").agg(pl.len(), pl.all().n_unique())
    assert set(impressions["len"]) <= set(range(1, SHOWN + 1))
    assert impressions["item"].to_list() == impressions["len"].to_list()
    assert set(impressions["user"]) == set(impressions["timestamp"]) == {1}
    assert rows["timestamp"].is_sorted()


def test_a_seed_makes_one_log(log: Path, tmp_path: Path) -> None:
    alipay_log.write(again := tmp_path / "again.csv.gz", FRACTION, block=5_000)
    alipay_log.write(other := tmp_path / "other.csv.gz", FRACTION, seed=2, block=5_000)
    assert again.read_bytes() == log.read_bytes() != other.read_bytes()


def test_inspect_reads_it_and_refuses_nothing(log: Path, rows: pl.DataFrame) -> None:
    done = CliRunner().invoke(app, ["data", "inspect", f"alipay:{log}", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["contents"]["rows"] == len(rows)
    assert (found["contents"]["users"], found["contents"]["impressions"]) == (309, rows["impression"].n_unique())
    assert not found["refused_first"]
    assert not found["findings"]
    assert found["without_impression"] == 0
