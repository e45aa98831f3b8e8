"""Recorder, learner, retrain and coordinator start again after an outage, and only then."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from streams.process.health import HEALTH
from streams.process.service_loop import run_through_outages

OUTAGE = sa.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection"))


def test_work_is_called_again_after_an_outage_until_it_returns() -> None:
    results = [OUTAGE, OUTAGE, None]
    reasons = []

    def work() -> None:
        reasons.append(HEALTH.missing())
        HEALTH.needs("tables")
        if (result := results.pop(0)) is not None:
            raise result

    run_through_outages(work, threading.Event(), delay_s=0.0)
    assert not results
    assert [("unavailable" in reason) for reason in reasons] == [False, True, True]
    assert "unavailable" not in HEALTH.missing()


def test_another_error_is_raised() -> None:
    def work() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        run_through_outages(work, threading.Event(), delay_s=0.0)


def test_a_stopped_process_does_not_try_again() -> None:
    stop, calls = threading.Event(), []

    def work() -> None:
        calls.append(1)
        stop.set()
        raise OUTAGE

    run_through_outages(work, stop, delay_s=60.0)
    assert len(calls) == 1
