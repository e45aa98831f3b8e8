"""A database that hangs, as seen by the health of the process that asks it, and trainings that take long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from streams.process.health import STUCK_AFTER_S, Health


class SlowHealth(Health):
    """Each statement of the database hangs, and busy work takes as long; notes what /healthz says then."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(lambda: self._now)
        self.in_statements: list[str] = []
        self.while_busy: list[str] = []

    def later(self) -> str:
        """Let the time of a hang pass without progress; return what /healthz says."""
        self._now += 2 * STUCK_AFTER_S
        return self.stuck()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Take long."""
        with super().busy():
            self.while_busy.append(self.later())
            yield

    @contextmanager
    def hanging(self, engine: sa.Engine) -> Iterator[None]:
        """Let each statement hang."""

        def hang(*_: object) -> None:
            self.in_statements.append(self.later())

        sa.event.listen(engine, "before_cursor_execute", hang)
        try:
            yield
        finally:
            sa.event.remove(engine, "before_cursor_execute", hang)
