"""The checks of `mc2sf doctor`: database, run, progress, broker, topics, lag, versions."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from confluent_kafka import KafkaException, TopicPartition

from deploy.report import timeline
from deploy.runs import software
from streams.database import schema
from streams.kafka import topic_admin
from streams.kafka.clients import consumer
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS, DEVICE_UPLINK, OUTCOMES

_DEAD_LETTERS_HINT = ": `mc2sf dead-letters list` shows the reasons"


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    subject: str
    ok: bool
    text: str


def examine(settings: Settings) -> list[Finding]:
    """Check database, broker, topics and versions; an unreachable service is a finding, not an error.

    The broker of a run that has ended is not checked: an embedded broker ends with its run.
    """
    tables = _database(settings)
    if tables.ended:
        return [*tables.findings, _software()]
    broker = _broker(settings)
    lag = _lag(settings, tables.offsets) if tables.offsets is not None and all(each.ok for each in broker) else []
    return [*tables.findings, *broker, *lag, _software()]


@dataclass(frozen=True)
class _Tables:
    """Findings from the tables; `offsets` of the recorder are None if they can't be read."""

    findings: list[Finding]
    offsets: dict[tuple[str, int], int] | None = None
    ended: bool = False


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
    findings.append(Finding("topics", not wrong, "; ".join(wrong) or f"those of run {settings.run} match the settings"))
    return findings


def _database(settings: Settings) -> _Tables:
    engine = sa.create_engine(settings.database.get_secret_value())
    shown, run = engine.url.render_as_string(hide_password=True), settings.run
    try:
        with engine.connect() as connection:
            missing = set(schema.metadata.tables) - set(sa.inspect(connection).get_table_names())
            if missing:
                return _Tables([Finding("database", False, f"{shown}: tables missing: {', '.join(sorted(missing))}")])
            o = schema.consumer_offsets.c
            recorded = connection.execute(sa.select(o.topic, o.partition, o.offset).where(o.run == run)).all()
            p = schema.progress.c
            progress = connection.execute(sa.select(p.role, p.epoch, p.over).where(p.run == run)).all()
            r = schema.runs.c
            of_run = connection.execute(sa.select(r.status).where(r.run == run)).one_or_none()
            dead = timeline.count(connection, run, schema.dead_letters)
            releases = timeline.count(connection, run, schema.releases)
    except sa.exc.SQLAlchemyError as error:
        return _Tables([Finding("database", False, f"{shown}: {str(error).splitlines()[0]}")])
    finally:
        engine.dispose()
    findings = [Finding("database", True, shown)]
    ended = of_run is not None and of_run.status in {"finished", "failed"}
    if of_run is not None:
        ok = of_run.status != "failed"
        why = "" if ok else ": a check of its result failed; `mc2sf evaluate` names the ranks that differ"
        findings.append(Finding("run", ok, f"{run}: {of_run.status}, {releases:,} releases{why}"))
        findings.append(Finding("dead letters", True, f"{dead:,}" + (_DEAD_LETTERS_HINT if dead else "")))
    findings += [
        Finding(f"progress of {role}", True, f"epoch {epoch}" + (", the log has ended" if over else ""))
        for role, epoch, over in progress
    ]
    return _Tables(findings, {(topic, partition): offset for topic, partition, offset in recorded}, ended)


def _lag(settings: Settings, offsets: dict[tuple[str, int], int]) -> list[Finding]:
    """Return the number of records that the recorder has not read, per topic."""
    client = consumer(settings, "doctor")
    findings = []
    try:
        for topic in (DEVICE_EVENTS, DEVICE_UPLINK, OUTCOMES):
            lag = 0
            for partition in range(topic.partitions(settings)):
                _, end = client.get_watermark_offsets(TopicPartition(topic.full(settings), partition), timeout=5)
                lag += max(end - offsets.get((topic.name, partition), 0), 0)  # a broker may answer late
            findings.append(Finding(f"recorder on {topic.name}", True, f"{lag:,} records behind"))
    except KafkaException as error:
        findings.append(Finding("lag of the recorder", False, error.args[0].str()))
    finally:
        client.close()
    return findings


def _software() -> Finding:
    return Finding("versions", True, ", ".join(f"{name} {number}" for name, number in software().items()))
