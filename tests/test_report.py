"""The report of a run: made from a small run of invented figures, looked at in a real browser."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from deploy import history, report
from deploy.chart import Chart, Series, spread, ticks
from deploy.figures import ordered, quality_series
from models.ranking import METRICS
from streams import tables
from streams.settings import Settings
from streams.store import connect

VARIANTS = {"random": 0.1, "popularity": 0.3, "din": 0.4, "f2s": 0.44, "fast": 0.5, "mc2sf": 0.6, "river": 0.35}
EPOCHS = 24
HOUR = 3_600_000
START = 956_703_932_000
RUN = "fake"
QUALITIES = ["all-hr_10", "all-ndcg_10", "collaborative-hr_10", "collaborative-ndcg_10"]


def quality(best: float, n: int) -> dict[str, float]:
    return {name: best * (0.5 if "1" in name[-2:] else 0.9) for name in METRICS} | {"n": n, "chance_hr@10": 0.1}


def summary(**changed: Any) -> dict[str, Any]:
    online = {name: quality(best, 480) for name, best in VARIANTS.items()}
    return {
        "run": RUN,
        "events_sent": 12_345,
        "events_applied": 12_345,
        "events_duplicate": 0,
        "dead_letters": 3,
        "users": 100,
        "items": 50,
        "r2_uploads": 240,
        "rank_requests": 480,
        "outcomes": 480,
        "expired": 2,
        "releases": [],
        "online": online,
        "offline": online,
        "share_with_history": 0.9,
        "share_with_r2": 0.8,
        "events_per_second": 5432.1,
        "freshness_ms": {"p50": 12.5, "p95": 80.0, "p99": None},
        "bytes": {"up": 5_000_000, "down": 61_000_000, "training": 0, "per_user": 660_000.0},
        "peak_memory_mb": {"device-1": 512.3, "recorder": 301.0},
        "digest": "0123456789abcdef",
        "seed": 1,
        "settings": {"exposures": "simulated"},
        "versions": {"torch": "2.13.0", "python": "3.11"},
    } | changed


def wave(best: float, epoch: int) -> float:
    return best * (1 - math.exp(-(epoch + 1) / 6)) + 0.01 * math.sin(epoch)


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    """Tables with a run of invented figures, and another run's beside it."""
    engine = connect(f"sqlite:///{tmp_path / 'fake.db'}")
    with engine.begin() as connection:
        fill(connection, RUN)
        fill(connection, "another")
    return engine


