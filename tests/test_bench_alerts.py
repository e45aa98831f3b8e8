"""The trial of the alerts (benchmarks/faults/alerts.py): its rules, and one of its faults on real processes."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks.faults.alert_acts import Scene
from benchmarks.faults.alert_faults import FAULTS, FIRST
from benchmarks.faults.alert_loop import Loop
from benchmarks.faults.alerts import RESULT, RULES, good, table, tried
from benchmarks.servers.prometheus import Prometheus, divided_expression, divided_rules
from tests.support.docs import ROOT


def test_durations_are_divided_and_names_and_strings_are_not() -> None:
    rule = (
        """increase(x{a="10m", b='1h', le="1.0"}[1h30m:1m]) > 60 """
        """and y:ratio_rate5m offset 5m < 14.4 or z:seconds > 7200"""
    )
    assert divided_expression(rule, 60) == (
        """increase(x{a="10m", b='1h', le="1.0"}[90000ms:1000ms]) > 60 """
        """and y:ratio_rate5m offset 5000ms < 14.4 or z:seconds > 120.0"""
    )


@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.name)
def test_every_duration_of_the_rules_is_divided(rules: Path) -> None:
    for group in yaml.safe_load(divided_rules(rules, 60))["groups"]:
        for rule in group["rules"]:
            used = [*re.findall(r"[\[: ](\d+(?:ms|[smhdwy]))\b", rule["expr"]), rule.get("for", "1ms")]
            assert all(duration.endswith("ms") for duration in used), rule


def test_every_alert_has_a_fault() -> None:
    alerts = [rule["alert"] for group in yaml.safe_load(RULES[1].read_text())["groups"] for rule in group["rules"]]
    assert set(alerts) == {alert for fault in (FIRST, *FAULTS) for alert in fault.alerts}


def test_the_docs_have_the_table_of_the_last_trial() -> None:
    assert table(json.loads(RESULT.read_text())["rows"]) in (ROOT / "docs" / "faults.md").read_text()


def test_a_loop_without_a_coordinator_fires_until_one_is_started(
    broker: str, migrated: Path, prometheus: Callable[..., Prometheus], tmp_path: Path
) -> None:
    database = f"sqlite:///{shutil.copy(migrated, tmp_path / 'run.db')}"
    with Loop(tmp_path, broker, database, f"alerts-{uuid.uuid4().hex[:8]}") as loop:
        loop.start("learner")
        scene = Scene(loop, prometheus(loop.targets, RULES, FIRST.factor, scrape_ms=1000))
        fault = replace(FIRST, alerts={"NoCoordinator": ""}, companions=FIRST.companions | {"NotReady"})
        (row,) = tried(fault, scene, calm_s=0)
    assert good(row), row
