"""The report of a run with invented figures, as text and in a real browser."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from rich.console import Console
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from deploy.local.job import _failures
from deploy.report import html, measurements, process_metrics
from deploy.report.summary import METRICS, Bytes, Quality, ReleaseEntry
from deploy.report.terminal import show
from streams.database import schema
from streams.settings import Settings
from tests.support.browser import CLIPPED, axe_violations, screen
from tests.support.report import EPOCHS, MONTH, RUN, START, VARIANTS, quality, summary, tables

QUALITIES = ["all-hr_10", "all-ndcg_10", "collaborative-hr_10", "collaborative-ndcg_10"]


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return tables(tmp_path)


@pytest.fixture
def page(engine: sa.Engine, tmp_path: Path) -> Path:
    return html.write(summary(), engine, RUN, tmp_path / "report.html")


def test_the_report_loads_nothing_from_the_network(page: Path) -> None:
    text = page.read_text()
    assert not re.findall(r"""(?:src|href|url\(|@import)\s*=?\s*["'(]?\s*(?:https?:)?//""", text)
    assert "<script src" not in text
    assert '<link rel="stylesheet"' not in text


def test_names_from_the_log_are_escaped(page: Path) -> None:
    assert "<b>folder</b>" not in page.read_text()
    assert "ml-1m:&lt;b&gt;folder&lt;/b&gt;" in page.read_text()


def test_faults_of_the_devices_are_reported_only_if_there_were_any(
    engine: sa.Engine, page: Path, tmp_path: Path
) -> None:
    assert "Faults of the devices" not in page.read_text()
    faulty = summary(faults={"offline": 1234, "late_clicks": 7}, settings={"faults": "offline=0.5"})
    text = html.write(faulty, engine, RUN, tmp_path / "faulty.html").read_text()
    assert "<code>offline=0.5</code>" in text
    assert "offline 1,234, late clicks 7." in text


def test_a_run_that_is_not_in_the_tables_is_refused(engine: sa.Engine, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no run 'other'"):
        html.write(summary(), engine, "other", tmp_path / "report.html")


def test_a_run_without_outcomes_has_a_report_too(engine: sa.Engine, tmp_path: Path) -> None:
    with engine.begin() as connection:
        for table in (schema.outcomes, schema.metric_points, schema.releases, schema.decisions, schema.interactions):
            connection.execute(sa.delete(table).where(table.c.run == RUN))
    nothing = summary(online={}, offline={}, warnings=["No click was ranked: no metric exists."])
    page = html.write(nothing, engine, RUN, tmp_path / "report.html")
    assert "0 releases" in page.read_text()
    assert "No click was ranked" in page.read_text()
    assert "every figure is the same" not in page.read_text()


def test_scores_that_were_not_measured_are_left_out(engine: sa.Engine, tmp_path: Path) -> None:
    none = {"mc2sf": Quality(*[None] * len(METRICS), n=0, chance_hr_10=None)}
    page = html.write(summary(online=none, offline=none), engine, RUN, tmp_path / "report.html")
    assert "None" not in page.read_text().partition("<script>")[0]


def test_missing_events_and_different_metrics_are_reported_in_the_header(engine: sa.Engine, tmp_path: Path) -> None:
    offline = {name: quality(best + 1e-12, 480) for name, best in VARIANTS.items()}
    page = html.write(summary(events_applied=12_344, offline=offline), engine, RUN, tmp_path / "report.html")
    head = page.read_text().partition("</header>")[0]
    assert "Not everything sent was applied: 12,344 of 12,345" in head.replace("\n", " ")
    assert "figures differ" in head


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


NAMES_OVERLAP = """
const names = document.querySelector("figure svg").querySelectorAll("text.name");
const boxes = [...names].map(name => name.getBoundingClientRect()).sort((a, b) => a.top - b.top);
return boxes.some((box, i) => i && box.top + 0.25 * box.height < boxes[i - 1].bottom - 0.25 * box.height);
"""


@pytest.mark.parametrize("width", [1400, 390])
def test_no_label_is_clipped_and_the_page_fits_the_screen(page: Path, browser: webdriver.Chrome, width: int) -> None:
    with screen(browser, width):
        browser.get(page.as_uri())
        assert browser.execute_script("return document.documentElement.clientWidth") == pytest.approx(width, abs=20)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.execute_script(CLIPPED) == []
        assert width > 390 or axe_violations(browser) == []
        assert not browser.execute_script(NAMES_OVERLAP)


def test_the_axis_shows_the_first_and_the_last_event(page: Path, browser: webdriver.Chrome) -> None:
    browser.get(page.as_uri())
    ticks = [each.text for each in browser.find_elements(By.CSS_SELECTOR, "figure:first-of-type svg text.middle")]
    ends = [datetime.fromtimestamp((START + n * MONTH) / 1000, UTC).strftime("%d %b %Y") for n in (0, EPOCHS - 1)]
    assert [ticks[0], ticks[-1]] == ends


def test_the_screenshot_in_the_readme_is_a_small_picture(browser: webdriver.Chrome) -> None:
    """Write docs/report.png from the report of a run: REPORT_SCREENSHOT=runs/demo/report.html."""
    picture = Path(__file__).parents[1] / "docs" / "report.png"
    if report := os.environ.get("REPORT_SCREENSHOT"):
        with screen(browser, 1200, 1330):
            browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
            browser.get(Path(report).resolve().as_uri())
            assert browser.save_screenshot(str(picture))
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert 10_000 < len(data) < 200_000
    assert "docs/report.png" in (picture.parents[1] / "README.md").read_text()


def test_what_could_not_be_read_from_a_process_is_unknown_and_not_zero() -> None:
    assert process_metrics.total([{"x": 2.0}, {}, {"x": 1.0}], "x") == 3
    assert process_metrics.total([{"x": 2.0}, None], "x") is None
    unread = summary(rank_requests=None, events_duplicate=None, bytes=Bytes(None, None, None, None))
    show(console := Console(record=True, file=io.StringIO()), unread, Path("out"))
    assert f"unknown, {unread.outcomes:,}" in console.export_text()


def test_a_report_of_a_run_whose_devices_could_not_be_read_shows_no_numbers_for_them(
    engine: sa.Engine, tmp_path: Path
) -> None:
    unread = summary(rank_requests=None, events_duplicate=None, bytes=Bytes(None, None, None, None))
    text = html.write(unread, engine, RUN, tmp_path / "report.html").read_text()
    assert "- requests" in text
    assert "- answers" in text


def test_a_run_that_learnt_nothing_or_ranked_nothing_says_so_first() -> None:
    settings, begin = Settings(), ReleaseEntry(0, "initial", 0, {})
    refused = ReleaseEntry(None, "rejected", 1, {"active": 1.0, "candidate": 1.1, "kept": 3})
    same, better = (ReleaseEntry(1, "retrain", 1, {"active": 1.0, "candidate": loss}) for loss in (1.0, 0.9))
    assert measurements.warnings(settings, 5, [begin, better, refused]) == []
    for made, words in (([begin, refused], "refused"), ([begin], "No retrain"), ([begin, same], "popularity")):
        (warning,) = measurements.warnings(settings, 5, made)
        assert words in warning
    assert "No click was ranked" in measurements.warnings(settings, 0, [begin, better])[0]
    assert measurements.warnings(settings.model_copy(update={"frozen": True}), 5, [begin]) == []
    out = io.StringIO()
    show(Console(file=out, width=200), summary(warnings=["No click was ranked [at all]."]), Path("runs/x"))
    assert out.getvalue().startswith("No click was ranked [at all].")


def test_a_free_run_that_ranked_or_trained_nothing_fails() -> None:
    def failures(forgotten: int = 0, ranks: Sequence[str] = (), **changed: Any) -> list[str]:
        free = summary().settings | {"lockstep": False, **changed.pop("settings", {})}
        trained = [ReleaseEntry(0, "initial", 0, {}), ReleaseEntry(1, "retrain", 5, {})]
        whole = {"releases": trained, "settings": free} | changed
        return _failures(summary(**whole), ranks, [], 0, forgotten)

    assert failures() == failures(events_applied=summary().events_sent + 5) == [], "a gateway sent some"
    assert len(failures(events_applied=summary().events_sent - 5)) == 1
    assert len(failures(events_applied=summary().events_sent + 5, settings={"lockstep": True})) == 1
    short: dict[str, Any] = {"events_applied": summary().events_sent - 5}
    assert len(failures(ranks=["a rank"], offline={})) == 2
    assert failures(1, ["a rank"], offline={}, events_forgotten=5, **short) == [], "others saw clicks that are gone"
    assert "4 forgotten" in failures(1, events_forgotten=4, **short)[0]
    nothing = {"online": {}, "offline": {}, "releases": [ReleaseEntry(0, "initial", 0, {})]}
    assert [each.partition(":")[0] for each in failures(**nothing)] == [
        "no click was ranked",
        "no retrain came into force",
    ]
    assert failures(**nothing, settings={"frozen": True, "evaluate": 0}) == [], "neither was asked for"
    assert failures(**nothing, settings={"lockstep": True}) == [], "there the retrains were waited for"
