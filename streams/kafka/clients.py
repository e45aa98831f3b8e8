"""confluent-kafka clients with this project's settings: one place for acks, partitioner, sizes and security."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, Producer

from streams.codec import MAX_BYTES
from streams.settings import Settings


def access(settings: Settings) -> dict[str, Any]:
    """Where the brokers are, and how they are spoken to."""
    secured: dict[str, Any] = {"security.protocol": settings.kafka_security}
    if settings.kafka_security.endswith("SSL") and settings.kafka_ca is not None:
        secured["ssl.ca.location"] = str(settings.kafka_ca)
    if settings.kafka_security.startswith("SASL"):
        secured["sasl.mechanism"] = settings.kafka_mechanism
        secured["sasl.username"] = settings.kafka_user
        secured["sasl.password"] = settings.kafka_password.get_secret_value()
    return {"bootstrap.servers": settings.brokers, **secured}


def _common(settings: Settings, role: str) -> dict[str, Any]:
    return {**access(settings), "client.id": f"{settings.run}-{role}", "log_level": 3}


def producer(settings: Settings, role: str, **extra: Any) -> Producer:
    """An idempotent producer that partitions keys as Kafka's Java client does and waits for all replicas."""
    return Producer(
        _common(settings, role)
        | {
            "acks": "all",
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "message.max.bytes": MAX_BYTES + 10_000,
            "message.timeout.ms": int(settings.patience_s * 1000),
        }
        | extra
    )


def produce_patiently(
    producer: Any,
    topic: str,
    *,
    key: bytes | None,
    value: bytes | None,
    meanwhile: Callable[[], object] = lambda: None,
    **more: Any,
) -> None:
    """Hand a record to a confluent-kafka Producer; while its queue is full, wait for the broker to take some of it.

    `meanwhile` is called while it waits, and may raise to give up; `more` goes to `Producer.produce`.
    """
    while True:
        try:
            producer.produce(topic, key=key, value=value, **more)
        except BufferError:
            producer.poll(0.05)
            meanwhile()
        else:
            return


def consumer(settings: Settings, role: str, **extra: Any) -> Consumer:
    """A consumer that commits nothing by itself and starts at the beginning: its offsets live beside its truth."""
    return Consumer(
        _common(settings, role)
        | {
            "group.id": f"{settings.run}-{role}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 20,
            "enable.partition.eof": False,
        }
        | extra
    )
