"""The device's rows during a batch: read from the table, changed on top of it, indexed at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from streams.device.index import DeviceIndex
from streams.device.user import User
from streams.kafka.partitioner import SEPARATOR, partition_key
from streams.state.device import DevicePartitionState, DeviceState, PendingRequest
from streams.state.pending_writes import ChangedRows, PendingRows
from streams.state.row_codec import decode_row, row_or_new


class DeviceRows:
    """The rows as the batch has left them so far; the index follows every change."""

    def __init__(self, table: Mapping[bytes, bytes], index: DeviceIndex) -> None:
        self.index = index
        self._users = PendingRows(table, _read_user)
        self._requests = PendingRows(table, _read_request)
        self._partitions = PendingRows(table, row_or_new(DevicePartitionState))
        # as they were before the batch, but for the release
        self._releases = PendingRows(table, row_or_new(DevicePartitionState))

    def write_order(self) -> tuple[ChangedRows, ...]:
        """Return the kinds of rows in the order of writing, which is safe against a crash at any point.

        A pending request precedes its user's row, which says that the request was sent. A partition's row, which says
        that an epoch is over, comes last; only the newest release that a partition has used is written first.
        """
        return self._releases, self._requests, self._users, self._partitions

    def user(self, key: bytes) -> User:
        """Return a user."""
        return self._users.get(key)

    def put_user(self, partition: int, key: bytes, user: User) -> None:
        """Change a user."""
        self._users.put(key, user)
        self.index.update(partition, key, user.state)

    def changed_users(self) -> Iterator[User]:
        """Yield the users that the batch changed."""
        return (user for _, user in self._users.changed() if user is not None)

    def forget(self, partition: int, key: bytes) -> None:
        """Delete a user and the user's requests."""
        for request in [each for each in self.index.requests[partition] if each.startswith(key + SEPARATOR)]:
            self.put_request(partition, request, None)
        self._users.delete(key)
        self.index.forget(partition, key)

    def request(self, key: bytes) -> PendingRequest | None:
        """Return a request, or None if it has been answered or never was sent."""
        return self._requests.get(key)

    def put_request(self, partition: int, key: bytes, request: PendingRequest | None) -> None:
        """Keep a request until it is answered; None: it is answered."""
        self._requests.put(key, request)
        self.index.update(partition, key, request)

    def partition(self, number: int) -> DevicePartitionState:
        """Return a partition's progress."""
        return self._partitions.get(partition_key(number))

    def put_newest_release(self, number: int, version: int) -> None:
        """Note the newest release that a partition used (free-running)."""
        key = partition_key(number)
        for rows in (self._releases, self._partitions):
            rows.put(key, replace(rows.get(key), newest=version))

    def put_partition(self, number: int, state: DevicePartitionState) -> None:
        """Change a partition's progress."""
        self._partitions.put(partition_key(number), state)
        self.index.ended[number] = state.ended


def _read_user(value: bytes | None) -> User:
    return User.of(DeviceState() if value is None else decode_row(value, DeviceState))


def _read_request(value: bytes | None) -> PendingRequest | None:
    return None if value is None else decode_row(value, PendingRequest)
