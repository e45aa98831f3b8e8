"""confluent-kafka clients with this project's settings: acknowledgements, partitioner, sizes and security."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Consumer, Producer

from streams.codec import MAX_BYTES
from streams.kafka.types import DeliveryReport, KafkaConsumer, KafkaProducer
from streams.settings import Settings

PARTITION_BY_KEY = -1  # librdkafka's RD_KAFKA_PARTITION_UA


def access(settings: Settings) -> dict[str, object]:
    """Return librdkafka's options for the addresses and the security of the brokers."""
    secured: dict[str, object] = {"security.protocol": settings.kafka_security}
    if settings.kafka_security.endswith("SSL") and settings.kafka_ca is not None:
        secured["ssl.ca.location"] = str(settings.kafka_ca)
    if settings.kafka_security.startswith("SASL"):
        secured["sasl.mechanism"] = settings.kafka_mechanism
        secured["sasl.username"] = settings.kafka_user
        secured["sasl.password"] = settings.kafka_password.get_secret_value()
    return {"bootstrap.servers": settings.brokers, **secured}


def _common(settings: Settings, role: str) -> dict[str, object]:
    return {**access(settings), "client.id": f"{settings.run}-{role}", "log_level": 3}


def producer(settings: Settings, role: str, **extra: object) -> KafkaProducer:
    """Return an idempotent producer that waits for all replicas and partitions keys as Kafka's Java client does."""
    made: KafkaProducer = Producer(
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
    return made


def produce_waiting(
    producer: KafkaProducer,
    topic: str,
    *,
    key: bytes | None,
    value: bytes | None,
    meanwhile: Callable[[], object] = lambda: None,
    partition: int = PARTITION_BY_KEY,
    on_delivery: DeliveryReport | None = None,
) -> None:
    """Put a record into the producer's queue; if the queue is full, wait until the broker has taken some records.

    `topic` is the full name. `meanwhile` is called while this waits, and may raise to give up.
    """
    while True:
        try:
            producer.produce(topic, key=key, value=value, partition=partition, on_delivery=on_delivery)
        except BufferError:
            producer.poll(0.05)
            meanwhile()
        else:
            return


def consumer(settings: Settings, role: str, **extra: object) -> KafkaConsumer:
    """Return a consumer that commits nothing and starts at the beginning: the database keeps its offsets."""
    made: KafkaConsumer = Consumer(
        _common(settings, role)
        | {
            "group.id": f"{settings.run}-{role}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": settings.fetch_wait_ms,
            "enable.partition.eof": False,
        }
        | extra
    )
    return made
