"""The dashboards: Grafana's own types accept them, their queries name metrics of the program, and a real Prometheus
answers every query."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from benchmarks.servers.prometheus import Prometheus
from deploy.local.broker import free_port
from deploy.local.child_process import Child
from deploy.local.supervisor import TARGETS, Supervisor
from replay.json_file import write_json
from streams.process import telemetry
from tests.support.dashboards import FOLDER, Query, dashboards, panels, queries

PROVISIONED = FOLDER.parent / "provisioning"
OF_THE_CLIENT = {"process_resident_memory_bytes", "process_start_time_seconds"}
DASHBOARDS = list(dashboards())

# A process that does everything that can be measured, over and over, until its input is closed.
BUSY = """
import sys, threading
from streams.process import telemetry as t
from streams.settings import Settings

def work():
    for name in ("hr@10", "ndcg@10"):
        for subset in ("all", "collaborative", "cold"):
            t.ONLINE_CHANCE.labels(name, subset).set(0.1)
            for variant in ("mc2sf", "fast", "random"):
                for form in ("cumulative", "sliding", "fading"):
                    t.ONLINE.labels(name, variant, subset, form).set(0.3)
    for role in ("device", "cloud", "coordinator"):
        t.EPOCH.labels(role).set(3)
        t.EVENT_TIME.labels(role).set(956703932)
        t.RELEASE.labels(role).set(2)
        t.LAG.labels(role, "device-events").set(1)
        t.BATCH_SECONDS.labels(role).observe(0.02)
    t.LOG_ROWS.labels("sent", "").set(1)
    t.RELEASE_TIME.set(956703932)
    t.LEASE_HELD.set(1)
    t.NOT_RANKED.set(3)
    for variant in ("mc2sf", "served"):
        for bound in ("low", "mean", "high"):
            t.ONLINE_DIFFERENCE.labels(variant, "fast", bound).set(0.01)
            t.ONLINE_SLIDING_DIFFERENCE.labels("mc2sf", "popularity", bound).set(0.01)
    for kind in ("retrain", "learner"):
        t.TRAINING_SECONDS.labels(kind).observe(3)
        t.TRAINING_LOSS.labels(kind, "active").set(0.5)
        t.RELEASES.labels(kind).inc()
        t.RANK_REQUESTS.labels("device").inc()
    t.EXAMPLES.labels("fitting").inc()
    t.OUTCOMES.labels("answered").inc()
    t.DEVICE_BYTES.labels("up").inc(900)
    t.RECORDED_ROWS.labels("outcomes").inc()
    for gauge in (t.TABLE_ROWS, t.TABLE_BYTES, t.STATE_ROWS, t.STATE_BYTES):
        gauge.labels("outcomes").set(5)
    for route in ("/v1/users/{user}/rankings", "/v1/users/{user}/events"):
        t.GATEWAY_REQUESTS.labels(route, "POST", "200").inc()
        t.GATEWAY_SECONDS.labels(route, "POST").observe(0.1)
    t.GATEWAY_RANKINGS.labels("whole").inc()
    t.GATEWAY_EVENTS.inc()
    t.REBALANCES.inc()
    t.RETRIES.inc()
    t.FRESHNESS.observe(0.1)
    t.ANSWER_SECONDS.observe(0.1)
    t.REPLAY_SPEED.labels("event_time").set(60)
    for counter in (t.EVENTS_SENT, t.EVENTS_APPLIED, t.R2_UPLOADS, t.CLICK_UPLOADS):
        counter.inc(10)

closed = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), closed.set()), daemon=True).start()
t.serve(Settings(run="a"), "device")
while not closed.wait(0.05):
    work()
