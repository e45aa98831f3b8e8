"""A harness for tests of releases: a producer in memory, fabricated release candidates, the tables of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import sqlalchemy as sa
import torch

from models.data.catalogue import Catalogue
from models.mc2sf.checkpoint import pack, pack_part
from models.mc2sf.nets import Nets
from streams.codec import Reader
from streams.coordinator.coordinator import Coordinator
from streams.coordinator.lease import Lease
from streams.coordinator.publisher import Publisher
from streams.database import run_state, schema
from streams.database.engine import connect, upsert
from streams.model_config import net_config
from streams.release_records import EmbeddingRow, EpochDecision, ItemCounts, Manifest, ReleaseEvent
from streams.releases import candidates
from streams.releases.cache import ReleaseCache
from streams.releases.candidates import EMPTY, WAITING, ReleaseCandidate
from streams.settings import Settings

Sent = tuple[str, bytes, bytes | None]


class Killed(BaseException):
    """The process was killed here."""


class FakeProducer:
    """Keeps sent records, acknowledges them at once, and raises Killed before record number `fatal`."""

    def __init__(self, fatal: int | None = None) -> None:
        self.sent: list[Sent] = []
        self.fatal = fatal

    def __len__(self) -> int:
        return 0

    def produce(
        self, topic: str, *, value: bytes | None, key: bytes, on_delivery: Callable[[Any, Any], None], **_: object
    ) -> None:
        if self.fatal is not None and len(self.sent) == self.fatal:
            raise Killed
        self.sent.append((topic.split("-", 2)[2], key, value))
        on_delivery(None, None)

    def poll(self, _: float) -> int:
        return 0

    def flush(self, _: float) -> int:
        return 0


def feed(cache: ReleaseCache, sent: list[Sent]) -> None:
    """Put the sent records into a release cache."""
    rows: Reader[EmbeddingRow] = Reader(EmbeddingRow)
    events: Reader[Any] = Reader(ReleaseEvent)
    for topic, key, value in sent:
        if topic == "model-weights":
            cache.add_part(key, value)
        elif value is None:
            continue
        elif topic == "item-embeddings":
            cache.add_row(rows.decode(value))
        elif isinstance(event := events.decode(value), Manifest):
            cache.add_manifest(event)
        elif isinstance(event, ItemCounts):
            cache.item_statistics.take(event)


@dataclass
class RunHarness:
    """One run: its tables, a coordinator, and release candidates as learner and retrain would write them."""

    settings: Settings
    engine: sa.Engine
    producer: FakeProducer = field(default_factory=FakeProducer)

    @classmethod
    def of(cls, settings: Settings, **changes: object) -> Self:
        """Return the run of changed settings, with the tables that they name."""
        return cls(settings.model_copy(update=changes), connect(settings.database.get_secret_value()))

    def changed(self, **changes: object) -> Self:
        """Return a run in the same tables whose settings are changed."""
        return type(self)(self.settings.model_copy(update=changes), self.engine)

    def coordinator(self) -> Coordinator:
        """Return a coordinator that holds the lease, which its predecessor did not release."""
        with self.engine.begin() as connection:
            connection.execute(sa.delete(schema.leases))
        lease = Lease(self.engine, self.settings.run, "coordinator")
        assert lease.acquire()
        return Coordinator(self.settings, self.engine, lease, Publisher(self.settings, self.producer))

    def act(self, coordinator: Coordinator | None = None) -> None:
        """Run the coordinator until it has nothing to do."""
        coordinator = coordinator or self.coordinator()
        while coordinator.step():
            pass

    def record(self, epoch: int, *, over: bool = False) -> None:
        """Write that the recorder has committed `epoch`."""
        row = {"run": self.settings.run, "role": "recorder", "epoch": epoch, "time": epoch * 1000, "over": over}
        with self.engine.begin() as connection:
            upsert(connection, schema.progress, [row])

    def propose(self, kind: str, epoch: int, data: bytes | None, **quality: Any) -> None:
        """Write a release candidate, an empty one without `data`."""
        numbers = {"active": 1.0, "candidate": 0.9, "n": 100, "finite": True} | quality
        status = WAITING if data is not None else EMPTY
        with self.engine.begin() as connection:
            active = run_state.active_release(connection, self.settings.run)
            candidate = ReleaseCandidate(epoch, kind, status, active or 0, data, {}, numbers, epoch * 1000)
            candidates.write(connection, self.settings.run, candidate)

    def decisions(self) -> list[EpochDecision]:
        """Return all decisions in the tables."""
        t = schema.decisions.c
        with self.engine.connect() as connection:
            query = sa.select(t.epoch, t.release, t.outcome, t.reason).where(t.run == self.settings.run)
            rows = connection.execute(query.order_by(t.epoch))
            return [EpochDecision(*row) for row in rows]

    def status(self, kind: str, epoch: int) -> str:
        """Return the status of a release candidate."""
        t = schema.proposals.c
        with self.engine.connect() as connection:
            return candidates.read(connection, self.settings.run, (t.kind == kind) & (t.epoch == epoch))[0].status


def some_nets(settings: Settings, items: int, seed: int) -> tuple[Nets, Catalogue]:
    """Return nets drawn from `seed`, over items 100, 101..."""
    return Nets.initial(net_config(settings), 2 + items, seed), Catalogue(np.arange(100, 100 + items))


def retrained(nets: Nets, catalogue: Catalogue) -> bytes:
    """Return the bytes of a retrain's release candidate."""
    E = nets.encoder.E.detach().numpy()
    return candidates.pack(pack(nets) | {"E": E.astype("<f4").tobytes(), "keys": catalogue.keys.tobytes()})


def learnt(nets: Nets) -> bytes:
    """Return the bytes of a learner's release candidate."""
    return candidates.pack({"fast": pack_part(nets, "fast"), "state": b"", "carried": b""})


def changed(nets: Nets, rows: list[int]) -> Nets:
    """Return a copy that differs in some rows of E."""
    other = nets.grown(len(nets.encoder.E), 0)
    with torch.no_grad():
        other.encoder.E[rows] += 1.0
    return other


def prefixes(sent: list[Sent]) -> Iterator[list[Sent]]:
    """Return the records sent before each point at which the sender may be killed."""
    return (sent[:n] for n in range(len(sent) + 1))
