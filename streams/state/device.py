"""Rows of the device's table: a user's state, a request without an answer, a partition's progress; and their keys.

A user takes about 1 KB. Arrays inside the rows are little-endian bytes. No arithmetic and no Kafka here.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.kafka.partitioner import SEPARATOR, is_partition_key
from streams.records import Versions
from streams.state.numbering import Applied

NO_ENCODER = -1


class DeviceState(msgspec.Struct, array_like=True):
    """One user's state. GRU states are f4 [d], empty if zero or not computed yet."""

    seq: int = 0  # next expected
    time: int = 0  # of the last event
    encoder: int = NO_ENCODER  # version that computed gru_state and r2
    gru_state: bytes = b""  # GRU_n over the open window
    open_count: int = 0  # exposures in the open window
    opened: int = 0  # time of its first exposure
    r2: bytes = b""  # GRU_n over the last closed window
    window: int = 0  # number of the last closed window, from 1; 0: none
    closed_count: int = 0  # exposures in it
    closed: int = 0  # time of the event that closed it
    clicks: list[int] = msgspec.field(default_factory=list)  # the last L_F
    exposures: list[int] = msgspec.field(default_factory=list)  # of the last two windows
    uploads: list[int] = msgspec.field(default_factory=list)  # clicks of one epoch, at most L_S: see `not_uploaded`
    uploads_epoch: int = -1  # epoch at whose end these clicks are uploaded
    keys: list[Applied] = msgspec.field(default_factory=list)  # last idempotency keys: streams/state/numbering.py

    def not_uploaded(self, ended: int) -> list[int]:
        """Return the clicks since the last upload, in a partition in which epoch `ended` has ended.

        The row is not written again when its clicks are uploaded: the partition's row says that they were.
        """
        return self.uploads if self.uploads_epoch > ended else []


class PendingRequest(msgspec.Struct, array_like=True, frozen=True):
    """A request without an answer: what the device knew when it sent the request. Arrays are i8 bytes of item keys."""

    user: str
    seq: int
    epoch: int
    time: int
    target: int
    target_index: int  # in the candidates
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
    item_statistics: bytes = b""  # u1 [n, 3], of the candidates
    statistics_epoch: int | None = None  # epoch at whose begin these were counted


class DevicePartitionState(msgspec.Struct, array_like=True, frozen=True):
    """A partition's progress: epochs begun and ended, the release in force, markers that wait for answers."""

    begun: int = -1
    ended: int = -1
    release: int | None = None  # None: the newest (free-running)
    over: bool = False
    waiting: tuple[bytes, ...] = ()  # encoded epoch markers, to be sent on outcomes and fast-examples
    next: int = 0  # next expected offset of device-events
    gap: int = -1  # the value of `next` at which the worker ended because a later offset came
    newest: int | None = None  # the newest release used so far (free-running): no older one is used after it
    uploaded: int = 0  # event time of the last epoch's end, when clicks were uploaded


def user_key(user: str) -> bytes:
    """Return the key of a user's row."""
    return user.encode()


def request_key(user: str, seq: int) -> bytes:
    """Return the key of a pending request's row."""
    return user.encode() + SEPARATOR + seq.to_bytes(8, "big")


def kind_of(key: bytes) -> type[DeviceState | PendingRequest | DevicePartitionState]:
    """Return the type of the row under `key`."""
    if is_partition_key(key):
        return DevicePartitionState
    return PendingRequest if SEPARATOR in key else DeviceState


def keys_bytes(keys: NDArray[np.int64] | list[int]) -> bytes:
    """Return item keys as bytes."""
    return np.asarray(keys, dtype="<i8").tobytes()


def keys_array(data: bytes) -> NDArray[np.int64]:
    """Return item keys from bytes, read-only."""
    return np.frombuffer(data, dtype="<i8")
