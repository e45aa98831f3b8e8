"""The replayer's wait between two epochs for the coordinator's decision; only in lockstep."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streams.codec import Reader, RecordError
from streams.kafka.partition_consumer import OpenConsumer, PartitionConsumer
from streams.kafka.stall_detector import StalledError
from streams.kafka.types import TopicPartition
from streams.process.log_throttle import LogThrottle
from streams.release_records import EpochDecision, ItemCounts, Manifest, ReleaseEvent
from streams.settings import Settings
from streams.topics import MODEL_RELEASES

log = logging.getLogger(__name__)
log.addFilter(LogThrottle())

Decide = Callable[[int], int | None]  # last finished epoch, -1 before the first -> release of the next epoch
BEFORE_FIRST = -1
_ROLE = "replay-barrier"
_MAX_RECORDS = 1000
_WAIT_S = 0.2


def free(_epoch: int) -> None:
    """Return None, for a free-running replay: each processor uses the newest release that it has."""


@contextmanager
def lockstep(settings: Settings, open_consumer: OpenConsumer = PartitionConsumer) -> Iterator[Decide]:
    """Open a `Decide` that reads model-releases: release 0 before the first epoch, then the decision of each epoch.

    It waits without a timeout.
    """
    start = {TopicPartition(MODEL_RELEASES.name, 0): 0}
    consumer = open_consumer(settings, _ROLE, start)
    reader: Reader[Manifest | EpochDecision | ItemCounts] = Reader(ReleaseEvent)
    decided: dict[int, int] = {}

    def decide(epoch: int) -> int:
        nonlocal consumer
        while epoch not in decided:
            try:
                messages = consumer.read(_MAX_RECORDS, _WAIT_S)
            except StalledError as error:
                log.warning("%s; reading again with a new consumer", error)
                consumer.close()
                consumer = open_consumer(settings, _ROLE, start)
                continue
            for message in messages:
                if message.tombstone:
                    continue  # of a release
                try:
                    record = reader.decode(message.value)
                except RecordError as error:
                    log.warning("%s at offset %d is skipped: %s", message.topic, message.offset, error)
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
