"""The log lines that many bad records cause are limited."""

from __future__ import annotations

import logging

import pytest

from replay.send import epoch_barrier, progress
from streams.cloud import batch as cloud_batch
from streams.device import batch as device_batch
from streams.faust_runtime import state_table
from streams.kafka import dead_letters
from streams.process.log_throttle import LogThrottle
from streams.recorder import epoch_writer


def test_repeated_lines_are_dropped_and_their_number_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = logging.getLogger("repeated")
    log.addFilter(LogThrottle(lines=3, seconds=60.0, clock=lambda: now))
    for offset in range(1000):
        log.warning("refused at %d", offset)
    log.warning("something else at %d", 0)
    assert [r.getMessage() for r in caplog.records] == [*(f"refused at {n}" for n in range(3)), "something else at 0"]
    caplog.clear()
    now = 60.0
    log.warning("refused at %d", 1000)
    log.warning("refused at %d", 1001)
    assert [r.getMessage() for r in caplog.records] == [
        "refused at 1000 (before this one, 997 similar lines were dropped)",
        "refused at 1001",
    ]


@pytest.mark.parametrize(
    "module", [epoch_barrier, cloud_batch, dead_letters, device_batch, epoch_writer, progress, state_table]
)
def test_every_module_that_refuses_records_throttles_its_log(module: object) -> None:
    assert any(isinstance(f, LogThrottle) for f in module.log.filters)  # type: ignore[attr-defined]
