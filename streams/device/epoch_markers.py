"""Epoch markers on the device: their effect on a partition's state, and their forwarding to the next topics."""

from __future__ import annotations

from msgspec.structs import replace

from streams.codec import Reader, Tensor, encode
from streams.device.rows import DeviceRows
from streams.records import ClickUpload, EndOfLog, EpochBegin, EpochEnd, EpochMarker
from streams.state.device import keys_bytes
from streams.state.pending_writes import PendingWrites
from streams.topics import DEVICE_UPLINK, FAST_EXAMPLES, OUTCOMES

_markers: Reader[EpochEnd | EndOfLog] = Reader(EpochEnd | EndOfLog)


class EpochMarkers:
    """Applies the markers of a batch. A marker that was applied before changes nothing."""

    def __init__(self, rows: DeviceRows, writes: PendingWrites) -> None:
        self._rows, self._writes = rows, writes

    def apply(self, number: int, marker: EpochMarker) -> None:
        """Apply a marker of partition `number`; send an end up to the cloud at once."""
        partition = self._rows.partition(number)
        if isinstance(marker, EpochBegin):
            if marker.epoch > partition.begun:
                begun = replace(partition, begun=marker.epoch, release=marker.release, over=False)
                self._rows.put_partition(number, begun)
            return
        if isinstance(marker, EpochEnd):
            if marker.epoch <= partition.ended:
                return
            self._upload_clicks(number, marker)
            partition = replace(partition, ended=marker.epoch, uploaded=marker.time)
        elif partition.over:
            return
        else:
            partition = replace(partition, over=True)
        self._writes.send(DEVICE_UPLINK, number, b"", marker)
        self._rows.put_partition(number, replace(partition, waiting=(*partition.waiting, encode(marker))))
        self.forward(number)

    def forward(self, number: int) -> None:
        """Forward the waiting markers of a partition, up to the first one whose epoch still has a pending request.

        Requests of later epochs do not hold a marker: free-running, some request is nearly always pending.
        """
        partition = self._rows.partition(number)
        waiting = partition.waiting
        while waiting and not self._rows.index.is_pending(number, _markers.decode(waiting[0]).epoch):
            for topic in (OUTCOMES, FAST_EXAMPLES):
                self._writes.send(topic, number, b"", waiting[0])
            waiting = waiting[1:]
        if len(waiting) < len(partition.waiting):
            self._rows.put_partition(number, replace(partition, waiting=waiting))

    def _upload_clicks(self, number: int, marker: EpochEnd) -> None:
        """Send the clicks of the epoch, user by user in the order of names."""
        waiting = self._rows.index.uploads[number]
        for key in sorted(waiting):
            state = self._rows.user(key).state
            if state.uploads_epoch <= marker.epoch:
                items = Tensor("<i8", (len(state.uploads),), keys_bytes(state.uploads))
                upload = ClickUpload(key.decode(), marker.epoch, items, marker.time)
                self._writes.send(DEVICE_UPLINK, number, key, upload)
                waiting.discard(key)
