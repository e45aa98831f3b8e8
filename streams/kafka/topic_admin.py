"""Creation and check of a run's topics on the broker. Nothing else creates a topic."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import KafkaError, KafkaException, TopicCollection, Uuid
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
from tenacity import retry, retry_if_not_result, stop_after_delay, wait_fixed

from streams.kafka import clients
from streams.settings import Settings
from streams.topics import TOPICS, Topic

REQUEST_TIMEOUT_S = 15.0  # of one request; librdkafka then raises an error that the caller may retry


class TopicsError(RuntimeError):
    """The topics on the broker differ from the settings; the message says what to run."""


def admin(settings: Settings) -> AdminClient:
    """Return an admin client for the settings' brokers."""
    return AdminClient({**clients.access(settings), "log_level": 0})  # its errors are exceptions


def create(settings: Settings) -> list[str]:
    """Create the topics that are missing; return their full names. The others get the retention of the settings.

    Raises KafkaException if the broker refuses.
    """
    client = admin(settings)
    present = client.list_topics(timeout=REQUEST_TIMEOUT_S).topics
    new = [
        NewTopic(t.full(settings), t.partitions(settings), settings.replication, config=t.config(settings))
        for t in TOPICS
        if t.full(settings) not in present
    ]
    for future in client.create_topics(new, request_timeout=REQUEST_TIMEOUT_S).values() if new else ():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process created it first
                raise
    _await(client, {topic.full(settings) for topic in TOPICS})
    _apply(client, {t.full(settings): t.config(settings) for t in TOPICS if t.full(settings) in present})
    return [topic.topic for topic in new]


def _apply(client: AdminClient, configs: Mapping[str, dict[str, str]]) -> None:
    """Set the times of the topics; the cleanup policy of a topic that exists is left as it is."""
    resources = []
    for name, config in configs.items():
        times = {key: value for key, value in config.items() if key.endswith(".ms")}
        entries = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in times.items()]
        resources.append(ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries))
    changed = client.incremental_alter_configs(resources, request_timeout=REQUEST_TIMEOUT_S) if resources else {}
    for future in changed.values():
        future.result()


@retry(retry=retry_if_not_result(bool), stop=stop_after_delay(30), wait=wait_fixed(0.05))
def _await(client: AdminClient, names: set[str]) -> bool:
    """Wait until the broker lists the topics: a new one may be missing for a moment."""
    return names.issubset(client.list_topics(timeout=REQUEST_TIMEOUT_S).topics)


def topic_id(settings: Settings, topic: str) -> str | None:
    """Return the id that a topic has from its creation to its deletion; None if the broker gives it none."""
    client = admin(settings)
    described = client.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_TIMEOUT_S)[topic].result()
    return None if described.topic_id is None or str(described.topic_id) == str(Uuid(0, 0)) else str(described.topic_id)


def deviations(settings: Settings) -> list[str]:
    """Return how the topics on the broker differ from the settings, one sentence each."""
    client = admin(settings)
    present = client.list_topics(timeout=REQUEST_TIMEOUT_S).topics
    found = []
    wanted = {topic.full(settings): topic for topic in TOPICS}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in wanted if name in present]
    described = client.describe_configs(resources, request_timeout=REQUEST_TIMEOUT_S) if resources else {}
    configs = {resource.name: future for resource, future in described.items()}
    for name, topic in wanted.items():
        if name not in present:
            found.append(f"topic {name} is missing")
            continue
        partitions = len(present[name].partitions)
        if partitions != topic.partitions(settings):
            found.append(f"topic {name} has {partitions} partitions, not {topic.partitions(settings)}")
        entries = configs[name].result()
        policy = entries["cleanup.policy"].value if "cleanup.policy" in entries else "delete"
        wanted_policy = topic.config(settings)["cleanup.policy"]
        if policy != wanted_policy:
            found.append(f"topic {name} has cleanup.policy {policy}, not {wanted_policy}")
    return found


def kept_ms(settings: Settings, topic: Topic) -> int | None:
    """Return the time that the broker keeps records of a topic that is not compacted, ms; None: for ever."""
    resource = ConfigResource(ResourceType.TOPIC, topic.full(settings))
    client = admin(settings)  # must live until the result is there
    entries = client.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S)[resource].result()
    value = int(entries["retention.ms"].value) if "retention.ms" in entries else -1
    return value if value >= 0 else None


def require(settings: Settings) -> None:
    """Raise TopicsError if the topics differ from the settings."""
    if found := deviations(settings):
        raise TopicsError(
            "; ".join(found) + ". Run `mc2sf topics create` with the same settings, or choose another run id"
        )
