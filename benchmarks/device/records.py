"""The records that every contender reads: the same events with any number of events per record, and release 0."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.data.catalogue import Catalogue
from models.mc2sf.checkpoint import pack
from models.mc2sf.nets import Nets
from streams.codec import encode
from streams.coordinator.publisher import Publisher, read_publication
from streams.database.engine import connect
from streams.kafka import clients, topic_admin
from streams.kafka.envelope import KeyValue, max_records, pack_records
from streams.kafka.partitioner import partition_of
from streams.model_config import net_config
from streams.records import DeviceBatch, Kind
from streams.releases.registry import Draft, finish_release, write_release
from streams.releases.release import ItemTable
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS

_GAP_MS = 1000


@dataclass(frozen=True)
class Workload:
    """Events of `users` in turn, by lot; one in `click_every` is a click, the others are exposures."""

    events: int
    users: int = 1000
    items: int = 1000
    click_every: int = 5
    longest: int = 3  # consecutive events of a user: `per_record` must divide it
    seed: int = 1

    def batches(self, per_record: int) -> Iterator[DeviceBatch]:
        """Return the events as records of `per_record` events: the same events in the same order for any number."""
        assert self.longest % per_record == 0
        chance = random.Random(self.seed)  # noqa: S311 - a workload, no secret
        seqs: dict[str, int] = {}
        for start in range(0, self.events, self.longest):
            user = f"u{chance.randrange(self.users)}"
            seq = seqs.get(user, 0)
            seqs[user] = seq + self.longest
            items = [str(1 + chance.randrange(self.items)) for _ in range(self.longest)]
            kinds = bytes(
                Kind.EXPOSURE if chance.randrange(self.click_every) else Kind.CLICK for _ in range(self.longest)
            )
            for i in range(0, self.longest, per_record):
                some = slice(i, i + per_record)
                times = [_GAP_MS * (start + j) for j in range(i, i + per_record)]
                yield DeviceBatch(user, seq + i, items[some], kinds[some], times, [0] * per_record)

    def nets(self, settings: Settings) -> tuple[Nets, Catalogue]:
        """Seeded nets, with a row of E for each item."""
        catalogue = Catalogue(np.arange(1, self.items + 1))
        return Nets.initial(net_config(settings), catalogue.size, self.seed), catalogue


def prepare(settings: Settings, workload: Workload, per_record: int) -> int:
    """Make the topics of a run, publish release 0, send the records; return how many events were sent."""
    topic_admin.create(settings)
    _publish(settings, *workload.nets(settings))
    records: defaultdict[int, list[KeyValue]] = defaultdict(list)
    for batch in workload.batches(per_record):
        key = batch.user.encode()
        records[partition_of(key, settings.partitions)].append((key, encode(batch)))
    producer, most = clients.producer(settings, "bench"), max_records(DEVICE_EVENTS, settings)
    sent = [(partition, *each) for partition, some in records.items() for each in pack_records(some, most)]
    for partition, key, value, _ in sent:
        clients.produce_waiting(producer, DEVICE_EVENTS.full(settings), key=key, value=value, partition=partition)
    assert not producer.flush(60)
    return workload.events


def _publish(settings: Settings, nets: Nets, catalogue: Catalogue) -> None:
    items = ItemTable.of(catalogue, nets.encoder.E.detach().numpy())
    engine = connect(settings.database.get_secret_value())
    with engine.begin() as connection:
        manifest = write_release(connection, settings.run, Draft("initial", None, -1, pack(nets), items, 0, {}, {}))
        publication = read_publication(connection, settings.run, manifest.version)
        Publisher(settings, clients.producer(settings, "bench")).publish(publication)
        finish_release(connection, settings.run, manifest.version)
    engine.dispose()
