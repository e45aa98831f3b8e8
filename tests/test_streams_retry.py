from __future__ import annotations

import errno
import logging
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
from confluent_kafka import KafkaError, KafkaException

from streams.process.retry import DATABASE_AWAY, away, patiently

GONE = sa.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection unexpectedly"))


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.process.retry.AGAIN_S", 0.01)


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
def test_what_is_away_is_waited_for(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    answers: Iterator[Exception | str] = iter([error, error, "back"])
    meanwhile: list[int] = []

    def ask(of: str) -> str:
        assert of == "whom"
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    with caplog.at_level(logging.WARNING):
        assert patiently(60, lambda: meanwhile.append(1))(ask, "whom") == "back"
    assert len(meanwhile) == 2
    assert "waiting, for at most 60 s" in caplog.text


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
def test_what_is_wrong_is_not_waited_for(error: Exception) -> None:
    asked = []

    def ask() -> None:
        asked.append(1)
        raise error

    with pytest.raises(type(error)):
        patiently(60)(ask)
    assert len(asked) == 1
    assert not away(error)
    assert not isinstance(error, DATABASE_AWAY)


def test_the_wait_has_an_end() -> None:
    asked = []

    def ask() -> None:
        asked.append(1)
        raise GONE

    with pytest.raises(sa.exc.OperationalError):
        patiently(0.05)(ask)
    assert len(asked) > 1
