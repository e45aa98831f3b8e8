"""Dead letters sent again: the refused records themselves, to where they stood, in the order in which they stood.

For after a repair: an upgrade that knows the schema, a missing predecessor that came, a value that was mended. Whoever
applied a record before drops it as a repeat, so sending one twice does no harm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from confluent_kafka import KafkaException

from streams.database import schema
from streams.kafka import clients
from streams.kafka.message import CUT
from streams.process.clock_and_signals import wall_ms
from streams.settings import Settings
from streams.topics import TOPICS

_PATIENCE_S = 30.0


class ResendError(ValueError):
    """A letter can't be sent again; the message says why."""


class Place(NamedTuple):
    """Where a record stood, as logs write it: `device-events/1@35`."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def of(cls, text: str) -> Place:
        """Read a place. Raises ResendError."""
        found = re.fullmatch(r"([a-z-]+)/(\d{1,9})@(\d{1,18})", text)
        if found is None or found[1] not in {topic.name for topic in TOPICS}:
            raise ResendError(f"{text!r} is no place of a record: write it as `dead-letters list` does, topic/0@35")
        return cls(found[1], int(found[2]), int(found[3]))

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}"


class Letter(NamedTuple):
    """A refused record. Several processes may have refused it."""

    place: Place
    roles: str
    key: bytes
    value: bytes
    reason: str
    resent_wall: int | None


def letters(connection: sa.Connection, run: str) -> list[Letter]:
    """The dead letters of a run, in the order of their places."""
    d = schema.dead_letters.c
    rows = connection.execute(
        sa.select(schema.dead_letters).where(d.run == run).order_by(d.topic, d.partition, d.offset, d.role)
    )
    found: dict[Place, Letter] = {}
    for row in rows:
        place = Place(row.topic, row.partition, row.offset)
        known = found.get(place)
        roles = f"{known.roles}, {row.role}" if known else row.role
        found[place] = Letter(place, roles, row.key, row.value, row.reason, row.resent_wall)
    return list(found.values())


def resend(settings: Settings, engine: sa.Engine, chosen: Sequence[Letter]) -> None:
    """Send `chosen` again and note when. Raises ResendError where one can't be, or the broker does not take it."""
    for letter in chosen:
        if CUT in letter.reason:
            raise ResendError(f"{letter.place} was too large to be kept whole: {letter.reason}")
    names = {topic.name: topic.full(settings) for topic in TOPICS}
    producer = clients.producer(settings, "dead-letters")
    refused: list[str] = []

    def taken() -> None:
        if producer.flush(_PATIENCE_S) or refused:
            raise ResendError(f"{settings.brokers} does not take them: {refused[0] if refused else 'no answer'}")

    try:
        for letter in chosen:
            clients.produce_waiting(
                producer,
                names[letter.place.topic],
                key=letter.key,
                value=letter.value,
                meanwhile=taken,
                partition=letter.place.partition,
                on_delivery=lambda error, _: refused.append(error.str()) if error else None,
            )
        taken()
    except KafkaException as error:
        raise ResendError(f"{settings.brokers} does not take them: {error.args[0].str()}") from error
    d = schema.dead_letters.c
    with engine.begin() as connection:
        for letter in chosen:
            this = (d.topic == letter.place.topic) & (d.partition == letter.place.partition)
            connection.execute(
                sa.update(schema.dead_letters)
                .where((d.run == settings.run) & this & (d.offset == letter.place.offset))
                .values(resent_wall=wall_ms())
            )
