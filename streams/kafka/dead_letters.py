"""Dead letters of plain consumers: a refused record is kept with its position and the reason."""

from __future__ import annotations

import logging

from confluent_kafka import KafkaException

from streams.codec import encode
from streams.kafka.clients import produce_waiting
from streams.kafka.types import KafkaFailure, KafkaProducer, RecordPosition
from streams.process import telemetry
from streams.process.log_throttle import LogThrottle
from streams.records import DeadLetter
from streams.settings import Settings
from streams.topics import DEAD_LETTERS

log = logging.getLogger(__name__)
log.addFilter(LogThrottle())


class DeadLetterBox:
    """Sends dead letters with a producer."""

    def __init__(self, settings: Settings, producer: KafkaProducer) -> None:
        self._topic = DEAD_LETTERS.full(settings)
        self._producer = producer

    def put(self, dead: DeadLetter) -> None:
        """Send and count a dead letter. The caller flushes the producer before it commits an offset past the record.

        That flush, or a later call of this, raises KafkaException if the broker did not take the letter in time.
        """
        telemetry.DEAD_LETTERS.labels(dead.role, dead.topic).inc()
        log.warning(
            "%s refused: %s", RecordPosition(dead.topic, dead.partition, dead.offset, dead.envelope_index), dead.reason
        )
        produce_waiting(
            self._producer, self._topic, key=dead.topic.encode(), value=encode(dead), on_delivery=_delivered
        )
        self._producer.poll(0)


def _delivered(error: KafkaFailure | None, _message: object) -> None:
    if error is not None:
        raise KafkaException(error)
