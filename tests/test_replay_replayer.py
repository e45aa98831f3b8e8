"""A replay on a real broker: what stands in the topic, also after the replayer was killed again and again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from prometheus_client import REGISTRY

from benchmarks.servers.worker import wait_for
from replay.faults import Faults
from replay.prepare.plan import Options, Plan
from replay.prepare.prepare import prepare
from replay.send.epoch_barrier import BEFORE_FIRST, lockstep
from replay.send.progress import PROGRESS, ReplayError, _end
from replay.send.replayer import ReplayResult, send
from replay.send.virtual_clock import VirtualClock
from replay.sources.source import parse
from streams.codec import Reader, RecordError, encode
from streams.kafka import clients, topic_admin
from streams.kafka.message import Message
from streams.kafka.partition_consumer import PartitionConsumer
from streams.kafka.partitioner import partition_of
from streams.records import DeviceBatch, DeviceEvent, EndOfLog, EpochBegin, EpochEnd, Versions
from streams.release_records import EpochDecision, Manifest
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS, MODEL_RELEASES

SOURCE = "synthetic:users=40,items=60,clicks=10"
EPOCH = "200"


@pytest.fixture
def settings_of_run(broker_settings: Settings) -> Settings:
    settings = broker_settings.model_copy(update={"lockstep": False, "partitions": 3})
    topic_admin.create(settings)
    return settings


@pytest.fixture
def on_kafka(settings: Settings, kafka: str) -> Settings:
    """On Apache Kafka only: the embedded broker tells an end too early where the last batch has many records."""
    changed = settings.model_copy(update={"brokers": kafka, "lockstep": False, "partitions": 3})
    topic_admin.create(changed)
    return changed


def planned(settings: Settings, **options: Any) -> Plan:
    return prepare(parse(SOURCE), Options(epoch=EPOCH, **options), settings.state_dir)


def sent(settings: Settings) -> list[list[Any]]:
    """The records of device-events, by partition; None for what is no record."""
    consumer = clients.consumer(settings, "test-reader")
    reader: Reader[Any] = Reader(DeviceEvent)
    name = DEVICE_EVENTS.full(settings)
    found: list[list[Any]] = [[] for _ in range(settings.partitions)]
    ends = [_end(consumer, TopicPartition(name, p)) for p in range(len(found))]
    consumer.assign([TopicPartition(name, p, 0) for p in range(len(found))])
    following = [0] * len(ends)
    while any(after < end for after, end in zip(following, ends, strict=True)):
        for message in consumer.consume(1000, 1.0):
            following[message.partition()] = message.offset() + 1
            for each in Message.of_kafka(DEVICE_EVENTS.name, message):
                try:
                    found[each.partition].append(reader.decode(each.value))
                except RecordError:
                    found[each.partition].append(None)
    consumer.close()
    return found


def simulated_clock(speed: float, wall: list[float] | None = None) -> VirtualClock:
    """A clock that sleeps by adding to its wall time."""
    now = [0.0] if wall is None else wall

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return VirtualClock(speed, time=lambda: now[0], sleep=sleep)


def check(settings: Settings, plan: Plan, releases: Callable[[int], int | None]) -> list[list[Any]]:
    """Every event stands in its partition once, in order, between the marks of its epoch."""
    found = sent(settings)
    items: defaultdict[str, list[Any]] = defaultdict(list)
    for partition, records in enumerate(found):
        epoch, events, shape = -1, 0, []
        for record in filter(None, records):
            if isinstance(record, DeviceBatch):
                assert partition == partition_of(record.user.encode(), settings.partitions)
                assert record.seq == len(items[record.user]), "each event once, none left out"
                items[record.user] += zip(record.items, record.times, record.kinds, strict=True)
                events += len(record.items)
                continue
            shape.append(type(record))
            if isinstance(record, EpochBegin):
                epoch += 1
                assert record.release == releases(epoch)
            assert record.epoch == epoch
        assert shape == [EpochBegin, EpochEnd] * plan.epochs + [EndOfLog]
        assert records[-1].events == events
    assert sum(map(len, items.values())) == plan.events
    assert len(items) == plan.contents.users
    return found


def test_every_event_is_sent_once_between_the_marks_of_its_epoch(settings_of_run: Settings) -> None:
    plan = planned(settings_of_run)
    assert plan.epochs > 3
    result = send(settings_of_run, plan, wall_time=lambda: 5.0)
    found = check(settings_of_run, plan, lambda _epoch: None)
    batches = [record for part in found for record in part if isinstance(record, DeviceBatch)]
    assert result == ReplayResult(plan.events, len(batches))
    assert {batch.sent_wall for batch in batches} == {5000}
    for part in found:
        times = {record.epoch: record.time for record in part if isinstance(record, EpochEnd)}
        begin = {record.epoch: record.time for record in part if isinstance(record, EpochBegin)}
        assert all(begin[epoch] == times[epoch - 1] for epoch in range(1, plan.epochs))


def test_a_replay_that_is_over_sends_nothing_when_it_is_started_again(settings_of_run: Settings) -> None:
    plan = planned(settings_of_run)
    first = send(settings_of_run, plan)
    assert send(settings_of_run, plan) == first
    check(settings_of_run, plan, lambda _epoch: None)


@pytest.mark.slow
def test_a_replayer_that_is_killed_goes_on_without_sending_anything_twice(on_kafka: Settings) -> None:
    plan = planned(on_kafka)
    consumer = clients.consumer(on_kafka, "test-watch")
    name = DEVICE_EVENTS.full(on_kafka)

    def records() -> int:
        places = [TopicPartition(name, p) for p in range(on_kafka.partitions)]
        return sum(_end(consumer, place) for place in places)

    days = (plan.contents.last - plan.contents.first) / 1000
    arguments = ["replay", SOURCE, "--epoch", EPOCH, "--speed", f"{days / 4:.0f}"]
    environment = os.environ | on_kafka.environment()
    for _ in range(3):
        before = records()
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", *arguments], env=environment, cwd=Path(__file__).parents[1]
        )
        try:
            wait_for(lambda before=before: records() > before + 20, "a few records")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(30)
        _garbage(on_kafka, "test-stranger")  # somebody else's record stands among ours
    consumer.close()
    result = send(on_kafka, plan)
    assert result.events_sent == plan.events
    found = check(on_kafka, plan, lambda _epoch: None)
    assert sum(record is None for part in found for record in part) == 3
    assert result.batches == sum(isinstance(record, DeviceBatch) for part in found for record in part)


class _KilledError(Exception):
    """The replayer died here."""


def test_a_replay_of_a_faulty_fleet_goes_on_after_it_died_in_the_middle_of_an_epoch(on_kafka: Settings) -> None:
    faults = Faults(offline=0.3, lost=0.1, duplicates=0.5, old=0.3, hostile=2)
    settings = on_kafka.model_copy(update={"faults": str(faults)})
    plan = planned(settings, faults=faults)

    clock = simulated_clock(plan.shift / 1000 / 20)

    def die() -> int:
        if clock.reached() > plan.contents.first + 0.6 * plan.shift:
            raise _KilledError
        return 0

    with pytest.raises(_KilledError):
        send(settings, plan, clock=clock, control=die)
    for part in sent(settings):
        assert 0 < sum(isinstance(record, EpochEnd) for record in part) < plan.epochs
    assert send(settings, plan).events_sent == plan.events
    applied: defaultdict[str, int] = defaultdict(int)
    repeated = 0
    for record in (record for part in sent(settings) for record in part if isinstance(record, DeviceBatch)):
        if record.times in ([], [0]):  # of a hostile device
            continue
        assert record.seq <= applied[record.user], "no hole"
        repeated += record.seq < applied[record.user]
        applied[record.user] = max(applied[record.user], record.seq + len(record.items))
    assert sum(applied.values()) == plan.events
    assert repeated > 10


def _garbage(settings: Settings, name: str) -> None:
    producer = clients.producer(settings, name)
    producer.produce(DEVICE_EVENTS.full(settings), key=b"x", value=b"\xff\xfe", partition=0)
    assert not producer.flush(30)


def test_each_epoch_begins_with_what_was_decided_before_it(settings_of_run: Settings) -> None:
    plan = planned(settings_of_run)
    asked: list[int] = []

    def decide(epoch: int) -> int:
        asked.append(epoch)
        for part in sent(settings_of_run):  # nothing of the next epoch is sent before it is decided
            ends = [record.epoch for record in part if isinstance(record, EpochEnd)]
            assert ends == list(range(epoch + 1))
            assert sum(isinstance(record, EpochBegin) for record in part) == len(ends)
        return epoch + 100

    send(settings_of_run, plan, decide=decide)
    assert asked == [BEFORE_FIRST, *range(plan.epochs - 1)]
    check(settings_of_run, plan, lambda epoch: epoch + 99)


def test_a_paused_clock_sends_nothing_and_goes_on_where_it_stood(settings_of_run: Settings) -> None:
    plan = planned(settings_of_run)
    clock, looks, counts = simulated_clock(plan.shift / 1000 / 20), 0, list[int]()

    def control() -> int:
        nonlocal looks
        if clock.reached() > plan.contents.first + plan.shift / 2 and not looks:
            clock.pause()
        if clock.paused:
            looks += 1
            if looks in (10, 20):  # after ten turns the broker has everything that was sent before
                counts.append(sum(map(len, sent(settings_of_run))))
            if looks == 20:
                clock.resume()
        return 0

    send(settings_of_run, plan, clock=clock, control=control)
    assert looks == 20
    assert 0 < counts[0] == counts[1] < sum(map(len, sent(settings_of_run)))
    check(settings_of_run, plan, lambda _epoch: None)


def test_a_rate_of_events_needs_the_time_of_all_events_and_keeps_their_order(settings_of_run: Settings) -> None:
    plan, wall = planned(settings_of_run, rate=50.0), [0.0]
    send(settings_of_run, plan, clock=simulated_clock(1.0, wall))
    assert plan.events / 50 - 1 < wall[0] < plan.events / 50 + 1
    check(settings_of_run, plan, lambda _epoch: None)


@pytest.mark.parametrize("rate", [None, 50.0])
def test_a_skip_that_is_asked_for_while_an_event_is_waited_for_takes_no_time_and_the_pace_is_then_the_same(
    settings_of_run: Settings, rate: float | None
) -> None:
    plan, wall, asked = planned(settings_of_run, rate=rate), [0.0], 0.0
    speed = 1.0 if rate else plan.shift / 1000 / 50  # the whole log in 50 s

    def control() -> int:
        """Ask after 20 s for a third of the log."""
        nonlocal asked
        if wall[0] > 20 and not asked:
            asked = 1000 * (REGISTRY.get_sample_value("mc2sf_event_time_seconds", {"role": "replay"}) or 0)
        return int(asked + plan.shift / 3) if asked else 0

    send(settings_of_run, plan, clock=simulated_clock(speed, wall), control=control)
    records = [each for part in check(settings_of_run, plan, lambda _epoch: None) for each in part]
    times = [time for each in records if isinstance(each, DeviceBatch) for time in each.times]
    waited = [time for time in times if not asked <= time < asked + plan.shift / 3]
    assert wall[0] == pytest.approx(len(waited) / 50 if rate else 50 * 2 / 3, rel=0.1)


def test_another_log_or_a_topic_of_others_is_not_continued(settings_of_run: Settings) -> None:
    plan = planned(settings_of_run)
    send(settings_of_run, plan)
    with pytest.raises(ReplayError, match="belongs to another log or other options"):
        send(settings_of_run, planned(settings_of_run, limit=300))
    (settings_of_run.state_dir / PROGRESS).unlink()
    with pytest.raises(ReplayError, match="has records, but there is no progress file"):
        send(settings_of_run, planned(settings_of_run))
    (settings_of_run.state_dir / PROGRESS).write_text("{")
    with pytest.raises(ReplayError, match="is damaged"):
        send(settings_of_run, planned(settings_of_run))


def test_a_topic_that_lost_records_or_has_other_partitions_is_not_continued(settings_of_run: Settings) -> None:
    plan = planned(settings_of_run)
    send(settings_of_run, plan)
    other = settings_of_run.model_copy(update={"run": settings_of_run.run + "-2"})
    topic_admin.create(other)
    with pytest.raises(ReplayError, match="has lost records"):
        send(other, plan)
    with pytest.raises(ReplayError, match="should have 5 partitions and has 3"):
        send(settings_of_run.model_copy(update={"partitions": 5}), plan)


def test_a_policy_that_the_settings_do_not_name_is_refused(settings_of_run: Settings) -> None:
    with pytest.raises(ReplayError, match="exposures=rated, the log was read with logged"):
        send(settings_of_run.model_copy(update={"exposures": "rated"}), planned(settings_of_run))


def test_the_barrier_waits_for_release_0_and_for_each_decision_and_passes_over_garbage(
    settings_of_run: Settings,
) -> None:
    producer = clients.producer(settings_of_run, "test-coordinator")
    manifest = Manifest(0, 0, "initial", Versions(), -1, 0, 1, "", {}, {}, {})
    script: list[bytes | None] = [b"\xff", None, b"", encode(manifest)]
    script += [encode(EpochDecision(0, 7, "retrain", "")), encode(EpochDecision(0, 8, "retrain", "a second one"))]
    script += [b"\x01\x90", encode(EpochDecision(1, 7, "unchanged", ""))]

    class Publishing(PartitionConsumer):
        def read(self, max_records: int, timeout_s: float) -> list[Message]:
            if script:
                producer.produce(MODEL_RELEASES.full(settings_of_run), key=b"k", value=script.pop(0))
                assert not producer.flush(30)
            return super().read(max_records, timeout_s)

    with lockstep(settings_of_run, Publishing) as decide:
        assert decide(BEFORE_FIRST) == 0
        assert [decide(0), decide(1), decide(0)] == [7, 7, 7]
