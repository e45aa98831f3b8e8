"""The live page: what it shows and to whom, what its controls do, and how a browser has it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from rich.console import Console
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from starlette.testclient import TestClient

from deploy.dashboard.app import Page
from deploy.dashboard.live import Live
from deploy.dashboard.scraper import Scraper
from deploy.dashboard.serving import live_page, print_address
from deploy.runs import FoundRun
from replay.json_file import write_json
from replay.send.clock_file import ClockFile, ReplayControl
from streams.database import schema
from streams.database.engine import connect
from streams.settings import Settings
from tests.support.browser import CLIPPED, axe_violations, screen
from tests.support.report import RUN, VARIANTS, fill

EVIL = "<img src=x onerror=document.title='broken'>"
TOKEN = "secret"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}


def metrics(events: int, **more: float) -> str:
    samples = {"mc2sf_events_applied_total": events, "mc2sf_healthy": 1, "mc2sf_ready": 1} | more
    return "".join(f"{name} {value}\n" for name, value in samples.items())


class DashboardHarness:
    """A run of invented figures, and processes whose metrics the test decides."""

    def __init__(self, folder: Path) -> None:
        self.engine = connect(f"sqlite:///{folder / 'fake.db'}")
        with self.engine.begin() as connection:
            fill(connection, RUN)
            connection.execute(sa.update(schema.runs).values(status="running"))
            connection.execute(sa.update(schema.releases).values(published=True))
            row = {"run": RUN, "item": 1, "name": EVIL}
            connection.execute(sa.insert(schema.items), [row])
            weights = {"run": RUN, "part": "fast", "version": 2, "data": b""}
            connection.execute(sa.insert(schema.release_parts), [weights])
            progress = {"run": RUN, "role": "recorder", "epoch": 23, "time": 1, "over": False}
            connection.execute(sa.insert(schema.progress), [progress])
        (folder / "logs").mkdir()
        targets = folder / "logs" / "targets.json"
        entries = [{"targets": [f"{role}:1"], "labels": {"job": role}} for role in ("device", "recorder", "replay")]
        write_json(targets, entries)
        self.replay = folder / "state" / "replay"
        self.found = FoundRun(Settings(run=RUN), self.engine, folder, f"log:{EVIL}")
        self.answers: dict[str, str] = {
            "device:1": metrics(0),
            "replay:1": metrics(0, **{'mc2sf_replay_speed{unit="event_time"}': 60}),
        }
        self.now = 0.0
        self.live = Live(self.found, Scraper(targets, self.fetch, lambda: self.now), lambda: self.now)
        self.stop = threading.Event()
        self.page = Page(self.live, lambda presented: presented == TOKEN, ["127.0.0.1"], self.stop, refresh_s=0)
        self.client = TestClient(self.page.app(), base_url="http://127.0.0.1")

    def fetch(self, address: str) -> str:
        if address not in self.answers:
            raise OSError("connection refused")
        return self.answers[address]

    def reach_epoch(self, epoch: int) -> None:
        """Record one epoch more, with a better mc2sf, and a release."""
        with self.engine.begin() as connection:
            connection.execute(sa.update(schema.progress).values(epoch=epoch))
            last = connection.execute(sa.select(schema.metric_points).where(schema.metric_points.c.epoch == epoch - 1))
            points = [dict(row) | {"epoch": epoch, "ndcg_10": 0.8765} for row in last.mappings()]
            connection.execute(sa.insert(schema.metric_points), points)
            r = schema.releases.c
            newest = connection.execute(sa.select(schema.releases).order_by(r.version.desc()).limit(1)).mappings().one()
            connection.execute(sa.insert(schema.releases), [dict(newest) | {"version": newest["version"] + 1}])


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[DashboardHarness]:
    harness = DashboardHarness(tmp_path)
    yield harness
    harness.engine.dispose()


def test_the_page_shows_the_run_and_no_name_is_markup(harness: DashboardHarness) -> None:
    answer = harness.client.get("/")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert EVIL not in answer.text
    assert "&lt;img src=x" in answer.text
    assert "No answer from recorder at recorder:1" in answer.text
    assert "The replay is running, 60 times as fast as event time" in answer.text
    user = harness.client.get("/user", params={"name": "u"}, headers=ADMIN).text
    assert EVIL not in user
    assert "&lt;img src=x" in user


def test_rates_are_those_of_the_last_seconds_and_a_restart_is_no_negative_rate(harness: DashboardHarness) -> None:
    scraper = harness.live.scraper
    assert scraper.rate("mc2sf_events_applied_total") is None
    for harness.now, events in ((0, 100), (5, 600), (8, 30)):
        harness.answers["device:1"] = metrics(events)
        scraper.refresh()
        if harness.now == 5:
            assert scraper.rate("mc2sf_events_applied_total") == pytest.approx(100)
    assert scraper.rate("mc2sf_events_applied_total") == 0
    for harness.now in (20, 40):
        harness.answers["device:1"] = metrics(int(30 + harness.now))
        scraper.refresh()
    assert scraper.rate("mc2sf_events_applied_total") == pytest.approx(1)


def test_only_what_has_changed_is_sent_and_the_end_is_said(harness: DashboardHarness) -> None:
    async def events() -> list[dict[str, str]]:
        stream, got = harness.page._changes(), []
        for step in range(3):
            got.append(json.loads((await anext(stream)).removeprefix(b"data: ")))
            if step == 1:
                harness.reach_epoch(24)
                more = {'mc2sf_consumer_lag_records{topic="device-events"}': 77, "mc2sf_events_sent_total": 4321}
                for bound, value in (("low", 0.01), ("mean", 0.0234), ("high", 0.03)):
                    more[f'mc2sf_online_difference{{bound="{bound}",minus="popularity",variant="mc2sf"}}'] = value
                for le, count in (("10.0", 0), ("30.0", 8), ("+Inf", 8)):
                    more[f'mc2sf_freshness_seconds_bucket{{le="{le}"}}'] = count
                harness.answers["device:1"] = metrics(1000, **more)
            harness.now += 1
        harness.stop.set()
        assert (await anext(stream)).startswith(b"event: end")
        return got

    first, second, third = asyncio.run(events())
    assert {"tiles", "figures", "releases"} <= set(first)
    assert "figures" not in second
    assert {"tiles", "figures", "releases"} <= set(third)
    assert "0.8765" in third["tiles"]
    assert "<b>500</b>events applied per second" in third["tiles"], "1,000 in 2 s"
    assert "too few users" in first["tiles"]
    assert "mc2sf minus popularity: +0.0234 (+0.0100 to +0.0300)" in third["tiles"]
    assert "<b>20,000 ms</b>freshness, median" in third["tiles"]
    assert "lag 77" in third["flow"]
    assert "2,160/s" in third["flow"], "a counter that is new begins at 0"


def test_controls_and_users_are_for_admins(harness: DashboardHarness) -> None:
    for method, path in (("GET", "/user?name=u"), ("POST", "/replay"), ("POST", "/rollback")):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            assert harness.client.request(method, path, headers=headers).status_code == 401
    assert harness.client.get("/", headers={"Host": "rebound.example"}).status_code == 400


def test_a_rollback_and_a_pause_reach_coordinator_and_replay(harness: DashboardHarness) -> None:
    def post(path: str, body: Any) -> tuple[int, str]:
        answer = harness.client.post(path, content=body if isinstance(body, str) else json.dumps(body), headers=ADMIN)
        return answer.status_code, answer.text

    assert post("/rollback", {"version": 2})[0] == 200
    with harness.engine.connect() as connection:
        p = schema.proposals.c
        (asked,) = connection.execute(sa.select(p.kind, p.status, p.quality)).all()
    assert tuple(asked) == ("rollback", "waiting", {"to": 2})
    assert post("/rollback", {"version": 99}) == (422, f"there is no release 99 in run {RUN}")
    assert post("/replay", {"paused": True, "speed": 5})[0] == 200
    assert ClockFile(harness.replay).read() == ReplayControl(paused=True, speed=5)
    assert post("/replay", {"paused": False}) == (200, "the replay goes on")
    assert ClockFile(harness.replay).read() == ReplayControl(speed=5), "as another page has set it"
    assert post("/replay", {"skip_to": 1_700_000_000_000}) == (200, "the replay skips")
    assert ClockFile(harness.replay).read() == ReplayControl(speed=5, skip_to=1_700_000_000_000)
    for wrong in ({"speed": -1}, {"skip_to": -1}, {"skip_to": 1e30}, {"paused": "yes"}, {"other": 1}, "{", "[" * 900):
        assert post("/replay", wrong)[0] == 422
    assert post("/replay", " " * 2000)[0] == 413
    assert harness.client.get("/user", params={"name": "nobody"}, headers=ADMIN).status_code == 422
    before = ClockFile(harness.replay).read()
    with harness.engine.begin() as connection:
        connection.execute(sa.update(schema.runs).values(status="finished"))
    assert post("/replay", {"paused": True}) == (422, f"run {RUN} has ended, and its replay with it")
    assert post("/rollback", {"version": 2}) == (422, f"run {RUN} has ended: no decision follows")
    assert ClockFile(harness.replay).read() == before


def pause_and_resume_after_a_reload(browser: webdriver.Chrome) -> None:
    browser.refresh()
    for pause, said in ("true", "paused"), ("false", "the replay goes on"):
        browser.find_element(By.CSS_SELECTOR, f"[data-pause={pause}]").send_keys(Keys.ENTER)
        WebDriverWait(browser, 60).until(lambda _, said=said: browser.find_element(By.ID, "said").text == said)


def test_a_browser_has_it_live_with_working_controls_by_keyboard_on_any_screen(
    harness: DashboardHarness, browser: webdriver.Chrome
) -> None:
    """Write docs/live.png with LIVE_SCREENSHOT=1."""
    soon = WebDriverWait(browser, 60)

    def text(where: str) -> str:
        return browser.find_element(By.ID, where).text

    browser.get_log("browser")
    with live_page(harness.found) as address:
        browser.get(address)
        soon.until(lambda _: text("connection") == "live")
        assert "token" not in browser.current_url
        assert len(browser.find_elements(By.CSS_SELECTOR, "#figures figure:first-child path.line")) == len(VARIANTS) + 1
        assert "v5" not in text("tiles")
        harness.reach_epoch(24)
        soon.until(lambda _: "0.8765" in text("tiles") and "v5" in text("tiles"))
        for width, scheme in ((1400, "dark"), (390, "dark"), (390, "light"), (1400, "light")):
            with screen(browser, width, scheme=scheme):
                assert browser.execute_script("return document.documentElement.scrollWidth") <= width
                if (width, scheme) in {(1400, "dark"), (390, "light")}:
                    assert axe_violations(browser) == []
                if scheme == "light":
                    assert browser.execute_script(CLIPPED) == []
        if os.environ.get("LIVE_SCREENSHOT"):
            with screen(browser, 1200, 1250):
                browser.save_screenshot(str(Path(__file__).parents[1] / "docs" / "live.png"))
        browser.find_element(By.CSS_SELECTOR, "[data-pause=true]").send_keys(Keys.ENTER)
        soon.until(lambda _: text("said") == "paused")
        assert ClockFile(harness.replay).read() == ReplayControl(paused=True)
        browser.find_element(By.ID, "speed").send_keys("250", Keys.ENTER)
        soon.until(lambda _: text("said") == "the replay goes on")
        pause_and_resume_after_a_reload(browser)
        assert ClockFile(harness.replay).read() == ReplayControl(speed=250), "a page that is opened later keeps it"
        skip_to = browser.find_element(By.ID, "skip-to")
        browser.execute_script("arguments[0].value = '2023-11-14T22:13:20'", skip_to)
        skip_to.send_keys(Keys.ENTER)
        soon.until(lambda _: text("said") == "the replay skips")
        assert ClockFile(harness.replay).read() == ReplayControl(speed=250, skip_to=1_700_000_000_000)
        button = browser.find_element(By.ID, "rollback-2")
        browser.execute_script("arguments[0].focus()", button)
        harness.reach_epoch(25)
        soon.until(lambda _: "v6" in text("tiles"))
        assert browser.switch_to.active_element.get_attribute("id") == "rollback-2", "new values leave the focus there"
        browser.switch_to.active_element.send_keys(Keys.ENTER)
        browser.switch_to.alert.accept()
        soon.until(lambda _: "release 2 is published" in text("said"))
        browser.find_element(By.ID, "user-name").send_keys("u", Keys.ENTER)
        soon.until(lambda _: "onerror" in text("user"))
        assert "broken" not in browser.title
        browser.execute_script("arguments[0].value = 'wrong'", browser.find_element(By.ID, "token"))
        browser.find_element(By.ID, "user-name").send_keys(Keys.ENTER)
        soon.until(lambda _: text("user-said") == "the token of an admin is needed")
        told = [entry for entry in browser.get_log("browser") if "401" not in entry["message"]]
        assert told == []
    soon.until(lambda _: "last values" in text("connection"))


@pytest.mark.parametrize("terminal", [True, False])
def test_the_token_of_the_address_is_printed_on_a_terminal_only(terminal: bool) -> None:
    out = io.StringIO()
    print_address(Console(file=out, force_terminal=terminal, width=40), "http://127.0.0.1:5/#token=secret")
    assert ("secret" in out.getvalue()) is terminal
    assert "http://127.0.0.1:5/" in out.getvalue()
