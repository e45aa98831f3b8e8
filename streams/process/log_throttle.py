"""A flood of bad records must not fill a disk with lines about them: each is a dead letter and counted anyway."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

LINES = 100
SECONDS = 60.0


class Bounded(logging.Filter):
    """Lets through `lines` of one message within `seconds`, of any arguments; the next says how many were not."""

    def __init__(
        self, lines: int = LINES, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._lines, self._seconds, self._clock = lines, seconds, clock
        self._began = clock()
        self._seen: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether `record` is written; it is changed where others like it were left out before."""
        if self._clock() - self._began >= self._seconds:
            self._began = self._clock()
            self._seen.clear()
        message = str(record.msg)
        self._seen[message] += 1
        if self._seen[message] > self._lines:
            self._left_out[message] += 1
            return False
        if left_out := self._left_out.pop(message, 0):
            record.msg = f"{message} (before it {left_out} like it were left out)"
        return True
