"""Liveness and readiness of a process, and their HTTP endpoint."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from wsgiref.util import setup_testing_defaults

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.broker import free_port
from streams.process.health import STUCK_AFTER_S, Health
from streams.process.telemetry import endpoint, serve
from streams.settings import Settings


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_process_with_nothing_to_do_is_not_stuck(clock: Clock) -> None:
    health = Health(clock)
    health.set_lag(0)
    clock.now += 10 * STUCK_AFTER_S
    assert health.stuck() == ""


def test_a_process_with_pending_records_is_stuck_until_it_makes_progress(clock: Clock) -> None:
    health = Health(clock)
    clock.now += 10 * STUCK_AFTER_S
    health.set_lag(7)  # they have just arrived
    clock.now += STUCK_AFTER_S - 1
    health.set_lag(9)  # more pending records are no progress
    assert health.stuck() == ""
    clock.now += 2
    assert health.stuck() == "9 records are pending and there was no progress for 21 s"
    health.progress()
    assert health.stuck() == ""


def test_a_process_with_long_work_is_not_stuck(clock: Clock) -> None:
    health = Health(clock)
    health.set_lag(1)
    with health.busy():
        clock.now += 10 * STUCK_AFTER_S
        assert health.stuck() == ""
    assert health.stuck() == ""  # it has just come out of it
    clock.now += STUCK_AFTER_S + 1
    assert health.stuck()


def test_a_call_that_does_not_return_is_stuck_also_if_no_record_waits(clock: Clock) -> None:
    health = Health(clock)
    clock.now += 10 * STUCK_AFTER_S
    with health.pending():
        assert health.stuck() == ""  # it has just begun
        clock.now += STUCK_AFTER_S + 1
        assert health.stuck() == "a call is pending and there was no progress for 21 s"
        with health.busy():
            clock.now += STUCK_AFTER_S + 1
            assert health.stuck() == ""
        assert health.stuck() == ""
    clock.now += 10 * STUCK_AFTER_S
    assert health.stuck() == ""


def test_calls_that_return_are_no_progress_while_records_wait(clock: Clock) -> None:
    health = Health(clock)
    health.set_lag(2)
    for _ in range(3):
        clock.now += STUCK_AFTER_S / 2
        with health.pending():
            pass
    assert health.stuck() == "2 records are pending and there was no progress for 30 s"


def test_a_process_is_ready_once_it_misses_nothing(clock: Clock) -> None:
    health = Health(clock)
    assert health.missing() == "starting"
    health.needs("state", "its state is being restored")
    health.needs("release", "no complete release yet")
    assert health.missing() == "its state is being restored; no complete release yet"
    health.needs("state")
    health.needs("release")
    assert health.missing() == ""


@pytest.mark.parametrize(("path", "status"), [("/healthz", "503"), ("/readyz", "503"), ("/metrics", "200")])
def test_an_unhealthy_process_answers_503_with_the_reason(clock: Clock, path: str, status: str) -> None:
    health = Health(clock)
    health.set_lag(3)
    clock.now += STUCK_AFTER_S + 1
    environ: dict[str, object] = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    status_lines: list[str] = []
    body = b"".join(endpoint(health, {})(environ, lambda line, *_: status_lines.append(line)))
    assert status_lines[0].startswith(status)
    assert {"/healthz": b"3 records are pending", "/readyz": b"starting", "/metrics": b"mc2sf_"}[path] in body


@pytest.mark.process
def test_the_endpoint_is_served_on_the_local_host(clock: Clock) -> None:
    health = Health(clock)
    settings = Settings(metrics_port=free_port())
    serve(settings, "test", health)
    base = f"http://127.0.0.1:{settings.metrics_port}"
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(base + "/readyz", timeout=5)
    health.needs("start")
    for path in ("/readyz", "/healthz", "/metrics"):
        with urllib.request.urlopen(base + path, timeout=5) as answer:
            assert answer.status == 200


def test_every_sample_names_run_and_role(clock: Clock) -> None:
    environ: dict[str, object] = {"PATH_INFO": "/metrics"}
    setup_testing_defaults(environ)
    health = Health(clock)
    text = b"".join(endpoint(health, {"run": "a", "role": "device"})(environ, lambda *_: bytes)).decode()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    assert {s.labels["run"] for s in samples} == {"a"}
    assert all("role" in s.labels for s in samples)
    values = {s.name: s.value for s in samples}
    assert (values["mc2sf_healthy"], values["mc2sf_ready"], values["mc2sf_build_info"]) == (1, 0, 1)


@pytest.mark.process
@pytest.mark.parametrize(("lag", "code"), [(3, os.EX_SOFTWARE), (0, 0)])
def test_a_stuck_process_ends_itself(lag: int, code: int) -> None:
    program = (
        "import time; from streams.process.health import Health, end_if_stuck\n"
        f"health = Health(lambda: 0.0); health.set_lag({lag}); health._clock = lambda: 1000.0\n"
        "end_if_stuck(health, 0.2); time.sleep(2)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=30).returncode == code
