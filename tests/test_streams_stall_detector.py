from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from streams.kafka.stall_detector import SILENT_S, StallDetector, StalledError


@dataclass
class Broker:
    """What a consumer asks for the ends of partitions; of those that it does not know it says nothing."""

    ends: dict[int, tuple[int, int]]
    now: float = 0.0
    asked: list[int] = field(default_factory=list)

    def get_watermark_offsets(self, place: TopicPartition, timeout: float) -> tuple[int, int]:
        assert timeout > 0
        self.asked.append(place.partition)
        if place.partition not in self.ends:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return self.ends[place.partition]


@dataclass
class RawMessage:
    place: int
    at: int

    def topic(self) -> str:
        return "t"

    def partition(self) -> int:
        return self.place

    def offset(self) -> int:
        return self.at


def listen(
    broker: Broker, silence: StallDetector, seconds: float, turn: Callable[[], object] = lambda: None, **how: Any
) -> None:
    for _ in range(int(seconds / 0.5)):
        broker.now += 0.5
        turn()
        silence.look(**how)


def silence_of(broker: Broker, *offsets: int) -> StallDetector:
    return StallDetector(broker, [TopicPartition("t", p, at) for p, at in enumerate(offsets)], lambda: broker.now)


def test_records_that_wait_all_the_time_and_do_not_come_are_noticed_within_two_looks() -> None:
    broker = Broker({0: (0, 5), 1: (0, 3)})
    silence = silence_of(broker, 5, 2)
    with pytest.raises(StalledError, match="t/1: 1 records wait"):
        listen(broker, silence, 3 * SILENT_S)
    assert broker.now <= 2 * SILENT_S + 1


def test_a_consumer_that_has_all_is_asked_about_and_left_alone() -> None:
    broker = Broker({0: (0, 5), 1: (0, 0)})
    silence = silence_of(broker, OFFSET_BEGINNING, OFFSET_BEGINNING)
    for offset in range(5):
        silence.heard(RawMessage(0, offset))
    listen(broker, silence, 10 * SILENT_S)
    assert set(broker.asked) == {0, 1}


def test_who_gets_on_is_not_silent_however_much_waits() -> None:
    broker = Broker({0: (0, 10**6)})
    silence = silence_of(broker, 0)
    came = iter(range(10**6))
    listen(broker, silence, 10 * SILENT_S, lambda: silence.heard(RawMessage(0, next(came))))


def test_records_that_came_a_moment_ago_are_not_missed_yet() -> None:
    broker = Broker({0: (0, 0)})
    silence = silence_of(broker, 0)

    def arrive_just_before_a_look() -> None:
        if broker.now % SILENT_S == 0:
            if end := broker.ends[0][1]:
                silence.heard(RawMessage(0, end - 1))
            broker.ends = {0: (0, end + 1)}

    listen(broker, silence, 10 * SILENT_S, arrive_just_before_a_look)


def test_deleted_records_are_not_waited_for() -> None:
    broker = Broker({0: (7, 7)})
    listen(broker, silence_of(broker, 0), 5 * SILENT_S)


def test_paused_partitions_and_a_broker_that_is_away_are_no_silence() -> None:
    broker = Broker({0: (0, 5)})
    listen(broker, silence_of(broker, 0), 5 * SILENT_S, paused={("t", 0)})
    assert not broker.asked
    silence = silence_of(broker, 0, 0)  # the second partition's broker is away
    listen(broker, silence, 5 * SILENT_S)
    assert set(broker.asked) == {0, 1}
    broker.ends[1] = 0, 5  # back: from now on it is listened to
    listen(broker, silence, SILENT_S)


def test_time_in_which_it_did_something_else_does_not_count() -> None:
    broker = Broker({0: (0, 5)})
    silence = silence_of(broker, 0)
    for _ in range(10):
        listen(broker, silence, 5.0)
        broker.now += SILENT_S  # a training, a long transaction
    assert not broker.asked
