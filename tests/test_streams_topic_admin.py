from __future__ import annotations

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from benchmarks.servers.worker import wait_for
from deploy.doctor import examine
from streams.database.engine import connect
from streams.kafka import topic_admin
from streams.process.clock_and_signals import wall_ms
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS, TOPICS

DAY_MS = 86_400_000


def test_topics_are_created_once_and_pass_the_check(broker_settings: Settings) -> None:
    assert len(topic_admin.deviations(broker_settings)) == len(TOPICS)
    assert sorted(topic_admin.create(broker_settings)) == sorted(t.full(broker_settings) for t in TOPICS)
    assert topic_admin.create(broker_settings) == []
    assert topic_admin.deviations(broker_settings) == []
    assert topic_admin.kept_ms(broker_settings, DEVICE_EVENTS) == 7 * DAY_MS
    topic_admin.create(broker_settings.model_copy(update={"topics_kept_days": 3.0}))
    wait_for(lambda: topic_admin.kept_ms(broker_settings, DEVICE_EVENTS) == 3 * DAY_MS, "the new retention")


def test_doctor_says_what_was_not_read_for_long_or_was_deleted_before(settings: Settings, kafka: str) -> None:
    broker_settings = settings.model_copy(update={"brokers": kafka})
    connect(broker_settings.database.get_secret_value()).dispose()
    topic_admin.create(broker_settings)
    name = DEVICE_EVENTS.full(broker_settings)
    client = Producer({"bootstrap.servers": broker_settings.brokers})
    for age in (4, 3, 2):
        client.produce(name, b"x", partition=0, timestamp=wall_ms() - age * DAY_MS)
    client.flush(30)

    def found() -> tuple[bool, str]:
        (finding,) = [each for each in examine(broker_settings) if each.subject == "recorder on device-events"]
        return finding.ok, finding.text

    late = "some for more than 3.5 days: the broker deletes them after 7"
    assert found() == (False, f"3 records behind, {late}")
    admin = topic_admin.admin(broker_settings)
    for partition in admin.delete_records([TopicPartition(name, 0, 1)]).values():
        partition.result(30)
    lost = "2 records behind; 1 others were deleted by the broker before they were read"
    wait_for(lambda: found() == (False, lost), "the deletion")


def test_a_topic_with_other_partitions_stops_a_worker_with_advice(broker_settings: Settings) -> None:
    name = DEVICE_EVENTS.full(broker_settings)
    client = topic_admin.admin(broker_settings)
    client.create_topics([NewTopic(name, 3, 1)])[name].result(30)
    topic_admin.create(broker_settings)
    with pytest.raises(topic_admin.TopicsError, match=f"{name} has 3 partitions, not 4.*mc2sf topics create"):
        topic_admin.require(broker_settings)
