from __future__ import annotations

import errno
import logging
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
from confluent_kafka import KafkaError, KafkaException

from streams.process.retry import DATABASE_UNAVAILABLE, is_outage, retrying

GONE = sa.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection unexpectedly"))


@pytest.mark.parametrize(
    "error",
    [
        GONE,
        psycopg.errors.DiskFull("could not extend file"),  # from a COPY: SQLAlchemy does not see it
        psycopg.errors.AdminShutdown("terminating connection"),
        sa.exc.InterfaceError("SELECT 1", {}, Exception("the connection is closed")),
        KafkaException(KafkaError(KafkaError._TRANSPORT)),
        KafkaException(KafkaError(KafkaError._TIMED_OUT)),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_outage_is_retried_until_it_ends(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    answers: Iterator[Exception | str] = iter([error, error, "back"])
    meanwhile: list[int] = []

    def ask(of: str) -> str:
        assert of == "whom"
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    with caplog.at_level(logging.WARNING):
        assert retrying(60, lambda: meanwhile.append(1), delay_s=0.01)(ask, "whom") == "back"
    assert len(meanwhile) == 2
    assert "trying again for at most 60 s" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        sa.exc.ProgrammingError("SELECT 1", {}, Exception("no such table")),
        sa.exc.IntegrityError("INSERT", {}, Exception("duplicate key")),
        KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)),
        OSError(errno.EACCES, "Permission denied"),
        ValueError("wrong"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_another_error_is_raised_at_once(error: Exception) -> None:
    asked = []

    def ask() -> None:
        asked.append(1)
        raise error

    with pytest.raises(type(error)):
        retrying(60)(ask)
    assert len(asked) == 1
    assert not is_outage(error)
    assert not isinstance(error, DATABASE_UNAVAILABLE)


@pytest.mark.parametrize(
    "error",
    [
        sa.exc.OperationalError("", {}, Exception('FATAL:  password authentication failed for user "me"')),
        psycopg.OperationalError('FATAL:  database "mc2sf" does not exist'),
    ],
)
def test_a_database_that_answers_and_refuses_is_not_waited_for(error: Exception) -> None:
    assert not is_outage(error)


def test_the_last_error_is_raised_after_the_limit() -> None:
    asked = []

    def ask() -> None:
        asked.append(1)
        raise GONE

    with pytest.raises(sa.exc.OperationalError):
        retrying(0.05, delay_s=0.01)(ask)
    assert len(asked) > 1
