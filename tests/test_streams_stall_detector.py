from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from streams.kafka.stall_detector import STALLED_AFTER_S, StallDetector, StalledError


@dataclass
class Broker:
    """A consumer that knows the ends of some partitions; the broker does not answer for others."""

    ends: dict[int, tuple[int, int]]
    now: float = 0.0
    asked: list[int] = field(default_factory=list)

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:
        assert timeout > 0
        self.asked.append(partition.partition)
        if partition.partition not in self.ends:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return self.ends[partition.partition]


@dataclass
class RawMessage:
    number: int
    at: int

    def topic(self) -> str:
        return "t"

    def partition(self) -> int:
        return self.number

    def offset(self) -> int:
        return self.at


def listen(
    broker: Broker, detector: StallDetector, seconds: float, turn: Callable[[], object] = lambda: None, **how: Any
) -> None:
    for _ in range(int(seconds / 0.5)):
        broker.now += 0.5
        turn()
        detector.check(**how)


def detector_of(broker: Broker, *offsets: int) -> StallDetector:
    return StallDetector(broker, [TopicPartition("t", p, at) for p, at in enumerate(offsets)], lambda: broker.now)


def test_a_stall_is_detected_within_two_checks() -> None:
    broker = Broker({0: (0, 5), 1: (0, 3)})
    detector = detector_of(broker, 5, 2)
    with pytest.raises(StalledError, match="t/1: 1 records wait"):
        listen(broker, detector, 3 * STALLED_AFTER_S)
    assert broker.now <= 2 * STALLED_AFTER_S + 1


def test_a_consumer_without_pending_records_is_not_stalled() -> None:
    broker = Broker({0: (0, 5), 1: (0, 0)})
    detector = detector_of(broker, OFFSET_BEGINNING, OFFSET_BEGINNING)
    for offset in range(5):
        detector.received(RawMessage(0, offset))
    listen(broker, detector, 10 * STALLED_AFTER_S)
    assert set(broker.asked) == {0, 1}


def test_a_consumer_that_delivers_is_not_stalled_however_many_records_are_pending() -> None:
    broker = Broker({0: (0, 10**6)})
    detector = detector_of(broker, 0)
    came = iter(range(10**6))
    listen(broker, detector, 10 * STALLED_AFTER_S, lambda: detector.received(RawMessage(0, next(came))))


def test_records_that_arrived_just_before_a_check_are_no_stall() -> None:
    broker = Broker({0: (0, 0)})
    detector = detector_of(broker, 0)

    def arrive_just_before_a_check() -> None:
        if broker.now % STALLED_AFTER_S == 0:
            if end := broker.ends[0][1]:
                detector.received(RawMessage(0, end - 1))
            broker.ends = {0: (0, end + 1)}

    listen(broker, detector, 10 * STALLED_AFTER_S, arrive_just_before_a_check)


def test_deleted_records_are_no_stall() -> None:
    broker = Broker({0: (7, 7)})
    listen(broker, detector_of(broker, 0), 5 * STALLED_AFTER_S)


def test_paused_partitions_and_an_unavailable_broker_are_no_stall() -> None:
    broker = Broker({0: (0, 5)})
    listen(broker, detector_of(broker, 0), 5 * STALLED_AFTER_S, paused={("t", 0)})
    assert not broker.asked
    detector = detector_of(broker, 0, 0)  # the second partition's broker is unavailable
    listen(broker, detector, 5 * STALLED_AFTER_S)
    assert set(broker.asked) == {0, 1}
    broker.ends[1] = 0, 5  # available again: its records count from now on
    listen(broker, detector, STALLED_AFTER_S)


def test_time_in_which_the_consumer_did_not_poll_does_not_count() -> None:
    broker = Broker({0: (0, 5)})
    detector = detector_of(broker, 0)
    for _ in range(10):
        listen(broker, detector, 5.0)
        broker.now += STALLED_AFTER_S  # a training, a long transaction
    assert not broker.asked
