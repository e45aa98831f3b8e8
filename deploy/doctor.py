"""The checks of `mc2sf doctor`: broker, topics, database, progress, lag, versions."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from confluent_kafka import KafkaException, TopicPartition

from deploy.runs import software
from streams.database import schema
from streams.kafka import topic_admin
from streams.kafka.clients import consumer
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS, DEVICE_UPLINK, OUTCOMES


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    subject: str
    ok: bool
    text: str


def examine(settings: Settings) -> list[Finding]:
    """Check broker, topics, database, progress and versions; what is unreachable is a finding, not an error."""
    return [*_broker(settings), *_database(settings), _software()]


def _broker(settings: Settings) -> list[Finding]:
    try:
        metadata = topic_admin.admin(settings).list_topics(timeout=5)
    except KafkaException as error:
        return [Finding("broker", False, f"{settings.brokers} does not answer: {error.args[0].str()}")]
    runs = sorted({name.removesuffix("-device-events") for name in metadata.topics if name.endswith("-device-events")})
    findings = [
        Finding(
            "broker", True, f"{settings.brokers}: {len(metadata.brokers)} brokers, runs: {', '.join(runs) or 'none'}"
        )
    ]
    wrong = topic_admin.deviations(settings)
    findings.append(Finding("topics", not wrong, "; ".join(wrong) or f"of run {settings.run} as they should be"))
    return findings


def _database(settings: Settings) -> list[Finding]:
    engine = sa.create_engine(settings.database.get_secret_value())
    shown = engine.url.render_as_string(hide_password=True)
    try:
        with engine.connect() as connection:
            missing = set(schema.metadata.tables) - set(sa.inspect(connection).get_table_names())
            if missing:
                return [Finding("database", False, f"{shown}: tables missing: {', '.join(sorted(missing))}")]
            o = schema.consumer_offsets.c
            recorded = connection.execute(sa.select(o.topic, o.partition, o.offset).where(o.run == settings.run)).all()
            p = schema.progress.c
            progress = connection.execute(sa.select(p.role, p.epoch, p.over).where(p.run == settings.run)).all()
    except sa.exc.SQLAlchemyError as error:
        return [Finding("database", False, f"{shown}: {str(error).splitlines()[0]}")]
    findings = [Finding("database", True, shown)]
    findings += [
        Finding(f"progress of {role}", True, f"epoch {epoch}" + (", the log has ended" if over else ""))
        for role, epoch, over in progress
    ]
    return findings + _lag(settings, {(topic, partition): offset for topic, partition, offset in recorded})


def _lag(settings: Settings, offsets: dict[tuple[str, int], int]) -> list[Finding]:
    """Return the number of records that the recorder has not read, per topic."""
    client = consumer(settings, "doctor")
    findings = []
    try:
        for topic in (DEVICE_EVENTS, DEVICE_UPLINK, OUTCOMES):
            lag = 0
            for partition in range(topic.partitions(settings)):
                _, end = client.get_watermark_offsets(TopicPartition(topic.full(settings), partition), timeout=5)
                lag += end - offsets.get((topic.name, partition), 0)
            findings.append(Finding(f"recorder on {topic.name}", True, f"{lag:,} records behind"))
    except KafkaException as error:
        findings.append(Finding("lag of the recorder", False, error.args[0].str()))
    finally:
        client.close()
    return findings


def _software() -> Finding:
    return Finding("versions", True, ", ".join(f"{name} {number}" for name, number in software().items()))