def fill(connection: sa.Connection, run: str) -> None:
    def put(table: sa.Table, rows: list[dict[str, Any]]) -> None:
        connection.execute(sa.insert(table), [{"run": run} | row for row in rows])

    until = [START + epoch * 30 * 24 * HOUR for epoch in range(EPOCHS)]
    settings = Settings(run=run).semantic()
    put(
        tables.runs,
        [
            {
                "created_wall": START,
                "source": "ml-1m:<b>folder</b>",
                "settings": settings,
                "versions": {},
                "status": "finished",
            }
        ],
    )
    put(
        tables.interactions,
        [
            {
                "user": "u",
                "seq": e,
                "item": 1,
                "kind": 1,
                "time": t,
                "unit_time": t,
                "impression": 0,
                "epoch": e,
                "recorded_wall": 0,
            }
            for e, t in enumerate(until)
        ],
    )
    put(
        tables.negative_memories,
        [
            {"user": f"u{n}", "window": e, "encoder": 0, "r2": b"", "size": 10, "time": t - n, "recorded_wall": 0}
            for e, t in enumerate(until)
            for n in range(5 + e % 7)
        ],
    )
    put(
        tables.click_uploads,
        [{"user": "u", "epoch": e, "items": b"", "time": t, "recorded_wall": 0} for e, t in enumerate(until)],
    )
    put(
        tables.metric_points,
        [
            {"epoch": e, "variant": v, "subset": s, "form": f, "time": t, "n": 20 * (e + 1)}
            | {
                name: wave(best, e) * (0.7 if name == "ndcg_10" else 1)
                for name in ("hr_1", "hr_5", "hr_10", "ndcg_5", "ndcg_10", "mrr")
            }
            | {"chance_hr_10": 0.1, "chance_ndcg_10": 0.045}
            for e, t in enumerate(until)
            for v, best in VARIANTS.items()
            for s in ("all", "collaborative")
            for f in ("sliding", "cumulative", "fading")
            if s == "all" or e > 2
        ],
    )
    put(
        tables.outcomes,
        [
            {
                "user": f"u{n}",
                "seq": e,
                "epoch": e,
                "time": t,
                "target": 1,
                "place": 0,
                "candidates": b"",
                "slate": "sampled",
                "cold": False,
                "expired": False,
            }
            | {
                "ranks": {"mc2sf": 1},
                "not_finite": 0,
                "release": 0,
                "encoder": 0,
                "slow": 0,
                "fast": 0,
                "window": n % 2,
                "r2_age": 60_000 * n,
                "history": 0,
            }
            | {
                "bytes_up": 900 + 10 * e,
                "bytes_down": 12_800,
                "asked_wall": 1000,
                "answered_wall": 1000 + 10 * n,
                "recorded_wall": 0,
            }
            for e, t in enumerate(until)
            for n in range(20)
        ],
    )
    put(
        tables.drifts,
        [
            {"variant": v, "user": "u1", "seq": e, "epoch": e, "time": until[e], "before": 0.3, "after": after}
            for v, e, after in (("mc2sf", 9, 0.42), ("din", 12, 0.21))
        ],
    )
    versions = [("initial", 0, 0), ("learner", 1, 3), ("retrain", 2, 7), ("learner", 3, 11), ("retrain", 4, 15)]
    put(
        tables.releases,
        [
            {"version": v, "parent": max(v - 1, 0), "kind": k, "encoder": v // 2, "slow": v // 2, "fast": v, "epoch": e}
            | {
                "trained_until": until[e] if v else 0,
                "gate": {"active": 0.61, "candidate": 0.58} if v else {},
                "manifest": b"",
                "published": True,
                "created_wall": 0,
            }
            for k, v, e in versions
        ],
    )
    put(
        tables.decisions,
        [{"epoch": e, "release": v, "outcome": k, "reason": ""} for k, v, e in versions if v]
        + [{"epoch": 20, "release": 4, "outcome": "rejected", "reason": "held-out loss 0.71 against 0.58"}]
        + [{"epoch": 21, "release": 4, "outcome": "unchanged", "reason": "nothing is due"}],
    )


@pytest.fixture
def page(engine: sa.Engine, tmp_path: Path) -> Path:
    return report.write(summary(), engine, RUN, tmp_path / "report.html")


def test_the_report_asks_nothing_of_the_network(page: Path) -> None:
    text = page.read_text()
    assert not re.findall(r"""(?:src|href|url\(|@import)\s*=?\s*["'(]?\s*(?:https?:)?//""", text)
    assert "<script src" not in text
    assert '<link rel="stylesheet"' not in text


def test_names_from_the_log_are_escaped(page: Path) -> None:
    assert "<b>folder</b>" not in page.read_text()
    assert "ml-1m:&lt;b&gt;folder&lt;/b&gt;" in page.read_text()


def test_a_run_that_the_tables_do_not_know_is_refused(engine: sa.Engine, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no run 'other'"):
        report.write(summary(), engine, "other", tmp_path / "report.html")


def test_a_run_without_outcomes_has_a_report_too(engine: sa.Engine, tmp_path: Path) -> None:
    with engine.begin() as connection:
        for table in (tables.outcomes, tables.metric_points, tables.releases, tables.decisions, tables.interactions):
            connection.execute(sa.delete(table).where(table.c.run == RUN))
    page = report.write(summary(online={}, offline={}), engine, RUN, tmp_path / "report.html")
    assert "0 releases" in page.read_text()


def test_scores_that_were_not_measured_are_left_out(engine: sa.Engine, tmp_path: Path) -> None:
    none = {"mc2sf": dict.fromkeys(METRICS) | {"n": 0, "chance_hr@10": None}}
    page = report.write(summary(online=none, offline=none), engine, RUN, tmp_path / "report.html")
    assert "None" not in page.read_text().partition("<script>")[0]


def test_uploads_are_counted_in_the_epoch_whose_event_time_they_have(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        line = history.epochs(connection, RUN)
        assert [epoch.number for epoch in line] == list(range(EPOCHS))
        assert history.uploads(connection, RUN, line) == [5 + e % 7 for e in range(EPOCHS)]


def test_costs_of_an_epoch_are_those_of_its_outcomes(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        costs = history.costs(connection, RUN)
    assert sorted(costs) == list(range(EPOCHS))
    assert costs[3].outcomes == 20
    assert costs[3].bytes_up == 20 * 930
    assert costs[3].answer_ms == (95.0, 180.5)  # 0, 10, ... 190 ms
    assert costs[3].r2_age_s == 600.0  # 1, 3, ... 19 minutes: those with a window


def test_chance_is_that_of_the_variant_with_the_most_ranks() -> None:
    def points(n: int, chance: float) -> dict[int, Any]:
        return {0: SimpleNamespace(n=n, hr_10=0.5, chance_hr_10=chance)}

    series = quality_series({"mc2sf": points(5, 0.1), "random": points(9, 0.2)}, "hr_10", [history.Epoch(0, 0)])
    assert [(one.name, one.values) for one in series][-1] == ("chance", [0.2])


def test_variants_keep_their_colours_and_unknown_ones_come_last() -> None:
    assert ordered({"zeta": 0, "random": 0, "alpha": 0, "mc2sf": 0}) == ["mc2sf", "random", "alpha", "zeta"]


def test_what_does_not_add_up_is_said_first(engine: sa.Engine, tmp_path: Path) -> None:
    offline = {name: quality(best + 1e-12, 480) for name, best in VARIANTS.items()}
    page = report.write(summary(events_applied=12_344, offline=offline), engine, RUN, tmp_path / "report.html")
    head = page.read_text().partition("</header>")[0]
    assert "Not everything sent was applied: 12,344 of 12,345" in head.replace("\n", " ")
    assert "figures differ" in head


@pytest.fixture(scope="module")
def browser(tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Chromium without a screen, with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = tool("chromium")
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "window-size=1300,1000",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(tool("chromedriver")))
    yield driver
    driver.quit()


def test_a_browser_shows_the_report_without_an_error(page: Path, browser: webdriver.Chrome) -> None:
    browser.get(page.as_uri())
    figures = browser.find_elements(By.CSS_SELECTOR, "figure svg")
    names = [figure.get_attribute("id") for figure in browser.find_elements(By.TAG_NAME, "figure")]
    assert names == [*QUALITIES, "uploads", "bytes", "answers", "ages", "drift"]
    assert all(figure.size["height"] > 100 for figure in figures)
    assert {"12,345", "240 r2 · 24 click uploads · 480 requests"} <= {
        text.text for text in browser.find_elements(By.CSS_SELECTOR, "svg.flow text.count")
    }
    first = figures[0]
    assert len(first.find_elements(By.CSS_SELECTOR, "path.line")) == len(VARIANTS) + 1  # and chance
    assert [mark.text for mark in first.find_elements(By.CSS_SELECTOR, "text.mark")] == ["v2", "v4"]
    assert [mark.text for mark in figures[-1].find_elements(By.CSS_SELECTOR, "text.mark")] == ["mc2sf up"]
    ActionChains(browser).move_to_element(first).perform()
    tip = first.find_element(By.XPATH, "..").find_element(By.CLASS_NAME, "tip")
    assert tip.is_displayed()
    assert "mc2sf 0." in tip.text
    assert browser.get_log("browser") == []
    requests = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in requests if not name.startswith(("data:", "file:"))] == []


def test_the_page_fits_a_narrow_screen(page: Path, browser: webdriver.Chrome) -> None:
    browser.set_window_size(500, 900)
    browser.get(page.as_uri())
    wide = browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    browser.set_window_size(1300, 1000)
    assert wide <= 0


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_surround_what_they_measure(low: float, span: float) -> None:
    marks = ticks(low, low + span)
    slack = span * 1e-6 + abs(low) * 1e-9
    assert marks[0] <= low + slack
    assert marks[-1] >= low + span - slack
    assert 2 <= len(marks) <= 9


@given(st.lists(st.floats(0, 100), max_size=7))
def test_labels_are_spread_in_order_and_stay_inside(wanted: list[float]) -> None:
    placed = spread(wanted, 13, 0, 100)
    assert sorted(range(len(wanted)), key=wanted.__getitem__) == sorted(range(len(wanted)), key=placed.__getitem__)
    heights = sorted(placed)
    assert all(b - a >= 13 - 1e-6 for a, b in itertools.pairwise(heights))
    assert all(-1e-6 <= height <= 100 + 1e-6 for height in placed)


def test_a_gap_in_a_series_is_a_gap_in_its_line() -> None:
    svg = Chart("t", "d", ["a", "b", "c", "d", "e"], [Series("s", [1.0, 2.0, None, 2.0, 1.0], 0)]).svg()
    path = re.search(r'class="line[^"]*" d="([^"]*)"', svg)
    assert path is not None
    assert path[1].count("M") == 2


def test_a_picture_says_in_words_what_it_shows() -> None:
    svg = Chart("HR & more", "what <it> says", ["a", "b"], [Series("s", [1.0, 2.0], 0)]).svg()
    assert "<title id=" in svg
    assert "HR &amp; more" in svg
    assert "what &lt;it&gt; says" in svg
