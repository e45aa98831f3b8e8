from __future__ import annotations

import pytest
from confluent_kafka.admin import NewTopic

from streams import bus
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS, TOPICS


def test_topics_are_made_once_and_found_as_they_should_be(broker_settings: Settings) -> None:
    assert len(bus.deviations(broker_settings)) == len(TOPICS)
    assert sorted(bus.create(broker_settings)) == sorted(t.full(broker_settings) for t in TOPICS)
    assert bus.create(broker_settings) == []
    assert bus.deviations(broker_settings) == []


def test_a_topic_with_other_partitions_stops_a_worker_with_what_to_run(broker_settings: Settings) -> None:
    name = DEVICE_EVENTS.full(broker_settings)
    client = bus.admin(broker_settings)
    client.create_topics([NewTopic(name, 3, 1)])[name].result(30)
    bus.create(broker_settings)
    with pytest.raises(bus.BusError, match=f"{name} has 3 partitions, not 4.*mc2sf topics create"):
        bus.require(broker_settings)
