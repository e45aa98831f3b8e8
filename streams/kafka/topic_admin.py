"""Making and checking the topics of a run on a broker. Nobody else creates a topic."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection, Uuid
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType
from tenacity import retry, retry_if_not_result, stop_after_delay, wait_fixed

from streams.kafka import clients
from streams.settings import Settings
from streams.topics import TOPICS

ANSWER_S = 15.0  # for one answer: librdkafka's error says that there was none, which whoever calls may wait out


class BusError(RuntimeError):
    """The topics on the broker are not as they should be; the message says what to run."""


def admin(settings: Settings) -> Any:
    """Return an admin client for the settings' brokers."""
    return AdminClient({**clients.access(settings), "log_level": 3})


def create(settings: Settings) -> list[str]:
    """Create the topics that are missing; return their full names. Raises KafkaException where the broker refuses."""
    client = admin(settings)
    present = client.list_topics(timeout=ANSWER_S).topics
    new = [
        NewTopic(t.full(settings), t.partitions(settings), settings.replication, config=t.config())
        for t in TOPICS
        if t.full(settings) not in present
    ]
    for future in client.create_topics(new, request_timeout=ANSWER_S).values() if new else ():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process was faster
                raise
    _await(client, {topic.full(settings) for topic in TOPICS})
    return [topic.topic for topic in new]


@retry(retry=retry_if_not_result(bool), stop=stop_after_delay(30), wait=wait_fixed(0.05))
def _await(client: Any, names: set[str]) -> bool:
    """Wait until the broker tells of the topics: one that was made a moment ago may be unknown yet."""
    return names.issubset(client.list_topics(timeout=ANSWER_S).topics)


def topic_id(settings: Settings, topic: str) -> str | None:
    """The id that a topic has from its making until it is deleted; None where the broker has none for it."""
    client = admin(settings)
    described = client.describe_topics(TopicCollection([topic]), request_timeout=ANSWER_S)[topic].result()
    return None if described.topic_id is None or str(described.topic_id) == str(Uuid(0, 0)) else str(described.topic_id)


def deviations(settings: Settings) -> list[str]:
    """Return what is wrong with the topics on the broker, a sentence each; an empty list where all is well."""
    client = admin(settings)
    present = client.list_topics(timeout=ANSWER_S).topics
    wrong = []
    wanted = {topic.full(settings): topic for topic in TOPICS}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in wanted if name in present]
    asked = client.describe_configs(resources, request_timeout=ANSWER_S) if resources else {}
    configs = {resource.name: future for resource, future in asked.items()}
    for name, topic in wanted.items():
        if name not in present:
            wrong.append(f"topic {name} is missing")
            continue
        partitions = len(present[name].partitions)
        if partitions != topic.partitions(settings):
            wrong.append(f"topic {name} has {partitions} partitions, not {topic.partitions(settings)}")
        entries = configs[name].result()
        policy = entries["cleanup.policy"].value if "cleanup.policy" in entries else "delete"
        if policy != topic.config()["cleanup.policy"]:
            wrong.append(f"topic {name} has cleanup.policy {policy}, not {topic.config()['cleanup.policy']}")
    return wrong


def require(settings: Settings) -> None:
    """Raise BusError where the topics are not as they should be."""
    if wrong := deviations(settings):
        raise BusError(
            "; ".join(wrong) + ". Run `mc2sf topics create` with the same settings, or choose another run id"
        )
