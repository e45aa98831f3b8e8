"""The rescoring of a run beside its last retrain, which may be under way after every outcome is recorded."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Self

import sqlalchemy as sa
from rich.console import Console

from deploy.local.supervisor import Supervisor
from streams.database import run_state
from streams.rescoring import rescore
from streams.settings import Settings

STATUS = "scoring every outcome again from the tables"


class EarlyRescoring:
    """The rescoring in a thread of its own."""

    def __init__(self, engine: sa.Engine, run: str) -> None:
        self._engine, self._run = engine, run
        self._result: rescore.OfflineResult | None = None
        self._thread = threading.Thread(target=self._rescore, name="rescoring", daemon=True)
        self._thread.start()

    @classmethod
    def start(cls, engine: sa.Engine, settings: Settings, supervisor: Supervisor) -> Self | None:
        """Start it if every outcome is recorded; None before, and if no retrain can follow the end of the log.

        Only a lockstep run that trains has such a retrain. Its learner's work ends here: it is not restarted.
        """
        if settings.frozen or not settings.lockstep:
            return None
        with engine.connect() as connection:
            if not run_state.all_recorded(connection, settings.run):
                return None
        supervisor.children["learner"].restart = False
        return cls(engine, settings.run)

    def _rescore(self) -> None:
        with suppress(Exception):  # it is raised again when this is repeated
            self._result = rescore.rescore(self._engine, self._run)

    def result(self, console: Console) -> rescore.OfflineResult | None:
        """Wait for the end and return the result; None after an error."""
        with console.status(STATUS):
            self._thread.join()
        return self._result
