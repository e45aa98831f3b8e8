"""The checks of `mc2sf doctor`: database, run, progress, broker, topics, lag, versions."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import sqlalchemy as sa
from confluent_kafka import KafkaException, TopicPartition

from deploy.report import timeline
from deploy.runs import software
from streams.database import schema
from streams.database.engine import DatabaseUrlError, is_missing, parsed_url, unmigrated
from streams.kafka import topic_admin
from streams.kafka.clients import consumer
from streams.kafka.types import KafkaConsumer
from streams.process.clock_and_signals import wall_ms
from streams.releases.retention import without_weights
from streams.settings import Settings
from streams.topics import CLOUD_DOWNLINK, DEVICE_EVENTS, DEVICE_UPLINK, OUTCOMES, Topic

WORKERS = ("device", "cloud")  # Kafka has the offsets of these, the tables those of the recorder
_READERS = {
    "device": (DEVICE_EVENTS, CLOUD_DOWNLINK),
    "cloud": (DEVICE_UPLINK,),
    "recorder": (DEVICE_EVENTS, DEVICE_UPLINK, OUTCOMES),
}
_TIMEOUT_S = 5.0
_FAILED_HINT = ": a check of its result failed, as its output says; if ranks differ, `mc2sf evaluate` names them"
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
    if tables.offsets is not None and all(each.ok for each in broker):
        broker += _readers(settings, tables.offsets, wall_ms())
    return [*tables.findings, *broker, _software()]


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
    url = settings.database.get_secret_value()
    try:
        if is_missing(parsed := parsed_url(url)):
            return _Tables([Finding("database", False, f"there is no database {parsed.database}")])
        engine = unmigrated(url)
    except DatabaseUrlError as error:
        return _Tables([Finding("database", False, str(error))])
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
            without = len(without_weights(connection, run))
    except sa.exc.SQLAlchemyError as error:
        return _Tables([Finding("database", False, f"{shown}: {str(error).splitlines()[0]}")])
    finally:
        engine.dispose()
    findings = [Finding("database", True, shown)]
    ended = of_run is not None and of_run.status in {"finished", "failed"}
    if of_run is not None:
        ok = of_run.status != "failed"
        why = "" if ok else _FAILED_HINT
        weights = f", the weights of {without:,} deleted" if without else ""
        findings.append(Finding("run", ok, f"{run}: {of_run.status}, {releases:,} releases{weights}{why}"))
        findings.append(Finding("dead letters", True, f"{dead:,}" + (_DEAD_LETTERS_HINT if dead else "")))
    findings += [
        Finding(f"progress of {role}", True, f"epoch {epoch}" + (", the log has ended" if over else ""))
        for role, epoch, over in progress
    ]
    return _Tables(findings, {(topic, partition): offset for topic, partition, offset in recorded}, ended)


def _readers(settings: Settings, recorded: Mapping[tuple[str, int], int], now_wall: int) -> list[Finding]:
    """Return what the workers and the recorder have not read, per topic, and if the broker may delete it before."""
    findings = []
    for role, topics in _READERS.items():
        with closing(consumer(settings, role)) as client:
            for topic in topics:
                try:
                    text, ok = _unread(settings, client, topic, None if role in WORKERS else recorded, now_wall)
                except KafkaException as error:
                    text, ok = error.args[0].str(), False
                findings.append(Finding(f"{role} on {topic.name}", ok, text))
    return findings


def _unread(
    settings: Settings,
    client: KafkaConsumer,
    topic: Topic,
    recorded: Mapping[tuple[str, int], int] | None,
    now_wall: int,
) -> tuple[str, bool]:
    """Return what a reader has not read, and if that is fine. `recorded`: its offsets; None: the committed ones."""
    kept = topic_admin.kept_ms(settings, topic)
    old = 0 if kept is None else max(now_wall - kept // 2, 0)
    partitions = range(topic.partitions(settings))
    here = [TopicPartition(topic.full(settings), partition) for partition in partitions]
    if recorded is None:
        read = [max(each.offset, 0) for each in client.committed(here, timeout=_TIMEOUT_S)]
    else:
        read = [recorded.get((topic.name, partition), 0) for partition in partitions]
    young = client.offsets_for_times([TopicPartition(p.topic, p.partition, old) for p in here], timeout=_TIMEOUT_S)
    behind = lost = 0
    late = False
    for partition, offset, first_young in zip(here, read, young, strict=True):
        low, end = client.get_watermark_offsets(partition, timeout=_TIMEOUT_S)
        behind += max(end - max(offset, low), 0)  # a broker may answer late
        lost += max(low - offset, 0)
        late |= max(offset, low) < (first_young.offset if first_young.offset >= 0 else end)
    text = f"{behind:,} records behind"
    if lost:
        return f"{text}; {lost:,} others were deleted by the broker before they were read", False
    if late and kept is not None:
        days = kept / 86_400_000
        return f"{text}, some for more than {days / 2:.3g} days: the broker deletes them after {days:.3g}", False
    return text, True


def _software() -> Finding:
    return Finding("versions", True, ", ".join(f"{name} {number}" for name, number in software().items()))
