"""What a batch of the device changes: rows over those of the table, and what is to be sent; nothing of it done yet.

The order of writes matters where a crash cuts them short: a request without an answer stands before the user's row that
says that it was asked, and a partition's row stands last.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from msgspec import Struct

from streams.codec import Record, Tensor, encode
from streams.device.deferred_gru import Fold, compute, value
from streams.device.index import DeviceIndex
from streams.device.step import Memory, User
from streams.faust_runtime.worker import Releases
from streams.kafka.partitioner import partition_key
from streams.records import NegativeMemory
from streams.settings import Settings
from streams.state.device import (
    DeviceState,
    PartitionState,
    Pending,
    user_key,
)
from streams.state.row_codec import decode_row
from streams.topics import DEVICE_UPLINK, Topic

Output = Record | Memory | bytes


class DeviceChanges:
    """The rows as a batch leaves them so far, and its outputs in order."""

    def __init__(self, settings: Settings, table: Mapping[bytes, bytes], index: DeviceIndex) -> None:
        self._settings, self._table, self.index = settings, table, index
        self._outputs: list[tuple[Topic, int, bytes, Output]] = []
        self._users: dict[str, User] = {}
        self._partitions: dict[int, PartitionState] = {}
        self._pending: defaultdict[int, dict[bytes, Pending | None]] = defaultdict(dict)
        self._met: set[str] = set()
        self.bytes_up = 0

    def send(self, topic: Topic, part: int, key: bytes, output: Output) -> None:
        """Add an output; those of one partition keep their order."""
        self._outputs.append((topic, part, key, output))

    def user(self, name: str) -> User:
        """A user as the batch has left it so far."""
        if (user := self._users.get(name)) is not None:
            return user
        data = self._table.get(user_key(name))
        return User.of(DeviceState() if data is None else decode_row(data, DeviceState))

    def put_user(self, name: str, user: User) -> None:
        """Change a user."""
        self._users[name] = user

    def partition(self, part: int) -> PartitionState:
        """A partition's row, to be changed in place."""
        if part not in self._partitions:
            data = self._table.get(partition_key(part))
            self._partitions[part] = PartitionState() if data is None else decode_row(data, PartitionState)
        return self._partitions[part]

    def asked(self, part: int, key: bytes) -> Pending | None:
        """The request under `key`, where it has no answer yet."""
        if key in self._pending[part]:
            return self._pending[part][key]
        data = self._table.get(key)
        return None if data is None else decode_row(data, Pending)

    def put_pending(self, part: int, key: bytes, pending: Pending | None) -> None:
        """Keep a request; None: it is answered."""
        self._pending[part][key] = pending

    def waiting(self, part: int) -> bool:
        """Whether a request of the partition has no answer yet."""
        return self.index.waiting(part, self._pending[part])

    def uploaders(self, part: int) -> list[str]:
        """The users of a partition who may have clicks to upload, by name."""
        return self.index.users(part, self._users)

    def meet(self, name: str) -> None:
        """Note that something of a user went up: what the cloud must see first went with it."""
        self._met.add(name)

    def met(self, name: str) -> bool:
        """Whether something of a user went up since this worker got the partition."""
        return name in self.index.met or name in self._met

    def settle(self, releases: Releases) -> None:
        """Do the arithmetic that was put off."""
        wanted: list[Fold | bytes] = [user.memory for user in self._users.values()]
        wanted += [user.r2 for user in self._users.values()]
        wanted += [output.r2 for *_, output in self._outputs if isinstance(output, Memory)]
        compute(wanted, lambda version: ((release := releases(version)).scorer, release.catalogue))

    def records(self) -> Iterable[tuple[str, int, bytes, bytes]]:
        """What is to be sent: topic, partition, key, value."""
        for topic, part, key, output in self._outputs:
            data = self._encoded(output)
            if topic is DEVICE_UPLINK:
                self.bytes_up += len(data)
            yield topic.full(self._settings), part, key, data

    def _encoded(self, output: Output) -> bytes:
        if isinstance(output, bytes):
            return output
        if isinstance(output, Record):
            return encode(output)
        r2 = Tensor("<f4", (self._settings.dim,), value(output.r2))
        return encode(NegativeMemory(output.user, output.window, r2, output.encoder, output.size, output.time))

    def rows(self) -> Iterable[tuple[bytes, Struct | None]]:
        """What is to be written, in this order; None deletes. The index is told on the way."""
        for changed in self._pending.values():
            for key, pending in changed.items():
                self.index.note(key, pending)
                yield key, pending
        for name, user in self._users.items():
            key, state = user_key(name), user.settled()
            self.index.note(key, state)
            yield key, state
        for part, partition in self._partitions.items():
            before = self._table.get(key := partition_key(part))
            if before is None or decode_row(before, PartitionState) != partition:
                yield key, partition
        self.index.met |= self._met

    def sent(self) -> Counter[str]:
        """How many of each kind of output there are."""
        return Counter(type(output).__name__ for *_, output in self._outputs)
