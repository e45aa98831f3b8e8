"""Waiting until another process has written to the database, at the cost of one small query per look.

SQLite counts the commits of other connections (`PRAGMA data_version`); a snapshot of PostgreSQL names the transactions
that are over. The whole database is watched: a change may be of another run, no change of this one is missed.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Self

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

_QUERIES = {"sqlite": "PRAGMA data_version", "postgresql": "SELECT pg_current_snapshot()::text"}
LOOK_AFTER_S = 1.0  # without any change: a lease must be renewed, and the health check needs a sign of life
_SHARE = 0.1  # of the time without a change: the next look comes so much later, at most
_RARE_S = 0.25  # the longest pause between two looks


class DatabaseChanges:
    """Commits by any other connection to the database. A context that holds a connection of its own."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine, self._query, self._clock = engine, _QUERIES[engine.dialect.name], clock
        self._connection: Connection | None = None
        self._seen: object = None
        self._changed_at = self._clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._seen = None

    def changed(self) -> bool:
        """Return True if there was a commit since the last call, at the first call, and at the first after an error."""
        try:
            if self._connection is None:
                self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            before, self._seen = self._seen, self._look(self._connection)
        except SQLAlchemyError:
            self.__exit__()
            raise
        if self._seen != before:
            self._changed_at = self._clock()
            return True
        return False

    def _look(self, connection: Connection) -> object:
        """Return the count of commits; on SQLite by its own driver, which costs a tenth: there are many looks."""
        driver = connection.connection.driver_connection
        if isinstance(driver, sqlite3.Connection):
            return driver.execute(self._query).fetchone()[0]
        return connection.exec_driver_sql(self._query).scalar()

    def wait(self, stop: threading.Event, every_s: float, most_s: float = LOOK_AFTER_S) -> None:
        """Return after a commit, once `stop` is set, or after `most_s`; look every `every_s` seconds at first.

        The longer nothing has changed, the rarer the looks. A commit between the last call of `changed` or `wait` and
        this one ends the wait at once.
        """
        until = self._clock() + most_s
        while not self.changed() and not stop.is_set() and (now := self._clock()) < until:
            stop.wait(max(every_s, min(_SHARE * (now - self._changed_at), _RARE_S)))
