"""An index of a device worker's table: kept up to date with every change, built from the rows after an assignment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from streams.kafka.partitioner import partition_of_row
from streams.state.device import DeviceState, PendingRequest, kind_of
from streams.state.row_codec import decode_row


class DeviceIndex:
    """Requests without an answer and users with clicks to upload, per partition; users whose last r2 was sent."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self.requests: defaultdict[int, dict[bytes, int]] = defaultdict(dict)  # key -> wall clock of the request, ms
        self.uploads: defaultdict[int, set[str]] = defaultdict(set)
        self.r2_sent: set[str] = set()  # since this worker was assigned their partition; also if there is none yet

    @classmethod
    def of(cls, rows: Mapping[bytes, bytes], partitions: int) -> DeviceIndex:
        """Return the index of a table's rows."""
        index = cls(partitions)
        for key, value in rows.items():
            kind = kind_of(key)
            if kind is PendingRequest:
                index.update(key, decode_row(value, PendingRequest))
            elif kind is DeviceState:
                index.update(key, decode_row(value, DeviceState))
        return index

    def update(self, key: bytes, row: DeviceState | PendingRequest | None) -> None:
        """Take in the row that is now under `key`; None: the request was answered."""
        partition = partition_of_row(key, self._partitions)
        if isinstance(row, PendingRequest):
            self.requests[partition][key] = row.asked_wall
        elif row is None:
            self.requests[partition].pop(key, None)
        elif row.uploads:
            self.uploads[partition].add(key.decode())
        else:
            self.uploads[partition].discard(key.decode())
