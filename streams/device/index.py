"""What a device worker knows of its table without looking at every row: kept in step with it, made from it at start."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from streams.kafka.partitioner import locate
from streams.state.device import DeviceState, Pending, kind_of
from streams.state.row_codec import decode_row


class DeviceIndex:
    """By partition: requests without an answer, with the wall clock of asking, and users with clicks to upload."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.pending: defaultdict[int, dict[bytes, int]] = defaultdict(dict)
        self.uploads: defaultdict[int, set[str]] = defaultdict(set)
        self.met: set[str] = set()  # users whose last r2 went up since this worker got their partition

    @classmethod
    def of(cls, rows: Mapping[bytes, bytes], partitions: int) -> DeviceIndex:
        """The index of a table's rows."""
        index = cls(partitions)
        for key, data in rows.items():
            kind = kind_of(key)
            if kind is Pending:
                index.note(key, decode_row(data, Pending))
            elif kind is DeviceState:
                index.note(key, decode_row(data, DeviceState))
        return index

    def note(self, key: bytes, row: DeviceState | Pending | None) -> None:
        """Take in that `row` stands under `key` now; None: an answered request's row is gone."""
        part = locate(key, self.partitions)
        if isinstance(row, Pending):
            self.pending[part][key] = row.asked_wall
        elif row is None:
            self.pending[part].pop(key, None)
        elif row.uploads:
            self.uploads[part].add(key.decode())
        else:
            self.uploads[part].discard(key.decode())

    def waiting(self, part: int, changed: Mapping[bytes, Pending | None]) -> bool:
        """Whether a request of the partition has no answer yet, with `changed` on top."""
        return any(key not in changed for key in self.pending[part]) or any(changed.values())

    def users(self, part: int, among: Iterable[str]) -> list[str]:
        """Those of the partition who may have clicks to upload, `among` others included, by name."""
        return sorted(self.uploads[part].union(u for u in among if locate(u.encode(), self.partitions) == part))
