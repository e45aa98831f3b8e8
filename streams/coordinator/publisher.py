"""Publication of a release: changed rows of E, then parts, then the manifest, each acknowledged before the next begins.

All of it is read from the tables, so the next holder of the lease repeats an interrupted publication, and readers find
the same bytes. Parts that no kept release names are withdrawn from Kafka (streams/releases/retention.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from streams.codec import Tensor, encode
from streams.database.schema import item_embeddings
from streams.kafka.clients import produce_waiting
from streams.kafka.types import KafkaFailure, KafkaProducer
from streams.release_records import EmbeddingRow, EpochDecision, ItemCounts, Manifest
from streams.releases.cache import manifest_key, part_key
from streams.releases.item_statistics import KEPT_COUNTS, counts_key
from streams.releases.release import part_version, read_manifest, read_parts
from streams.releases.retention import Part
from streams.settings import Settings
from streams.topics import ITEM_EMBEDDINGS, MODEL_RELEASES, MODEL_WEIGHTS, Topic

CHUNK = 900_000  # bytes of a part in one record


class PublicationError(RuntimeError):
    """The broker did not acknowledge a record."""


@dataclass(frozen=True)
class Publication:
    """The records that a release adds to Kafka: its new rows of E, its new parts, its manifest."""

    manifest: Manifest
    rows: list[EmbeddingRow]
    parts: dict[str, bytes]


def read_publication(connection: Connection, run: str, version: int) -> Publication:
    """Return the records to publish for release `version`. Raises ReleaseError if it is not in the tables."""
    manifest = read_manifest(connection, run, version)
    parts = read_parts(connection, run, manifest)
    t = item_embeddings.c
    own = (t.run == run) & (t.encoder == version)
    rows = [
        EmbeddingRow(item, row, Tensor("<f4", (len(vector) // 4,), bytes(vector)), version)
        for item, row, vector in connection.execute(sa.select(t.item, t.row, t.vector).where(own).order_by(t.row)).all()
    ]
    return Publication(manifest, rows, {p: d for p, d in parts.items() if part_version(manifest, p) == version})


class Publisher:
    """Writes to the release topics. `meanwhile` is called while it waits for the broker."""

    def __init__(
        self, settings: Settings, producer: KafkaProducer, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        self._settings, self._producer, self._meanwhile = settings, producer, meanwhile
        self._errors: list[str] = []

    def publish(self, publication: Publication) -> None:
        """Publish a release; on return all of it is acknowledged. Raises PublicationError."""
        self._send(ITEM_EMBEDDINGS, ((b"%d" % row.item, encode(row)) for row in publication.rows))
        self._send(MODEL_WEIGHTS, _chunks(publication))
        manifest = encode(publication.manifest)
        self._send(
            MODEL_RELEASES, iter([(manifest_key(publication.manifest.version), manifest), (b"active", manifest)])
        )

    def decide(self, decision: EpochDecision, counts: Sequence[ItemCounts]) -> None:
        """Publish the item counts of an epoch, then its decision. Raises PublicationError."""
        self._send(MODEL_RELEASES, ((counts_key(each), encode(each)) for each in counts))
        self._send(MODEL_RELEASES, iter([(b"decision/%d" % (decision.epoch % KEPT_COUNTS), encode(decision))]))

    def withdraw(self, parts: list[Part]) -> None:
        """Write tombstones for all chunks of the parts. Raises PublicationError."""
        keys = (part_key(part, v, i) for part, v, size in parts for i in range(max(1, -(-size // CHUNK))))
        self._send(MODEL_WEIGHTS, ((key, None) for key in keys))

    def _send(self, topic: Topic, records: Iterator[tuple[bytes, bytes | None]]) -> None:
        """Send the records and wait for every acknowledgement. Raises PublicationError."""
        self._errors.clear()
        name = topic.full(self._settings)
        for key, value in records:
            produce_waiting(
                self._producer, name, key=key, value=value, meanwhile=self._meanwhile, on_delivery=self._delivered
            )
        while self._producer.flush(1.0):
            self._meanwhile()
        if self._errors:
            raise PublicationError(f"{len(self._errors)} records of {name}: {self._errors[0]}")

    def _delivered(self, error: KafkaFailure | None, _message: object) -> None:
        if error is not None:
            self._errors.append(str(error))


def _chunks(publication: Publication) -> Iterator[tuple[bytes, bytes | None]]:
    for part, data in publication.parts.items():
        for number, start in enumerate(range(0, len(data), CHUNK)):
            yield part_key(part, publication.manifest.version, number), data[start : start + CHUNK]
