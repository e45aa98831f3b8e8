"""Metrics of a gateway: what is counted, under which labels, and what it says of a run that does not answer."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from starlette.testclient import TestClient

from deploy.gateway.api.endpoints import ENDPOINTS
from deploy.gateway.run_watch import RunWatch
from deploy.runs import FoundRun
from streams.database.engine import connect
from streams.process import telemetry
from streams.process.health import Health
from streams.settings import Settings, SettingsError
from tests.test_deploy_gateway import CLICK, SHOWN, GatewayHarness

EVENTS, RANKINGS = "/v1/users/{user}/events", "/v1/users/{user}/rankings"


@pytest.fixture
def harness(settings: Settings, tmp_path: Path) -> Iterator[GatewayHarness]:
    harness = GatewayHarness(settings, tmp_path)
    with harness.client:
        yield harness


def counts() -> dict[tuple[str, ...], float]:
    """All metrics of gateways by name and labels, but the buckets of histograms."""
    return {
        (sample.name.removeprefix("mc2sf_gateway_"), *sample.labels.values()): sample.value
        for family in REGISTRY.collect()
        if family.name.startswith("mc2sf_gateway_")
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created", "_sum"))
    }


class Counted:
    """The increase of counters since this was made."""

    def __init__(self) -> None:
        self._before = counts()

    def __getitem__(self, key: tuple[str, ...]) -> float:
        return counts().get(key, 0.0) - self._before.get(key, 0.0)


def test_requests_are_counted_by_route_and_status_and_rankings_by_what_answered(harness: GatewayHarness) -> None:
    counted = Counted()
    harness.post("ada/events", {"seq": 0, "events": [CLICK, SHOWN]})
    for late, deadline_s, fast_s in (set(), 60.0, 60.0), ({"cloud"}, 0.001, 60.0), ({"cloud", "device"}, 0.001, 0.001):
        harness.late, harness.rankings._deadline_s, harness.rankings._fast_s = late, deadline_s, fast_s
        harness.post("ada/rankings", {"candidates": ["a", "b"], "variant": "mc2sf"})
    assert counted["requests_total", EVENTS, "POST", "202"] == 1
    assert counted["requests_total", RANKINGS, "POST", "200"] == 2
    assert counted["requests_total", RANKINGS, "POST", "503"] == 1
    assert counted["request_seconds_count", RANKINGS, "POST"] == 3, "one that failed was waited for, too"
    assert (counted["rankings_total", "whole"], counted["rankings_total", "fast"]) == (1, 1)
    assert counted["events_total",] == 2


def test_refused_requests_have_no_time_and_failures_of_the_gateway_are_counted(
    harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted()
    harness.post("ada/events", {"seq": -1})
    harness.post("ada/events", {}, "guessed")
    harness.limits._rate = harness.limits._burst = 1e-9
    assert harness.post("ada/events", {}, "ada").status_code == 429
    assert [counted["requests_total", EVENTS, "POST", status] for status in ("422", "401", "429")] == [1, 1, 1]
    assert counted["request_seconds_count", EVENTS, "POST"] == 0
    harness.limits_off()
    harness.limits._buckets.clear()
    monkeypatch.setattr(harness.gateway.tables, "releases", None)  # not callable: an error that nobody expects
    answer = harness.client.get("/v1/releases", headers=harness.headers("root"))
    assert answer.status_code == 500
    assert counted["requests_total", "/v1/releases", "GET", "500"] == 1


def test_no_label_has_a_name_that_a_client_chooses(harness: GatewayHarness) -> None:
    counted = Counted()
    for user in ("ada", "a%2Fb", "%FF"):
        harness.post(f"{user}/events", {"seq": 0, "events": [CLICK]})
        harness.get(f"{user}/rankings")
    harness.client.get("/v1/items/secret/film", headers=harness.headers("root"))
    harness.client.get("/secret")
    harness.client.request("SECRET", "/v1/releases")
    harness.client.get("/v1/openapi.json")
    routes = {key[1] for key in counts() if key[0] == "requests_total"}
    assert routes <= {*(endpoint.path for endpoint in ENDPOINTS), "/v1/openapi.json", "other"}
    assert counted["requests_total", "other", "other", "404"] == 3, "an escaped slash is one of the path, twice"
    assert counted["requests_total", "other", "other", "405"] == 1


def test_a_gateway_whose_database_hangs_is_not_ready_until_it_answers(settings: Settings, tmp_path: Path) -> None:
    engine, goes_on, said = connect(settings.database.get_secret_value()), threading.Event(), list[object]()

    class Noting(Health):
        noted = threading.Event()

        def needs(self, what: str, reason: str = "") -> None:
            super().needs(what, reason)
            self.noted.set()

    class Hanging(RunWatch):
        def look(self) -> str:
            goes_on.wait(60)
            self.ended = True
            return ""

    harness, health = GatewayHarness(settings, tmp_path), Noting()
    watch = Hanging(FoundRun(settings, engine, None, "test"), harness.producer, 0, 0.001, health)
    client = TestClient(dataclasses.replace(harness.gateway, watch=watch).app())

    async def until_it_is_noticed() -> None:
        watching = asyncio.create_task(watch.run())
        await asyncio.to_thread(health.noted.wait, 60)
        said.extend([client.get("/readyz").status_code, health.missing()])
        goes_on.set()
        await watching

    asyncio.run(until_it_is_noticed())
    assert said[0] == 503
    assert "have not answered" in str(said[1])
    assert (watch.missing, health.missing()) == ("", "")
    harness.ingest.close()
    engine.dispose()


@pytest.mark.process
def test_a_port_of_metrics_that_is_in_use_is_a_clear_error(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"^MC2SF_METRICS_PORT: .*127\.0\.0\.1:{port}: Address already in use"):
            telemetry.serve(settings.model_copy(update={"metrics_port": port}), "gateway")
