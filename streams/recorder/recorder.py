"""The recorder: writes events, outcomes and states into the tables, exactly once, and measures every variant online.

In: device-events, device-uplink, outcomes, dead-letters, the changelogs of device and cloud. Out: the tables. The epoch
writer converts records to rows; this module reads Kafka from the offsets in the tables.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import closing

from confluent_kafka import KafkaException
from sqlalchemy import Engine

from streams.kafka.partition_consumer import OpenConsumer, PartitionConsumer
from streams.kafka.stall_detector import StalledError
from streams.kafka.types import TopicPartition
from streams.process import telemetry
from streams.process.clock_and_signals import wall_ms
from streams.process.health import HEALTH, Health
from streams.process.retry import DATABASE_UNAVAILABLE
from streams.process.service_loop import run_through_outages, service
from streams.recorder.epoch_writer import DEAD_LETTER_PARTITION, EpochWriter
from streams.recorder.rows import ROLE
from streams.settings import Settings

_MAX_RECORDS = 1000
_WAIT_S = 0.05
_REPORT_S = 1.0  # between two reports of the lag, and between two early writes of a few dead letters
_MEASURE_S = 60.0  # between two measurements of the tables
_OUTAGES = (*DATABASE_UNAVAILABLE, KafkaException, StalledError)


class Recorder:
    """Passes records from Kafka to an epoch writer."""

    def __init__(
        self,
        settings: Settings,
        writer: EpochWriter,
        open_consumer: OpenConsumer = PartitionConsumer,
        health: Health = HEALTH,
    ) -> None:
        self._writer, self._health = writer, health
        self._consumer = open_consumer(settings, ROLE, writer.positions())
        self._paused: set[TopicPartition] = set()
        self._reported, self._measured = 0.0, -math.inf

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def poll_once(self) -> None:
        """Read records, waiting a moment for the first one, and write each complete epoch. Raises StalledError."""
        with self._health.pending():  # the database may hang also if every record was read
            messages = self._consumer.read(_MAX_RECORDS, _WAIT_S)
            if messages:
                self._health.progress()
            for message in messages:
                self._writer.add(message)
            self._close_epochs()
            if self._writer.full:
                self._writer.flush()
            self._paused = self._writer.ahead  # what is held in memory stays bounded
            self._consumer.pause_only(self._paused)
            if time.monotonic() - self._reported > _REPORT_S:
                self._report()

    def _close_epochs(self) -> None:
        while self._writer.barrier.complete and not (self._writer.barrier.log_ended and self._dead_letters_follow()):
            self._writer.close_epoch()
            self._health.progress()

    def _report(self) -> None:
        self._reported = time.monotonic()
        lags = self._consumer.lag()
        for topic in dict.fromkeys(partition.topic for partition in lags):
            telemetry.LAG.labels(ROLE, topic).set(sum(lag for each, lag in lags.items() if each.topic == topic))
        self._health.set_lag(sum(lag for partition, lag in lags.items() if partition not in self._paused))
        if self._writer.has_dead_letters:
            self._writer.flush()
        if self._reported - self._measured > _MEASURE_S:
            self._measured = self._reported
            for size in self._writer.table_sizes():
                telemetry.TABLE_BYTES.labels(size.table).set(size.bytes)
                if size.rows is not None:
                    telemetry.TABLE_ROWS.labels(size.table).set(size.rows)

    def _dead_letters_follow(self) -> bool:
        """Return True if there are dead letters that were not read: a run that is over has recorded all of them."""
        return self._consumer.has_unread(DEAD_LETTER_PARTITION)


def main(settings: Settings) -> None:
    """Record until SIGTERM: also after the end of the log, so that late dead letters are not lost."""
    with service(settings, ROLE) as (engine, stop):
        run(settings, engine, stop)


def run(
    settings: Settings, engine: Engine, stop: threading.Event, open_consumer: OpenConsumer = PartitionConsumer
) -> None:
    """Record until `stop` is set; after an outage of database or broker start again from what the tables hold."""

    def record() -> None:
        with closing(Recorder(settings, EpochWriter(settings, engine, wall_ms), open_consumer)) as recorder:
            HEALTH.needs("tables")
            while not stop.is_set():
                recorder.poll_once()

    run_through_outages(record, stop, outages=_OUTAGES)
