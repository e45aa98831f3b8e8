"""What the replayer waits for between two epochs: in lockstep the coordinator's decision, else nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from streams.codec import Reader, RecordError
from streams.kafka import clients
from streams.kafka.stall_detector import StallDetector, StalledError
from streams.process.log_throttle import Bounded
from streams.records import EpochDecision, ItemCounts, Manifest, ReleaseEvent
from streams.settings import Settings
from streams.topics import MODEL_RELEASES

log = logging.getLogger(__name__)
log.addFilter(Bounded())

Decide = Callable[[int], int | None]  # epoch that is over, -1 before the first -> release of the next one
BEFORE_FIRST = -1


def free(_epoch: int) -> None:
    """Free-running: each processor uses the newest release it has."""


def _listening(settings: Settings) -> tuple[Any, StallDetector]:
    consumer = clients.consumer(settings, "replay-barrier")
    places = [TopicPartition(MODEL_RELEASES.full(settings), 0, OFFSET_BEGINNING)]
    consumer.assign(places)
    return consumer, StallDetector(consumer, places)


@contextmanager
def lockstep(settings: Settings, idle: Callable[[], object] = lambda: None) -> Iterator[Decide]:
    """A `Decide` that reads model-releases: release 0 before the first epoch, then each epoch's decision.

    It waits as long as it takes; `idle` is called a few times a second meanwhile.
    """
    consumer, silence = _listening(settings)
    reader: Reader[Manifest | EpochDecision | ItemCounts] = Reader(ReleaseEvent)
    decided: dict[int, int] = {}

    def decide(epoch: int) -> int:
        nonlocal consumer, silence
        while epoch not in decided:
            message = consumer.poll(0.2)
            idle()
            if message is None:
                try:
                    silence.look()
                except StalledError as error:
                    log.warning("%s; listening anew", error)
                    consumer.close()
                    consumer, silence = _listening(settings)
                continue
            if message.error():
                log.warning("reading %s: %s", message.topic(), message.error())
                continue
            silence.heard(message)
            if message.value() is None:
                continue  # the tombstone of a release
            try:
                record = reader.decode(message.value())
            except RecordError as error:
                log.warning("%s at offset %d is passed over: %s", message.topic(), message.offset(), error)
                continue
            if isinstance(record, EpochDecision):
                decided.setdefault(record.epoch, record.release)  # the first stands: there is exactly one
            elif isinstance(record, Manifest) and record.version == 0:
                decided[BEFORE_FIRST] = 0
        return decided[epoch]

    try:
        yield decide
    finally:
        consumer.close()
