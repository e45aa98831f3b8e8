"""The minimum rights that each processor needs in Kafka, as access control lists.

`mc2sf topics grant` creates them. A device worker can't publish a release, and only the replayer and the gateway can
write events of devices.
"""

from __future__ import annotations

from dataclasses import dataclass

from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

from streams.kafka import topic_admin
from streams.settings import Settings
from streams.topics import (
    CLOUD_DOWNLINK,
    CLOUD_STATE,
    DEAD_LETTERS,
    DEVICE_EVENTS,
    DEVICE_STATE,
    DEVICE_UPLINK,
    FAST_EXAMPLES,
    ITEM_EMBEDDINGS,
    MODEL_RELEASES,
    MODEL_WEIGHTS,
    OUTCOMES,
    RANKINGS,
    TOPICS,
    Topic,
)

_RELEASE = (ITEM_EMBEDDINGS, MODEL_WEIGHTS, MODEL_RELEASES)


@dataclass(frozen=True)
class Access:
    """The topics that a processor reads and writes. `group`: it is a member of a consumer group of its name."""

    read: tuple[Topic, ...] = ()
    write: tuple[Topic, ...] = ()
    group: bool = False


ACCESS: dict[str, Access] = {
    "gateway": Access((RANKINGS,), (DEVICE_EVENTS,)),
    "replay": Access((MODEL_RELEASES, DEVICE_EVENTS), (DEVICE_EVENTS,)),  # its own topic: to resume
    "device": Access(
        (DEVICE_EVENTS, CLOUD_DOWNLINK, DEVICE_STATE, *_RELEASE),
        (DEVICE_UPLINK, OUTCOMES, RANKINGS, FAST_EXAMPLES, DEVICE_STATE, DEAD_LETTERS),
        group=True,
    ),
    "cloud": Access((DEVICE_UPLINK, CLOUD_STATE, *_RELEASE), (CLOUD_DOWNLINK, CLOUD_STATE, DEAD_LETTERS), group=True),
    "recorder": Access((DEVICE_EVENTS, DEVICE_UPLINK, OUTCOMES, DEVICE_STATE, CLOUD_STATE, DEAD_LETTERS)),
    "learner": Access((FAST_EXAMPLES,), (DEAD_LETTERS,)),
    "coordinator": Access((), _RELEASE),
    "retrain": Access(),  # it uses only the database
}


def bindings(settings: Settings, role: str, principal: str) -> list[AclBinding]:
    """Return the access control list of `role` for `principal` ("User:device"), who may describe every topic."""
    access = ACCESS[role]

    def allow(
        kind: ResourceType,
        name: str,
        operation: AclOperation,
        pattern: ResourcePatternType = ResourcePatternType.LITERAL,
    ) -> AclBinding:
        return AclBinding(kind, name, pattern, principal, "*", operation, AclPermissionType.ALLOW)

    entries = [
        allow(ResourceType.TOPIC, topic.full(settings), operation)
        for topic in TOPICS
        for operation in (AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS)
    ]
    entries += [allow(ResourceType.TOPIC, topic.full(settings), AclOperation.READ) for topic in access.read]
    entries += [allow(ResourceType.TOPIC, topic.full(settings), AclOperation.WRITE) for topic in access.write]
    group = f"{settings.run}-{role}"
    # plain consumers have a group too, though they commit nothing; a release reader's begins with its role
    entries.append(allow(ResourceType.GROUP, group, AclOperation.READ, ResourcePatternType.PREFIXED))
    return entries


def grant(settings: Settings, role: str, principal: str) -> int:
    """Grant `principal` what `role` needs; return the number of entries. Raises KafkaException."""
    entries = bindings(settings, role, principal)
    client = topic_admin.admin(settings)  # keep a reference: its requests end with it
    for future in client.create_acls(entries, request_timeout=topic_admin.REQUEST_TIMEOUT_S).values():
        future.result()
    return len(entries)
