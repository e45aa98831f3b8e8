"""The same work without Kafka: the device's whole batches, and the bare arithmetic in them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice

import torch

from benchmarks.device.records import Workload
from benchmarks.device.stopwatch import Pace
from models.data.item_statistics import ItemStatistics
from models.mc2sf.tiled_scorer import Floats, Rows, Scorer
from streams.codec import encode
from streams.device.worker import Device
from streams.kafka.message import Message
from streams.kafka.partitioner import partition_of
from streams.records import Versions
from streams.release_records import Manifest
from streams.releases.release import Release
from streams.settings import Settings
from streams.state.row_codec import encode_row
from streams.topics import DEVICE_EVENTS

Call = tuple[Floats, Sequence[Rows]]


class _Recording(Scorer):
    """A scorer that keeps the arguments of its calls of GRU_n."""

    calls: list[Call]

    def encode_exposures(self, states: Floats, exposures: Sequence[Rows]) -> Floats:
        self.calls.append((states.copy(), [each.copy() for each in exposures]))
        return super().encode_exposures(states, exposures)


class InMemory:
    """A workload's records in batches of `take_max`, as a worker takes them that never waits."""

    def __init__(self, settings: Settings, workload: Workload, per_record: int) -> None:
        self._settings, self._events = settings, workload.events
        self._nets, self._catalogue = workload.nets(settings)
        self._takes = list(_takes(settings, workload, per_record))
        recording = _Recording(self._nets)
        self._calls: list[Call] = []
        recording.calls = self._calls
        self._worked_off(recording)

    def whole(self) -> Pace:
        """The device's batches: decoding, steps, folds, outputs and rows encoded."""
        return self._timed(lambda: self._worked_off(Scorer(self._nets)))

    def bare(self) -> Pace:
        """Pace of GRU_n alone, on the same tiles."""
        scorer = Scorer(self._nets)
        return self._timed(lambda: [scorer.encode_exposures(*call) for call in self._calls])

    def _timed(self, work: Callable[[], object]) -> Pace:
        torch.set_num_threads(1)  # as every worker does, and what follows too
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return Pace(self._events / wall, self._events / cpu, self._events)

    def _worked_off(self, scorer: Scorer) -> None:
        versions = Versions()
        manifest = Manifest(0, 0, "initial", versions, -1, 0, self._catalogue.size, "", {}, {}, {})
        release = Release(manifest, self._nets, scorer, self._catalogue)
        device, table = Device(self._settings), dict[bytes, bytes]()
        for received in self._takes:
            work = device(received, table, 0, 0)
            work.required_releases()
            writes = work.process(lambda _: release, lambda _: ItemStatistics.empty())
            list(writes.records())
            table.update((key, encode_row(row)) for key, row in writes.rows() if row is not None)


def _takes(settings: Settings, workload: Workload, per_record: int) -> Iterator[list[Message]]:
    offsets = [count() for _ in range(settings.partitions)]
    records = (
        Message(
            DEVICE_EVENTS.name,
            part := partition_of(key := batch.user.encode(), settings.partitions),
            next(offsets[part]),
            key,
            encode(batch),
        )
        for batch in workload.batches(per_record)
    )
    while take := list(islice(records, settings.take_max)):
        yield take
