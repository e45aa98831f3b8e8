"""The recorder: every topic exactly once into the tables, and the online quality of every variant.

In: device-events, device-uplink, outcomes, dead-letters, the changelogs of device and cloud. Out: the tables. What is
done with a record is the ledger's; here it is read from the bus, from the offsets that stand in the tables.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

from streams.database.engine import connect
from streams.kafka import clients
from streams.kafka.message import Message
from streams.kafka.stall_detector import StallDetector, StalledError
from streams.process import telemetry
from streams.process.clock_and_signals import wall_ms
from streams.process.health import HEALTH
from streams.process.retry import AGAIN_S, DATABASE_AWAY
from streams.process.stopping import stop_on_signals
from streams.recorder.epoch_barrier import Place
from streams.recorder.epoch_writer import MARKED, EpochWriter, OvertakenError
from streams.recorder.rows import ROLE
from streams.settings import Settings
from streams.topics import DEAD_LETTERS

log = logging.getLogger(__name__)

_TAKE = 1000
_WAIT_S = 0.05
_LOOK_S = 1.0  # between two looks at the lag, and between two early writes of a few dead letters

__all__ = ["OvertakenError", "Recorder", "main", "run"]


class Recorder:
    """Feeds a ledger from the bus. A context: it leaves the bus at its end."""

    def __init__(self, settings: Settings, ledger: EpochWriter) -> None:
        self._ledger = ledger
        self._names = {topic.full(settings): topic.name for topic in (*MARKED, DEAD_LETTERS)}
        self._full = {name: full for full, name in self._names.items()}
        self._consumer: Any = clients.consumer(settings, ROLE, **{"queued.max.messages.kbytes": 65_536})
        places = [self._partition(place, at or OFFSET_BEGINNING) for place, at in ledger.positions().items()]
        self._consumer.assign(places)
        self._silence = StallDetector(self._consumer, places)
        self._paused: set[Place] = set()
        self._looked = 0.0

    def close(self) -> None:
        """Leave the bus."""
        self._consumer.close()

    def turn(self) -> None:
        """Read what there is, waiting a moment for the first record, and write what is whole. Raises StalledError."""
        messages = self._consumer.consume(_TAKE, _WAIT_S)
        if messages:
            HEALTH.progress()
        for message in messages:
            if message.error():
                log.warning("reading: %s", message.error())
                continue
            self._silence.heard(message)
            self._ledger.take(Message.taken(self._names[message.topic()], message))
        while self._ledger.barrier.whole and not (self._ledger.barrier.over and self._letters_to_come()):
            self._ledger.close_epoch()
        if self._ledger.full:
            self._ledger.flush()
        self._hold_back()
        self._silence.look({(self._full[topic], partition) for topic, partition in self._paused})
        if time.monotonic() - self._looked > _LOOK_S:
            self._look()

    def _look(self) -> None:
        self._looked = time.monotonic()
        lags, due = dict.fromkeys(self._full, 0), 0
        for place, offset in self._ledger.positions().items():
            _, high = self._consumer.get_watermark_offsets(self._partition(place), cached=True)
            lags[place[0]] += max(high - offset, 0)
            due += 0 if place in self._paused else max(high - offset, 0)
        for name, lag in lags.items():
            telemetry.LAG.labels(ROLE, name).set(lag)
        HEALTH.behind(due)
        if self._ledger.letters_wait:
            self._ledger.flush()

    def _letters_to_come(self) -> bool:
        """Whether dead letters stand on the bus that were not read: a run that is over has them all."""
        place = DEAD_LETTERS.name, 0
        marks = self._consumer.get_watermark_offsets(self._partition(place), timeout=10)
        return marks is None or bool(self._ledger.positions()[place] < marks[1])

    def _hold_back(self) -> None:
        """Read on only in partitions that have not ended the epoch: what is held in memory stays bounded."""
        ahead = self._ledger.ahead
        self._consumer.resume([self._partition(place) for place in self._paused - ahead])
        self._consumer.pause([self._partition(place) for place in ahead - self._paused])
        self._paused = ahead

    def _partition(self, place: Place, offset: int | None = None) -> TopicPartition:
        topic, partition = self._full[place[0]], place[1]
        return TopicPartition(topic, partition) if offset is None else TopicPartition(topic, partition, offset)


def main(settings: Settings) -> None:
    """Record until SIGTERM: also when the log is over, so that late dead letters are not lost."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = stop_on_signals()
    telemetry.serve(settings)
    run(settings, stop)


def run(settings: Settings, stop: threading.Event) -> None:
    """Record until `stop` is set. Where database or broker were away, begin again from what the tables hold."""
    while not stop.is_set():
        try:
            with closing(Connected(settings)) as connected:
                HEALTH.needs("tables")
                while not stop.is_set():
                    connected.recorder.turn()
        except (*DATABASE_AWAY, KafkaException, StalledError) as error:
            log.warning("%s; beginning again from the tables", error)
            HEALTH.needs("tables", "database or broker were away")
            HEALTH.progress()  # trying is all that can be done: it is not stuck
            stop.wait(AGAIN_S)


class Connected:
    """A recorder and its database, made and closed together."""

    def __init__(self, settings: Settings) -> None:
        self._engine = connect(settings.database.get_secret_value())
        try:
            self.recorder = Recorder(settings, EpochWriter(settings, self._engine, wall_ms))
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Leave bus and database."""
        self.recorder.close()
        self._engine.dispose()
