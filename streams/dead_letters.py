"""Dead letters for plain consumers: a record that is refused is kept, with its place and the reason."""

from __future__ import annotations

import logging
from typing import Any

from streams import telemetry
from streams.floods import Bounded
from streams.records import MAX_BYTES, DeadLetter, encode
from streams.settings import Settings
from streams.topics import DEAD_LETTERS

log = logging.getLogger(__name__)
log.addFilter(Bounded())
_ENVELOPE = 20_000  # bytes left for everything but the value, the reason included
_REASON = 1_000


def letter(topic: str, message: Any, reason: str, role: str) -> DeadLetter:
    """Make the dead letter of a confluent-kafka `message` of `topic` (without prefix), refused by `role`.

    A value that would not fit into a record is cut; the reason then says how long it was.
    """
    key, value = message.key() or b"", message.value() or b""
    if len(key) + len(value) > MAX_BYTES - _ENVELOPE:
        reason = f"{reason} (cut: the key had {len(key)} bytes, the value {len(value)})"
        key = key[: _ENVELOPE // 2]
        value = value[: MAX_BYTES - _ENVELOPE - len(key)]
    return DeadLetter(topic, message.partition(), message.offset(), key, value, reason[-_REASON:], role)


class DeadLetterBox:
    """Sends dead letters; `producer` is a confluent-kafka Producer."""

    def __init__(self, settings: Settings, producer: Any) -> None:
        self._topic = DEAD_LETTERS.full(settings)
        self._producer = producer

    def put(self, dead: DeadLetter) -> None:
        """Send it and count it. The caller flushes the producer before it commits an offset past the record."""
        telemetry.DEAD_LETTERS.labels(dead.role, dead.topic).inc()
        log.warning("%s/%d@%d refused: %s", dead.topic, dead.partition, dead.offset, dead.reason)
        self._producer.produce(self._topic, key=dead.topic.encode(), value=encode(dead))
        self._producer.poll(0)