"""


def alerts(file: str = "alerts.yml") -> list[dict[str, Any]]:
    """The rules of all groups of deploy/alerts.yml, or of another file."""
    groups = yaml.safe_load((FOLDER.parents[1] / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def measured() -> dict[str, prometheus_client.metrics.MetricWrapperBase]:
    """Every sample name that the program can expose, with its metric."""
    found = {}
    for metric in vars(telemetry).values():
        if isinstance(metric, prometheus_client.metrics.MetricWrapperBase):
            for family in metric.describe():
                endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
                found |= {family.name + ending: metric for ending in endings}
    return found


def ask(url: str, expression: str) -> list[float]:
    """The values that Prometheus answers with; Grafana shows none that is not a number."""
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{url}/api/v1/query?{query}", timeout=10) as answer:
        document = json.load(answer)
    assert document["status"] == "success"
    assert document["data"]["resultType"] == "vector"
    values = [float(row["value"][1]) for row in document["data"]["result"]]
    return [value for value in values if math.isfinite(value)]


def unanswered(url: str, asked: list[Query], patience_s: float) -> list[Query]:
    """Ask until every query had data once, or patience is over; return those that never had any."""
    left, until = asked, time.monotonic() + patience_s
    while left and time.monotonic() < until:
        left = [query for query in left if not ask(url, query.expression)]
        time.sleep(0.1 if left else 0)
    return left


def kept(given: Any, understood: Any, path: str = "") -> Iterator[str]:
    """Return the paths at which `given` holds something that `understood` lacks or has otherwise."""
    if isinstance(given, dict) and isinstance(understood, dict):
        for key, value in given.items():
            if key in understood:
                yield from kept(value, understood[key], f"{path}/{key}")
            else:
                yield f"{path}/{key}"
    elif isinstance(given, list) and isinstance(understood, list) and len(given) == len(understood):
        for index, (value, other) in enumerate(zip(given, understood, strict=True)):
            yield from kept(value, other, f"{path}/{index}")
    elif given != understood:
        yield path


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda d: d["uid"])
def test_grafana_knows_every_field_of_a_dashboard(dashboard: dict[str, Any]) -> None:
    register_default_plugins()
    understood = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))
    assert list(kept(dashboard, understood)) == []


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda d: d["uid"])
def test_panels_have_their_own_place_and_number(dashboard: dict[str, Any]) -> None:
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda d: d["uid"])
def test_panels_use_the_data_source_that_the_dashboard_offers(dashboard: dict[str, Any]) -> None:
    source, *_ = yaml.safe_load((PROVISIONED / "datasources" / "prometheus.yaml").read_text())["datasources"]
    offered = [v["query"] for v in dashboard["templating"]["list"] if v["name"] == "datasource"]
    assert offered == [source["type"]]
    for panel in panels(dashboard):
        wanted = {"type": source["type"], "uid": "$datasource"}
        assert panel["datasource"] == wanted
        assert all(target["datasource"] == wanted for target in panel["targets"])
        assert panel["description"]


def test_every_query_asks_for_metrics_that_the_program_has() -> None:
    known = set(measured()) | OF_THE_CLIENT
    for query in queries():
        assert query.metrics() <= known, query
        assert query.metrics() or query.expression == "sum by (job) (up)", query


def test_every_metric_of_the_program_is_on_a_dashboard() -> None:
    shown = {metric for query in queries() for metric in query.metrics()}
    missing = {m for name, m in measured().items() if name not in shown} - {
        m for n, m in measured().items() if n in shown
    }
    assert [metric.describe()[0].name for metric in missing] == []


def test_alerts_ask_for_metrics_that_the_program_has() -> None:
    recorded = alerts("recording.yml")
    for rule in [*alerts(), *recorded]:
        assert Query("", "", rule["expr"]).metrics() <= {*measured(), *OF_THE_CLIENT}, rule["expr"]
        asked = set(re.findall(r"mc2sf:[a-z0-9_:]+", rule["expr"]))
        assert asked <= {each["record"] for each in recorded}, rule["expr"]


def test_every_alert_is_seen_to_fire_and_to_be_silent_in_the_unit_tests() -> None:
    tests = yaml.safe_load((Path(__file__).parent / "alerts.test.yml").read_text())["tests"]
    checks = [check for test in tests for check in test["alert_rule_test"]]
    for fires in (True, False):
        assert {c["alertname"] for c in checks if bool(c["exp_alerts"]) == fires} == {r["alert"] for r in alerts()}


def test_variables_are_filled_in_with_each_choice() -> None:
    forms = {query.expression for query in queries() if query.panel == "HR@10" and "form=" in query.expression}
    assert len(forms) == 3
    assert not [query for query in queries() if "$" in query.expression]


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Path]:
    """The targets file of a busy process."""
    port = free_port()
    environment = {"MC2SF_METRICS_PORT": str(port), "PATH": ""}
    process = subprocess.Popen([sys.executable, "-c", BUSY], env=environment, stdin=subprocess.PIPE)
    assert process.stdin is not None
    stack = Supervisor(tmp_path / "logs")
    stack.children["device-1"] = Child("device-1", [], {}, tmp_path / "log", port)
    targets = tmp_path / "targets.json"
    write_json(targets, stack.targets())
    yield targets
    process.stdin.close()
    assert process.wait(20) == 0


def test_prometheus_answers_every_query_of_every_panel(busy: Path, prometheus: Callable[[Path], Prometheus]) -> None:
    assert unanswered(prometheus(busy).url, queries(rate_interval="10s"), 60) == []


@pytest.mark.proof
@pytest.mark.slow
def test_prometheus_answers_every_query_of_every_panel_from_a_run(
    prometheus: Callable[[Path], Prometheus], tmp_path: Path
) -> None:
    size = ("synthetic:users=100,items=150", "--epoch", "400", "--retrain-every", "1600", "--evaluate", "0.5")
    command = [sys.executable, "-m", "deploy.cli", "run", *size, "--out", str(tmp_path / "out")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        targets = tmp_path / "out" / "logs" / TARGETS
        wait_until(lambda: targets.exists() or process.poll() is not None)
        url = prometheus(targets).url
        elsewhere = ("mc2sf_table_rows", "mc2sf_gateway_")  # of PostgreSQL, and of gateways: a run has none
        left = [q for q in queries(rate_interval="10s") if not any(each in q.expression for each in elsewhere)]
        while left and process.poll() is None:  # the run is over in a minute or two
            left = unanswered(url, left, 5)
    finally:
        process.terminate()
        process.wait(60)
    assert left == [], (tmp_path / "log").read_text()[-2000:]


def wait_until(there: Callable[[], bool], patience_s: float = 60) -> None:
    """Wait for a condition."""
    until = time.monotonic() + patience_s
    while not there():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_query_for_nothing_is_noticed(busy: Path, prometheus: Callable[[Path], Prometheus]) -> None:
    nothing = [Query("", "", "sum(rate(mc2sf_events_lost_total[10s]))"), Query("", "", "vector(0) / 0")]
    assert unanswered(prometheus(busy).url, nothing, 2) == nothing
