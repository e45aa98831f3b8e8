"""The users' states for the recorder, read from the changelogs of the device's and the cloud's table.

A worker writes a partition's own row after the rows of its users, so a partition row with an epoch's end is the marker
of that epoch in the changelog: the rows before it are the state as of that epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

from streams.codec import RecordError
from streams.kafka.message import Message
from streams.kafka.partitioner import SEPARATOR, is_partition_key, partition_of_row
from streams.records import EndOfLog, EpochEnd
from streams.state import cloud as cloud_state
from streams.state import device as device_state
from streams.state.cloud import CloudState
from streams.state.device import DeviceState
from streams.state.row_codec import (
    FencingEpochs,
    StateError,
    decode_checked_row,
    read_fencing_epoch,
    without_fencing_epoch,
)
from streams.topics import CLOUD_STATE, DEVICE_STATE

SIDES = {DEVICE_STATE.name: "device", CLOUD_STATE.name: "cloud"}
_USERS: dict[str, type[DeviceState | CloudState]] = {DEVICE_STATE.name: DeviceState, CLOUD_STATE.name: CloudState}
_PARTITIONS: dict[str, type[device_state.DevicePartitionState | cloud_state.CloudPartitionState]] = {
    DEVICE_STATE.name: device_state.DevicePartitionState,
    CLOUD_STATE.name: cloud_state.CloudPartitionState,
}

Marker = EpochEnd | EndOfLog


@dataclass(frozen=True)
class Deleted:
    """A user's state was deleted."""

    side: str  # device or cloud
    user: str


@dataclass(frozen=True)
class Changed:
    """A user's new state."""

    side: str  # device or cloud
    user: str
    value: bytes  # as in the changelog

    @property
    def state(self) -> bytes:
        """The row, the same whichever worker wrote it."""
        return without_fencing_epoch(self.value)


def read(message: Message, partitions: int, fencing_epochs: FencingEpochs) -> Changed | Deleted | Marker | None:
    """Return the user's new state, its deletion, or the marker in a changelog's record; None for other records.

    Rows of a worker that had lost the partition are ignored. Raises RecordError if a row is damaged or in the wrong
    partition.
    """
    topic, key = message.topic, message.key
    if not key or partition_of_row(key, partitions) != message.partition:
        raise RecordError(f"row {key[:100]!r} does not belong to partition {message.partition}")
    if SEPARATOR in key and not is_partition_key(key):  # a request without an answer: it belongs to no epoch's state
        return None
    if not message.value and not is_partition_key(key):
        return Deleted(SIDES[topic], key.decode())
    try:
        if not fencing_epochs.admits(message.partition, read_fencing_epoch(message.value)):
            return None
        if is_partition_key(key):
            row = decode_checked_row(message.value, _PARTITIONS[topic])
            if row.over:
                return EndOfLog(max(row.ended, 0), 0, 0)
            return EpochEnd(row.ended, 0) if row.ended >= 0 else None
        decode_checked_row(message.value, _USERS[topic])
        return Changed(SIDES[topic], key.decode(), message.value)
    except (StateError, UnicodeDecodeError) as error:
        raise RecordError(str(error)) from error
