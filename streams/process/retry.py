"""The retry policy: try again while a broker or database is unavailable or a disk full, up to a limit."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

import psycopg
import sqlalchemy as sa
from confluent_kafka import KafkaError, KafkaException
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_fixed

from streams.process import telemetry

log = logging.getLogger(__name__)

# COPY bypasses SQLAlchemy, and so do its errors. Both databases report a full disk as an OperationalError.
DATABASE_UNAVAILABLE = (
    sa.exc.OperationalError,
    sa.exc.InterfaceError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
)
_BROKER_UNAVAILABLE = {
    KafkaError._TRANSPORT,  # noqa: SLF001 - how confluent-kafka names librdkafka's own codes
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001 - the same
    KafkaError._TIMED_OUT,  # noqa: SLF001 - the same
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
}
_REFUSED = (
    *("password authentication failed", "does not exist", "no pg_hba.conf entry"),  # by a PostgreSQL that answers
    *("unable to open database file", "attempt to write a readonly database"),  # by SQLite
)
RETRY_DELAY_S = 1.0


def is_outage(error: BaseException) -> bool:
    """Return True if an error means that a broker or a database is unavailable or a disk full: worth a retry."""
    if isinstance(error, KafkaException):
        return error.args[0].code() in _BROKER_UNAVAILABLE
    if isinstance(error, DATABASE_UNAVAILABLE):
        return not any(refusal in str(error) for refusal in _REFUSED)
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def retrying(
    seconds: float, meanwhile: Callable[[], object] = lambda: None, *, delay_s: float = RETRY_DELAY_S
) -> Retrying:
    """Return a caller of functions, `retrying(60)(function, argument)`, that retries through outages for `seconds`.

    Then it raises the function's error. `meanwhile` is called between two tries, `delay_s` after each other.
    """

    def log_and_wait(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        telemetry.RETRIES.inc()
        log.warning("trying again for at most %.0f s: %s", seconds - (state.seconds_since_start or 0.0), error)
        meanwhile()

    return Retrying(
        retry=retry_if_exception(is_outage),
        stop=stop_after_delay(seconds),
        wait=wait_fixed(delay_s),
        before_sleep=log_and_wait,
        reraise=True,
    )
