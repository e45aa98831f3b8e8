"""A limit on repeated log lines: many bad records, which become dead letters anyway, must not fill the disk."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

LINES = 100
SECONDS = 60.0


class LogThrottle(logging.Filter):
    """Passes `lines` lines of one message per `seconds`, of any arguments; the next one gives the number dropped."""

    def __init__(
        self, lines: int = LINES, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._lines, self._seconds, self._clock = lines, seconds, clock
        self._began = clock()
        self._passed: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if `record` should be written; after dropped lines its message is extended by their number."""
        if self._clock() - self._began >= self._seconds:
            self._began = self._clock()
            self._passed.clear()
        message = str(record.msg)
        self._passed[message] += 1
        if self._passed[message] > self._lines:
            self._dropped[message] += 1
            return False
        if dropped := self._dropped.pop(message, 0):
            record.msg = f"{message} (before this one, {dropped} similar lines were dropped)"
        return True
