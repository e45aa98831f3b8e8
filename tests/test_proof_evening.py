"""The evening of docs/evening.md in one go, on Apache Kafka, PostgreSQL, Prometheus and Chromium."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from benchmarks.servers.prometheus import Prometheus
from benchmarks.servers.worker import wait_for
from deploy.dashboard.serving import admin_of, live_page
from deploy.gateway.api.tokens import add
from deploy.runs import FoundRun, find
from replay.send.clock_file import ClockFile, ReplayChange
from streams.database import run_state, schema
from tests.conftest import database_on
from tests.support.command import installed
from tests.support.docs import ROOT, commands
from tests.test_deploy_gateway_tutorial import PAGE, answers, assert_the_click_is_in_the_second_ranking, tutorial

EVENING = commands(ROOT / "docs" / "evening.md")
SMALLER = ("--epoch", "300", "--retrain-every", "900")  # the evening lasts a minute
ITEMS = ["3", "5", "8", "11"]  # of the page


@pytest.fixture
def evening(kafka: str, servers: Callable[[str], str], tmp_path: Path) -> Iterator[Path]:
    """The folder of the page's run, with other servers and shorter epochs, once a release was learnt."""
    words = shlex.split(EVENING[0].text.replace("runs/evening", str(tmp_path / "evening")))
    command = [sys.executable, "-m", "deploy.cli", *words[1:], *SMALLER, "--brokers", kafka]
    environment = os.environ | {"MC2SF_DATABASE": database_on(servers("postgresql"))}
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)

    def reached(epoch: int) -> bool:
        assert process.poll() is None, (tmp_path / "said").read_text()
        if not (tmp_path / "evening" / "run.json").is_file():
            return False
        found = find(str(tmp_path / "evening"))
        with found.engine.connect() as connection:
            recorded = run_state.recorded(connection, found.settings.run) or (-1, False)
        found.engine.dispose()
        return recorded[0] >= epoch

    speed = ClockFile(tmp_path / "evening" / "state" / "replay")
    wait_for(lambda: reached(0), "an epoch")
    speed.change(ReplayChange(speed=300))
    wait_for(lambda: reached(3), "what the first retrain learns from")
    speed.change(ReplayChange(speed=20))
    wait_for(lambda: "retrain" in kinds(find(str(tmp_path / "evening"))), "a retrain")
    yield tmp_path / "evening"
    process.send_signal(signal.SIGINT)
    process.wait(120)


def kinds(found: FoundRun) -> list[str]:
    """Return the kinds of the published releases of a run."""
    r = schema.releases.c
    with found.engine.connect() as connection:
        rows = connection.execute(sa.select(r.kind).where(r.run == found.settings.run, r.published)).scalars().all()
    found.engine.dispose()
    return list(rows)


def fires(prometheus: Prometheus, alert: str) -> bool:
    return any(labels["alertname"] == alert for labels in prometheus.firing())


@pytest.mark.process
@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.timeout(1200)  # a run, a browser and three servers; how long they take is the machine's matter
def test_an_evening_as_the_page_tells_it(
    evening: Path, browser: webdriver.Chrome, prometheus: Callable[..., Prometheus], tmp_path: Path
) -> None:
    found = find(str(evening))
    token = add(tmp_path / "admins.json", "me", ("admin",), None)
    with live_page(found, admits=admin_of(tmp_path / "admins.json")) as address:
        browser.get(address)
        wait_for(lambda: browser.find_element(By.ID, "connection").text == "live", "the page to be live")
        browser.find_element(By.ID, "token").send_keys(token)

        script = tutorial(PAGE.read_text()).replace(" --epoch 60s", "")  # the replay ends the epochs
        assert_the_click_is_in_the_second_ranking(answers(script, found.settings, tmp_path), ITEMS)

        browser.find_element(By.ID, "rollback-0").send_keys(Keys.ENTER)
        browser.switch_to.alert.accept()
        wait_for(lambda: "rollback" in kinds(found), "a rollback")
        wait_for(lambda: "rollback" in browser.find_element(By.ID, "releases").text, "the page to show it")

        watching = prometheus(evening / "logs" / "targets.json", [ROOT / "deploy" / "alerts.yml"], factor=40)
        wait_for(lambda: fires(watching, "DeadLetters"), "the alert")
        listed, healthy = installed("dead-letters", "list", str(evening)), installed("doctor", str(evening))
        assert "device-events" in listed.stdout, "as the runbook says"
        assert healthy.returncode == 0, healthy.stdout
        browser.find_element(By.CSS_SELECTOR, "[data-pause=true]").send_keys(Keys.ENTER)  # the cause is gone
        wait_for(lambda: not fires(watching, "DeadLetters"), "the alert to be resolved")
