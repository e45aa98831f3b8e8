"""The main loop of recorder, learner, retrain and coordinator: set up, work, restart after an outage, clean up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from streams.database.engine import connect
from streams.process import telemetry
from streams.process.clock_and_signals import stop_on_signals
from streams.process.health import HEALTH
from streams.process.retry import DATABASE_UNAVAILABLE, RETRY_DELAY_S
from streams.settings import Settings

log = logging.getLogger(__name__)
Outages = tuple[type[Exception], ...]


@contextmanager
def service(
    settings: Settings, role: str, *, serves_telemetry: bool = True
) -> Iterator[tuple[Engine, threading.Event]]:
    """Set up logging, signals and telemetry; yield the database and the event that stops the process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = stop_on_signals()
    if serves_telemetry:
        telemetry.serve(settings, role)
    engine = connect(settings.database.get_secret_value())
    try:
        yield engine, stop
    finally:
        engine.dispose()


def run_through_outages(
    work: Callable[[], object],
    stop: threading.Event,
    *,
    needs: str = "tables",
    outages: Outages = DATABASE_UNAVAILABLE,
    delay_s: float = RETRY_DELAY_S,
) -> None:
    """Call `work` until it returns or `stop` is set; call it again, after `delay_s`, if it raises one of `outages`.

    `work` begins from what the database holds. During an outage the process is not ready: it `needs` the named part.
    """
    while not stop.is_set():
        HEALTH.progress()  # trying again is all that can be done: the process is not stuck
        try:
            work()
        except outages as error:
            telemetry.RETRIES.inc()
            log.warning("%s; starting again from the tables in %.1f s", error, delay_s)
            HEALTH.needs(needs, "database or broker are unavailable")
            HEALTH.progress()
            stop.wait(delay_s)
        else:
            return
