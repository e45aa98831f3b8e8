from __future__ import annotations

import pytest
from confluent_kafka.admin import NewTopic

from streams.kafka import topic_admin
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS, TOPICS


def test_topics_are_created_once_and_pass_the_check(broker_settings: Settings) -> None:
    assert len(topic_admin.deviations(broker_settings)) == len(TOPICS)
    assert sorted(topic_admin.create(broker_settings)) == sorted(t.full(broker_settings) for t in TOPICS)
    assert topic_admin.create(broker_settings) == []
    assert topic_admin.deviations(broker_settings) == []


def test_a_topic_with_other_partitions_stops_a_worker_with_advice(broker_settings: Settings) -> None:
    name = DEVICE_EVENTS.full(broker_settings)
    client = topic_admin.admin(broker_settings)
    client.create_topics([NewTopic(name, 3, 1)])[name].result(30)
    topic_admin.create(broker_settings)
    with pytest.raises(topic_admin.TopicsError, match=f"{name} has 3 partitions, not 4.*mc2sf topics create"):
        topic_admin.require(broker_settings)
