"""Waiting out a broker, a database or a disk that is away: tried again until it is back, within a stated limit."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

import psycopg
import sqlalchemy as sa
from confluent_kafka import KafkaError, KafkaException
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_fixed

log = logging.getLogger(__name__)

# COPY goes past SQLAlchemy, and so do its errors. A full disk is an OperationalError of both databases.
DATABASE_AWAY = (
    sa.exc.OperationalError,
    sa.exc.InterfaceError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
)
_BROKER_AWAY = {
    KafkaError._TRANSPORT,  # noqa: SLF001 - how confluent-kafka names librdkafka's own codes
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001 - the same
    KafkaError._TIMED_OUT,  # noqa: SLF001 - the same
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
}
AGAIN_S = 1.0


def away(error: BaseException) -> bool:
    """Whether an error says that a broker or a database is away, or a disk full, and not that something is wrong."""
    if isinstance(error, KafkaException):
        return error.args[0].code() in _BROKER_AWAY
    return isinstance(error, DATABASE_AWAY) or (isinstance(error, OSError) and error.errno == errno.ENOSPC)


def patiently(seconds: float, meanwhile: Callable[[], object] = lambda: None) -> Retrying:
    """What calls a function again, for at most `seconds`, while what it needs is away; then its error is raised.

    `meanwhile` is called between two tries.
    """

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("waiting, for at most %.0f s: %s", seconds - (state.seconds_since_start or 0.0), error)
        meanwhile()

    return Retrying(
        retry=retry_if_exception(away),
        stop=stop_after_delay(seconds),
        wait=wait_fixed(AGAIN_S),
        before_sleep=tell,
        reraise=True,
    )
