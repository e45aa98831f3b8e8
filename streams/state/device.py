"""What a device knows of its user, as packed bytes, and the keys of the device table's rows.

About 1 KB a user, one row of the device table; a row for each request without an answer; and a row a partition (see
`packed`). Arrays inside are little-endian bytes. No arithmetic and no Kafka here.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.kafka.partitioner import SEPARATOR, is_partition
from streams.records import Versions

NO_ENCODER = -1


class DeviceState(msgspec.Struct, array_like=True):
    """One user's state. `memory` and `r2` are f4 [d], empty where they are zero or there is none yet."""

    seq: int = 0  # next expected
    time: int = 0  # of the last event
    encoder: int = NO_ENCODER  # that memory and r2 belong to
    memory: bytes = b""  # GRU_n over the open window
    open: int = 0  # exposures in it
    opened: int = 0  # time of its first exposure
    r2: bytes = b""  # of the last closed window
    window: int = 0  # its number, 1-based; 0: none closed yet
    size: int = 0  # its exposures
    closed: int = 0  # time of the event that closed it
    clicks: list[int] = msgspec.field(default_factory=list)  # ring of the last L_F
    exposures: list[int] = msgspec.field(default_factory=list)  # ring of the last two windows
    uploads: list[int] = msgspec.field(default_factory=list)  # clicks since the last upload, at most the last L_S
    uploads_epoch: int = -1  # the epoch they were made in


class Pending(msgspec.Struct, array_like=True, frozen=True):
    """A request without an answer: the view of the click as it was when asked. Arrays are i8 bytes of item keys."""

    user: str
    seq: int
    epoch: int
    time: int
    target: int
    place: int
    candidates: bytes
    slate: Literal["sampled", "logged"]
    cold: bool
    clicks: bytes
    exposures: bytes
    window: int
    r2_age: int
    versions: Versions
    bytes_up: int
    asked_wall: int
    standing: bytes = b""  # u1 [n, 3], of the candidates


class PartitionState(msgspec.Struct, array_like=True):
    """How far a partition is: epochs begun and ended, the release in force, marks that wait for answers."""

    begun: int = -1
    ended: int = -1
    release: int | None = None  # None: the newest, free-running
    over: bool = False
    waiting: list[bytes] = msgspec.field(default_factory=list)  # encoded marks not yet on outcomes, fast-examples
    next: int = 0  # offset on device-events that is expected
    gap: int = -1  # an earlier value of `next` at which another offset came


def user_key(user: str) -> bytes:
    """The key of a user's row."""
    return user.encode()


def pending_key(user: str, seq: int) -> bytes:
    """The key of a pending request's row."""
    return user.encode() + SEPARATOR + seq.to_bytes(8, "big")


def kind_of(key: bytes) -> type[DeviceState | Pending | PartitionState]:
    """Which row stands under `key`."""
    if is_partition(key):
        return PartitionState
    return Pending if SEPARATOR in key else DeviceState


def keys_bytes(keys: NDArray[np.int64] | list[int]) -> bytes:
    """Item keys as bytes."""
    return np.asarray(keys, dtype="<i8").tobytes()


def keys_array(data: bytes) -> NDArray[np.int64]:
    """Item keys from bytes, read-only."""
    return np.frombuffer(data, dtype="<i8")
