"""A watch over the run of a gateway: whether its broker and its database answer, and whether it has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import sqlalchemy as sa
from confluent_kafka import KafkaException

from deploy.runs import FoundRun
from deploy.user_error import UserError
from streams.database import schema
from streams.kafka.types import KafkaProducer
from streams.process.retry import DATABASE_UNAVAILABLE
from streams.topics import DEVICE_EVENTS

log = logging.getLogger(__name__)
PAUSE_S = 1.0
_BROKER_S = 3.0  # that a broker may take to answer


class RunWatch:
    """Looks every `pause_s` at the run, with the producer's connection. `missing` is a sentence, empty if all is there.

    `on_end` is called once the run has ended: nothing reads the events of such a run.
    """

    def __init__(self, found: FoundRun, producer: KafkaProducer, pause_s: float = PAUSE_S) -> None:
        self._engine, self.run_id, self._producer = found.engine, found.settings.run, producer
        self._brokers, self._topic = found.settings.brokers, DEVICE_EVENTS.full(found.settings)
        self._pause_s = pause_s
        self.missing, self.ended = "", False
        self.on_end: Callable[[], None] = lambda: None

    def require(self) -> None:
        """Look once. Raises UserError if the run has ended; broker and database may be away for a while."""
        self.missing = self.look()
        if self.ended:
            raise UserError(f"{self.missing}: a gateway needs one that goes on")

    async def run(self) -> None:
        """Look until the run ends, or until cancelled."""
        while not self.ended:
            missing = await asyncio.to_thread(self.look)
            if missing != self.missing:
                log.warning("%s", missing or "ready again")
            self.missing = missing
            await asyncio.sleep(self._pause_s)
        self.on_end()

    def look(self) -> str:
        """Return what is missing, and set `ended`."""
        r = schema.runs.c
        try:
            with self._engine.connect() as connection:
                status = connection.execute(sa.select(r.status).where(r.run == self.run_id)).scalar()
        except DATABASE_UNAVAILABLE:
            return "the database does not answer"
        if status != "running":
            self.ended = True
            return f"run {self.run_id} {'has ended' if status else 'was deleted'}"
        try:
            self._producer.list_topics(self._topic, timeout=_BROKER_S)
        except KafkaException:
            return f"the broker at {self._brokers} does not answer"
        return ""
