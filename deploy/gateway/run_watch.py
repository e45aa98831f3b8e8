"""A watch over the run of a gateway: whether its broker and its database answer, and whether it has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import sqlalchemy as sa
from confluent_kafka import KafkaException

from deploy.runs import FoundRun
from deploy.user_error import UserError
from streams.database import schema
from streams.kafka.types import KafkaProducer
from streams.process.health import HEALTH, Health
from streams.process.retry import DATABASE_UNAVAILABLE
from streams.topics import DEVICE_EVENTS

log = logging.getLogger(__name__)
PAUSE_S = 1.0
LOOK_S = 20.0  # longer than a broker or a database that is away takes to refuse: one hangs
_STARTING = "starting"
_BROKER_S = 3.0  # that a broker may take to answer


def require_running(found: FoundRun) -> None:
    """Raise UserError if the run has ended; its database may be away for a while."""
    with suppress(*DATABASE_UNAVAILABLE):
        if end := _end(found.engine, found.settings.run):
            raise UserError(f"{end}: a gateway needs one that goes on")


def _end(engine: sa.Engine, run: str) -> str:
    """Return how the run came to its end; empty if it goes on."""
    r = schema.runs.c
    with engine.connect() as connection:
        status = connection.execute(sa.select(r.status).where(r.run == run)).scalar()
    return "" if status == "running" else f"run {run} {'has ended' if status else 'was deleted'}"


class RunWatch:
    """Looks every `pause_s` at the run, with the producer's connection. `missing` is a sentence, empty if all is there.

    `on_end` is called once the run has ended: nothing reads the events of such a run.
    """

    def __init__(
        self,
        found: FoundRun,
        producer: KafkaProducer,
        pause_s: float = PAUSE_S,
        look_s: float = LOOK_S,
        health: Health = HEALTH,
    ) -> None:
        self._engine, self.run_id, self._producer = found.engine, found.settings.run, producer
        self._brokers, self._topic = found.settings.brokers, DEVICE_EVENTS.full(found.settings)
        self._pause_s, self._look_s, self._health = pause_s, look_s, health
        self.missing, self.ended = _STARTING, False
        self.on_end: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Look until the run ends, or until cancelled."""
        while not self.ended:
            looking = asyncio.create_task(asyncio.to_thread(self.look))
            while not (await asyncio.wait({looking}, timeout=self._look_s))[0]:
                self._note(f"database or broker have not answered for {self._look_s:g} s")
            self._note(looking.result())
            await asyncio.sleep(self._pause_s)
        self.on_end()

    def _note(self, missing: str) -> None:
        if missing != self.missing and (missing or self.missing != _STARTING):
            log.warning("%s", missing or "ready again")
        self.missing = missing
        self._health.needs("run", missing)

    def look(self) -> str:
        """Return what is missing, and set `ended`."""
        try:
            if end := _end(self._engine, self.run_id):
                self.ended = True
                return end
        except DATABASE_UNAVAILABLE:
            return "the database does not answer"
        try:
            self._producer.list_topics(self._topic, timeout=_BROKER_S)
        except KafkaException:
            return f"the broker at {self._brokers} does not answer"
        return ""
