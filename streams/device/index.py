"""An index of a device worker's table: kept up to date with every change, built from the rows after an assignment."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from streams.kafka.partitioner import partition_key, partition_of_row
from streams.records import Ranking
from streams.state.device import DevicePartitionState, DeviceState, PendingRequest, kind_of
from streams.state.row_codec import decode_row


class DeviceIndex:
    """Requests without an answer and users with clicks to upload, per partition; users whose last r2 was sent.

    Users are named by the keys of their rows.
    """

    def __init__(self) -> None:
        self.requests: defaultdict[int, dict[bytes, tuple[int, int]]] = defaultdict(dict)  # key -> wall clock, epoch
        self._pending: defaultdict[int, Counter[int]] = defaultdict(Counter)  # requests by epoch
        self.uploads: defaultdict[int, set[bytes]] = defaultdict(set)
        self.ended: defaultdict[int, int] = defaultdict(lambda: -1)  # the last epoch that ended in a partition
        self.rankings: dict[str, tuple[Ranking, str]] = {}  # that wait for the cloud, and the variant that is wanted
        self.r2_sent: set[bytes] = set()  # since this worker was assigned their partition; also if there is none yet

    @classmethod
    def of(cls, rows: Mapping[bytes, bytes], partitions: int) -> DeviceIndex:
        """Return the index of a table's rows."""
        index = cls()
        for partition in range(partitions):
            if (row := rows.get(partition_key(partition))) is not None:
                index.ended[partition] = decode_row(row, DevicePartitionState).ended
        for key, value in rows.items():
            kind, partition = kind_of(key), partition_of_row(key, partitions)
            if kind is PendingRequest:
                index.update(partition, key, decode_row(value, PendingRequest))
            elif kind is DeviceState:
                index.update(partition, key, decode_row(value, DeviceState))
        return index

    def update(self, partition: int, key: bytes, row: DeviceState | PendingRequest | None) -> None:
        """Update the index for the new row under `key`; None: the request was answered."""
        if row is None or isinstance(row, PendingRequest):
            _, epoch = self.requests[partition].pop(key, (0, None))
            if epoch is not None:
                self._pending[partition][epoch] -= 1
            if row is not None:
                self.requests[partition][key] = row.asked_wall, row.epoch
                self._pending[partition][row.epoch] += 1
        elif row.not_uploaded(self.ended[partition]):
            self.uploads[partition].add(key)
        else:
            self.uploads[partition].discard(key)

    def forget(self, partition: int, key: bytes) -> None:
        """Remove the user of row `key` from the index, except for requests."""
        self.uploads[partition].discard(key)
        self.r2_sent.discard(key)
        for ranking in [each for each, (first, _) in self.rankings.items() if first.user.encode() == key]:
            del self.rankings[ranking]

    def is_pending(self, partition: int, epoch: int) -> bool:
        """Return True if a request of an epoch up to `epoch` has no answer yet."""
        pending = self._pending[partition] = +self._pending[partition]
        return any(each <= epoch for each in pending)
