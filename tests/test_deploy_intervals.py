"""The intervals of a run's summary: on which clicks, of which variants, and in which words."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from rich.console import Console

from deploy.report import html
from deploy.report.intervals import Intervals, intervals
from deploy.report.terminal import show
from models.evaluation.metrics import METRICS, metrics
from streams.database import schema
from streams.database.engine import connect
from streams.prequential.ranked_clicks import RankedClicks, ranked_clicks
from tests.support.report import RUN, fill, put, summary
from tests.support.runs import CLICKS, outcomes

USERS = 60


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return connect(f"sqlite:///{tmp_path / 'ranked.db'}")


def read(engine: sa.Engine, rows: list[dict[str, Any]]) -> RankedClicks:
    with engine.begin() as connection:
        put(connection, schema.outcomes, rows)
        return ranked_clicks(connection, RUN)


def found(engine: sa.Engine, rows: list[dict[str, Any]]) -> Intervals:
    return intervals(read(engine, rows))


def test_clicks_are_read_in_total_order_with_their_subsets(engine: sa.Engine) -> None:
    rows = outcomes(RUN)[: 3 * CLICKS]
    rows[0] |= {"cold": True}
    rows[1] |= {"history": 3, "window": 2}
    clicks = read(engine, [*rows, *outcomes("another")])
    assert len(clicks) == 3 * CLICKS
    order = sorted(rows, key=lambda row: (row["time"], row["user"], row["seq"]))
    assert [clicks.users[user] for user in clicks.user] == [row["user"] for row in order]
    assert clicks.ranks["mc2sf"].tolist() == [row["ranks"]["mc2sf"] for row in order]
    assert clicks.subsets["cold"].sum() == clicks.subsets["collaborative"].sum() == 1
    assert len(set(clicks.candidates.tolist())) == 1


def test_clicks_that_were_ranked_again_keep_the_rest_and_lose_the_others(engine: sa.Engine) -> None:
    clicks = read(engine, outcomes(RUN))
    again = clicks.with_ranks({("u3", 2): {"mc2sf": 1, "new": 7}, ("u1", 5): {"mc2sf": 2}})
    assert [(again.users[user], seq) for user, seq in zip(again.user, again.seq, strict=True)] == [("u3", 2), ("u1", 5)]
    assert {variant: ranks.tolist() for variant, ranks in again.ranks.items()} == {"mc2sf": [1, 2], "new": [7, 0]}
    assert len(again.time) == len(again.subsets["all"]) == 2


def test_each_interval_contains_its_metric_and_differences_are_paired(engine: sa.Engine) -> None:
    rows = outcomes(RUN)
    of = found(engine, rows)
    assert of.users == USERS
    for variant in ("mc2sf", "random"):
        values = metrics([row["ranks"][variant] for row in rows])
        for name in METRICS:
            interval = of.metrics[variant][name]
            assert interval.low < values[name] < interval.high
    better = of.difference("mc2sf", "fast", "ndcg@10")
    assert better.verdict == "higher"
    assert better.low > 0
    assert of.difference("fast", "mc2sf", "ndcg@10") == better.reversed()
    assert better.reversed().verdict == "lower"
    assert of.difference("fast", "river", "ndcg@10") is None


def test_variants_within_noise_are_not_ranked(engine: sa.Engine) -> None:
    of = found(engine, outcomes(RUN))
    assert of.difference("din", "fast", "ndcg@10").verdict == "not distinguishable"
    assert of.best_baseline == "popularity"
    shown = {(variant, reference) for variant, reference, _ in of.to_references("ndcg@10")}
    assert ("din", "fast") in shown
    assert ("din", "popularity") in shown
    assert "random" not in {variant for variant, _ in shown}


def test_a_variant_that_did_not_rank_every_click_is_compared_on_the_common_ones(engine: sa.Engine) -> None:
    rows = outcomes(RUN)
    for row in rows[::4]:
        del row["ranks"]["din"]
    of = found(engine, rows)
    by_pair = {(each.a, each.b): each.n for each in of.differences}
    assert by_pair["mc2sf", "din"] == 3 * len(rows) // 4
    assert by_pair["mc2sf", "fast"] == len(rows)


def test_few_users_and_no_clicks_have_no_intervals_and_nothing_is_claimed(engine: sa.Engine) -> None:
    of = found(engine, outcomes(RUN, users=3))
    assert of.metrics["mc2sf"]["mrr"].low is None
    assert of.difference("mc2sf", "fast", "mrr").verdict == "not distinguishable"
    with engine.connect() as connection:
        assert intervals(ranked_clicks(connection, "nobody")) == Intervals(0, {}, [], None)


def test_the_terminal_and_the_report_show_them(engine: sa.Engine, tmp_path: Path) -> None:
    of = found(engine, outcomes("x") + outcomes(RUN))
    with engine.begin() as connection:
        connection.execute(sa.delete(schema.outcomes))
        fill(connection, RUN)
    whole = summary(online_intervals=of, last_quarter_intervals=of)
    show(console := Console(record=True, file=io.StringIO(), width=80), whole, tmp_path)
    text = console.export_text()
    low, high = of.metrics["mc2sf"]["ndcg@10"].low, of.metrics["mc2sf"]["ndcg@10"].high
    assert f"±{(high - low) / 2:.4f}" in text
    assert "not distinguishable" in text
    page = html.write(whole, engine, RUN, tmp_path / "report.html").read_text()
    assert f"{low:.4f} to {high:.4f}" in page
    assert "not distinguishable" in page
