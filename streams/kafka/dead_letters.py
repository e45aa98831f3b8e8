"""Dead letters for plain consumers: a record that is refused is kept, with its place and the reason."""

from __future__ import annotations

import logging
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from streams.codec import encode
from streams.kafka.clients import produce_patiently
from streams.process import telemetry
from streams.process.log_throttle import Bounded
from streams.records import DeadLetter
from streams.settings import Settings
from streams.topics import DEAD_LETTERS

log = logging.getLogger(__name__)
log.addFilter(Bounded())


class DeadLetterBox:
    """Sends dead letters; `producer` is a confluent-kafka Producer."""

    def __init__(self, settings: Settings, producer: Any) -> None:
        self._topic = DEAD_LETTERS.full(settings)
        self._producer = producer

    def put(self, dead: DeadLetter) -> None:
        """Send it and count it. The caller flushes the producer before it commits an offset past the record.

        That flush, or another poll, raises KafkaException where the broker did not take it in time.
        """
        telemetry.DEAD_LETTERS.labels(dead.role, dead.topic).inc()
        log.warning("%s/%d@%d refused: %s", dead.topic, dead.partition, dead.offset, dead.reason)
        produce_patiently(
            self._producer, self._topic, key=dead.topic.encode(), value=encode(dead), on_delivery=_delivered
        )
        self._producer.poll(0)


def _delivered(error: KafkaError | None, _message: object) -> None:
    if error is not None:
        raise KafkaException(error)
