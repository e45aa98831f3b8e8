"""Noticing a consumer that has fallen silent: the broker has records for it, and it is not given them.

Seen once with librdkafka 2.12: after its broker had stood still for a minute, the learner's consumer was given nothing
any more, for good and without an error, and the ends of topics that it keeps stood still as well. So whoever listens
asks the broker itself now and then, and begins again with another consumer where a partition had records all the time
and none came.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

SILENT_S = 15.0
_GAP_S = 2.0  # who looks less often did something else than to listen
_ANSWER_S = 2.0

Place = tuple[str, int]  # topic with its prefix, partition


class StalledError(RuntimeError):
    """Records wait at the broker and the consumer is not given them."""


class StallDetector:
    """Watches a consumer that was assigned `places`, each with the offset of its first record."""

    def __init__(
        self, consumer: Any, places: Iterable[TopicPartition], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._consumer, self._clock = consumer, clock
        self._next: dict[Place, int] = {(place.topic, place.partition): max(place.offset, 0) for place in places}
        self._before: dict[Place, tuple[int, int]] = {}  # the next offset and the topic's end at the last look
        self._looked = self._asked = clock()

    def heard(self, message: Any) -> None:
        """Note a record that came."""
        self._next[message.topic(), message.partition()] = message.offset() + 1

    def look(self, paused: Collection[Place] = ()) -> None:
        """To be called at every turn of listening; `paused` are not listened to.

        Raises StalledError where all through `SILENT_S` of listening a record waited in a partition and none came.
        """
        now = self._clock()
        if now - self._asked > _GAP_S:
            self._before, self._looked = {}, now
        self._asked = now
        if now - self._looked < SILENT_S:
            return
        before, self._before = self._before, {}
        for place in sorted(self._next.keys() - set(paused)):
            try:
                low, high = self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=_ANSWER_S)
            except KafkaException:  # without a broker nobody is silent
                self._before = {}
                break
            at = max(self._next[place], low)
            then, end = before.get(place, (at, at))
            if at == then < end:
                raise StalledError(
                    f"{place[0]}/{place[1]}: {high - at} records wait and none came for {SILENT_S:.0f} s"
                )
            self._before[place] = at, high
        self._looked = self._asked = self._clock()
