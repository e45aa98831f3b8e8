"""Redelivery of dead letters: the refused records are sent again to their partitions, in their original order.

For use after a repair: an upgrade that knows the schema, the arrival of a missing predecessor, a corrected value. A
processor that applied a record before drops it as a repeat, so sending one twice does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from confluent_kafka import KafkaException

from streams.database import schema
from streams.kafka import clients
from streams.kafka.message import CUT
from streams.kafka.types import KafkaFailure, KafkaProducer, RecordPosition
from streams.process.clock_and_signals import wall_ms
from streams.settings import Settings
from streams.topics import TOPICS

_REQUEST_TIMEOUT_S = 30.0


class ResendError(ValueError):
    """A record can't be sent again; the message says why."""


class RefusedRecord(NamedTuple):
    """A refused record with its dead letter. Several processes may have refused it."""

    position: RecordPosition
    roles: str
    key: bytes
    value: bytes
    reason: str
    resent_wall: int | None


def position(text: str) -> RecordPosition:
    """Return the position that `text` names, as in `device-events/1@35`. Raises ResendError."""
    try:
        found = RecordPosition.parse(text)
    except ValueError as error:
        raise ResendError(str(error)) from error
    if found.topic not in {topic.name for topic in TOPICS}:
        raise ResendError(f"{text!r} is no position of a record: there is no topic {found.topic}")
    return found


def refused_records(connection: sa.Connection, run: str) -> list[RefusedRecord]:
    """Return the refused records of a run in the order of their positions."""
    d = schema.dead_letters.c
    rows = connection.execute(
        sa.select(schema.dead_letters)
        .where(d.run == run)
        .order_by(d.topic, d.partition, d.offset, d.envelope_index, d.role)
    )
    found: dict[RecordPosition, RefusedRecord] = {}
    for row in rows:
        at = RecordPosition(row.topic, row.partition, row.offset, row.envelope_index)
        roles = f"{found[at].roles}, {row.role}" if at in found else row.role
        found[at] = RefusedRecord(at, roles, row.key, row.value, row.reason, row.resent_wall)
    return list(found.values())


def resend(
    settings: Settings, engine: sa.Engine, chosen: Sequence[RefusedRecord], producer: KafkaProducer | None = None
) -> None:
    """Send `chosen` again and record the time. Raises ResendError for a truncated record, or if the broker fails."""
    for record in chosen:
        if CUT in record.reason:
            raise ResendError(
                f"{record.position} can't be sent again, since its dead letter is truncated: {record.reason}"
            )
    names = {topic.name: topic.full(settings) for topic in TOPICS}
    sender = clients.producer(settings, "dead-letters") if producer is None else producer
    failures: list[str] = []

    def delivered(error: KafkaFailure | None, _message: object) -> None:
        if error is not None:
            failures.append(error.str())

    def flush() -> None:
        if sender.flush(_REQUEST_TIMEOUT_S) or failures:
            raise ResendError(f"{settings.brokers} did not acknowledge: {failures[0] if failures else 'no answer'}")

    try:
        for record in chosen:
            clients.produce_waiting(
                sender,
                names[record.position.topic],
                key=record.key,
                value=record.value,
                meanwhile=flush,
                partition=record.position.partition,
                on_delivery=delivered,
            )
        flush()
    except KafkaException as error:
        raise ResendError(f"{settings.brokers} did not acknowledge: {error.args[0].str()}") from error
    d = schema.dead_letters.c
    with engine.begin() as connection:
        for record in chosen:
            this = sa.tuple_(d.run, d.topic, d.partition, d.offset, d.envelope_index) == (
                settings.run,
                *record.position,
            )
            connection.execute(sa.update(schema.dead_letters).where(this).values(resent_wall=wall_ms()))
