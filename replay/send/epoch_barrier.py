"""The wait of the replayer between two epochs: in lockstep for the decision of the coordinator, else none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from streams.codec import Reader, RecordError
from streams.kafka import clients
from streams.kafka.stall_detector import StallDetector, StalledError
from streams.process.log_throttle import Bounded
from streams.records import EpochDecision, ItemCounts, Manifest, ReleaseEvent
from streams.settings import Settings
from streams.topics import MODEL_RELEASES

log = logging.getLogger(__name__)
log.addFilter(Bounded())

Decide = Callable[[int], int | None]  # last finished epoch, -1 before the first -> release of the next epoch
BEFORE_FIRST = -1


def free(_epoch: int) -> None:
    """Return None, for a free-running replay: each processor uses the newest release that it has."""


def _subscribe(settings: Settings) -> tuple[Consumer, StallDetector]:
    consumer = clients.consumer(settings, "replay-barrier")
    partitions = [TopicPartition(MODEL_RELEASES.full(settings), 0, OFFSET_BEGINNING)]
    consumer.assign(partitions)
    return consumer, StallDetector(consumer, partitions)


@contextmanager
def lockstep(settings: Settings, idle: Callable[[], object] = lambda: None) -> Iterator[Decide]:
    """Open a `Decide` that reads model-releases: release 0 before the first epoch, then the decision of each epoch.

    It waits without a limit; `idle` is called a few times per second while it waits.
    """
    consumer, stalls = _subscribe(settings)
    reader: Reader[Manifest | EpochDecision | ItemCounts] = Reader(ReleaseEvent)
    decided: dict[int, int] = {}

    def decide(epoch: int) -> int:
        nonlocal consumer, stalls
        while epoch not in decided:
            message = consumer.poll(0.2)
            idle()
            if message is None:
                try:
                    stalls.look()
                except StalledError as error:
                    log.warning("%s; subscribing again", error)
                    consumer.close()
                    consumer, stalls = _subscribe(settings)
                continue
            if message.error():
                log.warning("reading %s: %s", message.topic(), message.error())
                continue
            stalls.heard(message)
            if message.value() is None:
                continue  # the tombstone of a release
            try:
                record = reader.decode(message.value())
            except RecordError as error:
                log.warning("%s at offset %d is skipped: %s", message.topic(), message.offset(), error)
                continue
            if isinstance(record, EpochDecision):
                decided.setdefault(record.epoch, record.release)  # the first one counts: later ones are repeats
            elif isinstance(record, Manifest) and record.version == 0:
                decided[BEFORE_FIRST] = 0
        return decided[epoch]

    try:
        yield decide
    finally:
        consumer.close()
