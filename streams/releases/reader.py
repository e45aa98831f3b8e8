"""The release reader: a background thread that receives releases and item statistics from Kafka.

In: item-embeddings, model-weights, model-releases, from their beginnings. Out: `get`, `newest`, `item_statistics`.
Releases that do not arrive in time (compacted, damaged, or not sent because the publisher died) are read from the
tables.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

import sqlalchemy as sa

from models.data.item_statistics import ItemStatistics
from models.mc2sf.checkpoint import CheckpointError
from streams.codec import Reader, RecordError
from streams.database import run_state, schema
from streams.database.engine import connect
from streams.kafka import clients
from streams.kafka.dead_letters import DeadLetterBox
from streams.kafka.message import Message
from streams.kafka.partition_consumer import OpenConsumer, PartitionConsumer
from streams.kafka.types import KafkaProducer, TopicPartition
from streams.process import telemetry
from streams.records import DeadLetter
from streams.release_records import EmbeddingRow, EpochDecision, ItemCounts, Manifest, ReleaseEvent
from streams.releases.cache import ReleaseCache
from streams.releases.item_statistics import statistics_after
from streams.releases.release import Assembler, Release, ReleaseError, read_release_and_items
from streams.settings import Settings
from streams.topics import ITEM_EMBEDDINGS, MODEL_RELEASES, MODEL_WEIGHTS

log = logging.getLogger(__name__)
_PATIENCE_S = 1.0  # wait for Kafka before the tables are read, and between two reads of the tables
_POLL_S = 0.1
_MAX_RECORDS = 5000

T = TypeVar("T")


class ReleaseReader:
    """Gives complete releases by version and item statistics by epoch. Safe to call from any thread."""

    def __init__(
        self,
        settings: Settings,
        role: str,
        *,
        keep: int = 6,
        patience_s: float = _PATIENCE_S,
        open_consumer: OpenConsumer = PartitionConsumer,
    ) -> None:
        self._settings, self._role, self._patience_s = settings, role, patience_s
        self._open_consumer = open_consumer
        self._cache = ReleaseCache(settings.dim, keep)
        self._changed = threading.Condition()
        self._wanted_releases: dict[int, int] = {}  # version -> callers waiting
        self._wanted_statistics: dict[int, int] = {}  # epoch -> callers waiting
        self._missed: dict[tuple[str, int], float] = {}  # (release or item statistics, number) -> since when
        self._read_last: dict[tuple[str, int], float] = {}  # when the tables were last read for it
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{role}-releases", daemon=True)
        self._engine: sa.Engine | None = None
        self._assembler = Assembler()
        self._producer: KafkaProducer | None = None
        self._rows: Reader[EmbeddingRow] = Reader(EmbeddingRow)
        self._events: Reader[Manifest | EpochDecision | ItemCounts] = Reader(ReleaseEvent)

    def start(self) -> None:
        """Start reading. Returns at once."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading. Releases that are cached can still be got."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def get(self, version: int, timeout_s: float) -> Release:
        """Return release `version`; wait until it is complete. Raises TimeoutError."""
        return self._await(
            self._wanted_releases, version, lambda: self._cache.find(version), timeout_s, f"release {version}"
        )

    def newest(self) -> Release | None:
        """Return the newest complete release."""
        with self._changed:
            return self._cache.newest()

    def item_statistics(self, epoch: int, timeout_s: float) -> ItemStatistics:
        """Return the item statistics after `epoch` (-1: before the first); wait for them. Raises TimeoutError."""
        return self._await(
            self._wanted_statistics,
            epoch,
            lambda: self._cache.item_statistics.find(epoch),
            timeout_s,
            f"item statistics after epoch {epoch}",
        )

    def newest_item_statistics(self) -> ItemStatistics:
        """Return the newest item statistics known."""
        with self._changed:
            return self._cache.item_statistics.newest()

    def _await(
        self, waiting: dict[int, int], number: int, find: Callable[[], T | None], timeout_s: float, name: str
    ) -> T:
        with self._changed:
            waiting[number] = waiting.get(number, 0) + 1
            try:
                if not self._changed.wait_for(lambda: find() is not None, timeout_s):
                    raise TimeoutError(f"{name} did not arrive within {timeout_s} s")
                value = find()
                assert value is not None
                return value
            finally:
                waiting[number] -= 1
                if not waiting[number]:
                    del waiting[number]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._read()
            except Exception:  # a processor needs releases: start again after any error
                log.exception("reading releases failed; starting again")
                self._stop.wait(self._patience_s)

    def _read(self) -> None:
        start = {TopicPartition(topic.name, 0): 0 for topic in (ITEM_EMBEDDINGS, MODEL_WEIGHTS, MODEL_RELEASES)}
        with closing(self._open_consumer(self._settings, f"{self._role}-releases", start)) as consumer:
            while not self._stop.is_set():
                for message in consumer.read(_MAX_RECORDS, _POLL_S):
                    self._take(message)
                self._stage()

    def _take(self, message: Message) -> None:
        try:
            if message.topic == MODEL_WEIGHTS.name:
                self._cache.add_part(message.key, None if message.tombstone else message.value)
            elif message.tombstone:
                pass  # a withdrawn item or release: cached releases stay
            elif message.topic == ITEM_EMBEDDINGS.name:
                self._cache.add_row(self._rows.decode(message.value))
            else:
                self._take_event(self._events.decode(message.value))
        except RecordError as error:
            self._refuse(message.refused(str(error), self._role))

    def _take_event(self, event: Manifest | EpochDecision | ItemCounts) -> None:
        if isinstance(event, Manifest):
            self._cache.add_manifest(event)
        elif isinstance(event, ItemCounts):
            with self._changed:
                self._cache.item_statistics.take(event)
                self._changed.notify_all()

    def _refuse(self, dead: DeadLetter) -> None:
        if self._producer is None:
            self._producer = clients.producer(self._settings, f"{self._role}-releases")
        DeadLetterBox(self._settings, self._producer).put(dead)

    def _stage(self) -> None:
        with self._changed:
            newest = max(self._cache.releases, default=-1)
            versions = [v for v in self._wanted_releases if v not in self._cache.releases]
            epochs = [e for e in self._wanted_statistics if self._cache.item_statistics.find(e) is None]
        newer = sorted((v for v in self._cache.manifests if v > newest), reverse=True)
        missing = {("release", v) for v in versions + newer} | {("item statistics", e) for e in epochs}
        for arrived in self._missed.keys() - missing:
            del self._missed[arrived]
            self._read_last.pop(arrived, None)
        for version in dict.fromkeys(versions + newer):
            release = self._cache.assemble(version) or self._from_tables(version)
            if release is not None:
                self._put(release)
            if version in newer and release is not None:
                break  # older ones are not needed unless requested
        for epoch in epochs:
            self._statistics_from_tables(epoch)

    def _put(self, release: Release) -> None:
        with self._changed:
            self._cache.put(release)
            telemetry.RELEASE.labels(self._role).set(max(self._cache.releases))
            self._changed.notify_all()

    def _keep_waiting(self, what: str, number: int, *, sent: bool = False) -> bool:
        """Return False if it is time to read the tables: after a while, and not again for a while.

        If something later has arrived, this was `sent` before it and will not arrive any more: do not wait for it.
        """
        now = time.monotonic()
        waited = now - self._missed.setdefault((what, number), now)
        since_read = now - self._read_last.get((what, number), -math.inf)
        if since_read < self._patience_s or (waited < self._patience_s and not sent):
            return True
        self._read_last[what, number] = now
        return False

    def _from_tables(self, version: int) -> Release | None:
        if self._keep_waiting("release", version, sent=version < max(self._cache.releases, default=-1)):
            return None
        t = schema.releases.c
        this = (t.run == self._settings.run) & (t.version == version)
        try:
            with self._database().connect() as connection:
                if not connection.execute(sa.select(t.published).where(this)).scalar():
                    return None  # still being published
                release, items = read_release_and_items(connection, self._settings.run, version, self._assembler)
        except (CheckpointError, ReleaseError, sa.exc.SQLAlchemyError) as error:
            log.warning("release %d is incomplete both on Kafka and in the tables: %s", version, error)
            return None
        log.info("read release %d from the tables", version)
        self._cache.put_items(release.manifest.versions.encoder, items)
        return release

    def _statistics_from_tables(self, epoch: int) -> None:
        if self._keep_waiting("item statistics", epoch):
            return
        try:
            with self._database().connect() as connection:
                recorded = run_state.recorded(connection, self._settings.run)
                if recorded is None or recorded[0] < epoch:
                    return
                statistics = statistics_after(connection, self._settings.run, epoch)
        except sa.exc.SQLAlchemyError as error:
            log.warning("item statistics after epoch %d can't be read: %s", epoch, error)
            return
        with self._changed:
            self._cache.item_statistics.put(statistics)
            self._changed.notify_all()

    def _database(self) -> sa.Engine:
        if self._engine is None:
            self._engine = connect(self._settings.database.get_secret_value())
        return self._engine
