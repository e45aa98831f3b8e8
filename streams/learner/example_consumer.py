"""Reads fast-examples from Kafka into the learner's example buffer and refuses invalid ones."""

from __future__ import annotations

import logging

from streams.codec import Reader, RecordError
from streams.kafka import clients
from streams.kafka.dead_letters import DeadLetterBox
from streams.kafka.partition_consumer import OpenConsumer, PartitionConsumer
from streams.kafka.types import TopicPartition
from streams.learner import examples
from streams.learner.example_buffer import ExampleBuffer
from streams.process.health import HEALTH, Health
from streams.records import EndOfLog, EpochEnd, ExampleEvent, FastExample
from streams.settings import Settings
from streams.topics import FAST_EXAMPLES

log = logging.getLogger(__name__)
ROLE = "learner"
_WAIT_S = 0.1
_MAX_RECORDS = 2000
_QUEUE_KB = 16_384


class ExampleConsumer:
    """Feeds `buffer` from Kafka, from the offsets at which the buffer resumes."""

    def __init__(
        self,
        settings: Settings,
        buffer: ExampleBuffer,
        open_consumer: OpenConsumer = PartitionConsumer,
        health: Health = HEALTH,
    ) -> None:
        self._settings, self._buffer, self._health = settings, buffer, health
        self._partitions = [TopicPartition(FAST_EXAMPLES.name, p) for p in range(FAST_EXAMPLES.partitions(settings))]
        start = {self._partitions[p]: offset for p, offset in buffer.offsets().items()}
        self._consumer = open_consumer(settings, ROLE, start, queue_kb=_QUEUE_KB)
        self._paused: set[TopicPartition] = set()
        self._producer = clients.producer(settings, ROLE)
        self._dead_letters = DeadLetterBox(settings, self._producer)
        self._reader: Reader[FastExample | EpochEnd | EndOfLog] = Reader(ExampleEvent)

    def read(self) -> None:
        """Read records, waiting a moment for the first one. Raises StalledError."""
        messages = self._consumer.read(_MAX_RECORDS, _WAIT_S)
        if messages:
            self._health.progress()
        for message in messages:
            try:
                record = self._reader.decode(message.value)
                if isinstance(record, FastExample):
                    message.check_user(record.user, self._settings.partitions)
                    examples.check(record, self._settings.dim)
                self._buffer.put(message.partition, message.offset, record, message.envelope_index)
            except RecordError as error:
                self._dead_letters.put(message.refused(str(error), ROLE))
                self._buffer.skip(message.partition, message.offset)
        self._paused = {each for each in self._partitions if self._buffer.full(each.partition)}
        self._consumer.pause_only(self._paused)

    def lag(self) -> int:
        """Return how many records are known to wait in the partitions that are not paused."""
        return sum(lag for partition, lag in self._consumer.lag().items() if partition not in self._paused)

    def flush_dead_letters(self) -> None:
        """Wait until every dead letter is acknowledged. Call this before offsets past the records are written."""
        while self._producer.flush(1.0):
            log.warning("dead letters are not acknowledged yet")
            self._health.progress()  # trying again is all that can be done: the process is not stuck

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()
