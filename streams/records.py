"""The vocabulary: every record on every topic, as msgspec structs in MessagePack.

Records are the only coupling between processes. A value is two MessagePack objects: the schema number (one byte),
then the record as an array. Adding a field at the end with a default keeps older readers working; anything else
raises `SCHEMA`. A reader accepts older schema numbers and refuses newer ones. Users are strings; items are strings on
`device-events` and 64-bit keys (`item_key`) everywhere else. Times are event time in integer milliseconds since 1970
(UTC) unless a name says `wall`.
"""

from __future__ import annotations

import functools
import hashlib
from enum import IntEnum
from typing import Any, Generic, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

SCHEMA = 2  # 2: a batch of a device says when it was sent; 1: it did not
MAX_BYTES = 1_000_000  # of one encoded record; larger ones are refused on both sides

_HASHED = 1 << 62  # keys from here up are hashes of names, below they are the numbers themselves


class RecordError(ValueError):
    """A record that can't be read: not MessagePack, of an unknown kind, of a newer schema, or too large."""


class Kind(IntEnum):
    """What an event of a device says of an item."""

    EXPOSURE = 0  # shown, not clicked
    CLICK = 1  # clicked: evaluated (by share) and learnt from
    # on the slate of an impression for ranking only: changes no history and no window. Where nothing else stands beside
    # the click, it is a list made for ranking, and taken in its own order: its maker has shuffled it
    CANDIDATE = 2
    PAST_CLICK = 3  # clicked before the span under evaluation: enters histories, is never ranked


@functools.lru_cache(maxsize=1 << 18)
def item_key(name: str) -> int:
    """The 64-bit key of an item: its number where the name is a canonical decimal below 2^62, else a BLAKE2b hash."""
    if name.isdecimal() and name.isascii() and len(name) <= 18 and (name == "0" or name[0] != "0"):
        return int(name)
    return _HASHED | int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 2


class Record(msgspec.Struct, frozen=True, array_like=True):
    """Base of every record."""


R = TypeVar("R", bound="Record")


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """An array as it travels: numpy dtype string (little-endian), shape, raw bytes in C order."""

    dtype: Literal["<f2", "<f4", "<i8"]
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: NDArray[Any], dtype: Literal["<f2", "<f4", "<i8"]) -> Tensor:
        """Pack `array`, cast to `dtype`."""
        packed = np.ascontiguousarray(array, dtype=dtype)
        return cls(dtype, packed.shape, packed.tobytes())

    def array(self) -> NDArray[Any]:
        """The array, read-only. Raises RecordError where shape and bytes disagree."""
        flat = np.frombuffer(self.data, dtype=self.dtype) if len(self.data) % int(self.dtype[2]) == 0 else None
        if flat is None or flat.size != int(np.prod(self.shape, dtype=np.int64)) or min(self.shape, default=0) < 0:
            raise RecordError(f"tensor of shape {self.shape} and dtype {self.dtype} holds {len(self.data)} bytes")
        return flat.reshape(self.shape)

    def expect(self, name: str, dtype: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
        """The array, read-only; None stands for any length. Raises RecordError about `name` where it is another."""
        alike = [wanted in (length, None) for length, wanted in zip(self.shape, shape, strict=False)]
        if self.dtype != dtype or len(self.shape) != len(shape) or not all(alike):
            wanted = str(shape).replace("None", "n")
            raise RecordError(f"{name} is {self.dtype} {self.shape}, not {dtype} {wanted}")
        return self.array()


class Versions(msgspec.Struct, frozen=True, array_like=True):
    """The release that was in force and the versions of its three parts."""

    release: int = 0
    encoder: int = 0
    slow: int = 0
    fast: int = 0


# device-events ------------------------------------------------------------------------------------------------------


class DeviceBatch(Record, frozen=True, tag="batch"):
    """Consecutive events of one user, as columns of equal length. Event i has sequence number `seq + i`.

    Events of one impression are adjacent and never straddle a batch. `impressions` holds 0 where there is none. A
    negative impression is a unit too, but no slate: its exposures are the replayer's own (policy `simulated`).
    """

    user: str
    seq: int
    items: list[str]
    kinds: bytes  # one Kind per event
    times: list[int]
    impressions: list[int]
    sent_wall: int = 0  # wall clock of sending, ms: for freshness only, never in a digest; 0: not said (schema 1)


class EpochBegin(Record, frozen=True, tag="begin"):
    """From here on, in this partition, epoch `epoch` is running; `release` applies (None: the newest, free-running)."""

    epoch: int
    release: int | None
    time: int


class EpochEnd(Record, frozen=True, tag="end"):
    """Epoch `epoch` is over in this partition; `time` is the event time reached."""

    epoch: int
    time: int


class EndOfLog(Record, frozen=True, tag="eol"):
    """The log is over in this partition. `events` is the number of events sent to this partition in the whole run."""

    epoch: int
    time: int
    events: int


Mark = EpochBegin | EpochEnd | EndOfLog

# device-uplink ------------------------------------------------------------------------------------------------------


class NegativeMemory(Record, frozen=True, tag="memory"):
    """r2 of eq. (3) over window number `window` (1-based) of a user: `r2` is f4 [d]."""

    user: str
    window: int
    r2: Tensor
    encoder: int
    size: int  # exposures in the window
    time: int  # of the event that closed it


class ClickUpload(Record, frozen=True, tag="clicks"):
    """The clicks of a user in `epoch`, oldest first, at most the last L_S: `items` is i8 [n]."""

    user: str
    epoch: int
    items: Tensor
    time: int


class RankRequest(Record, frozen=True, tag="request"):
    """Asks the cloud for priors and slow scores. The id of a request is (user, seq of the click)."""

    user: str
    seq: int
    candidates: Tensor  # i8 [n], already shuffled
    time: int
    window: int  # the r2 that the answer must use: 0 = none yet
    versions: Versions
    epoch: int = 0  # the answer must use the clicks uploaded before it ended, also when it is asked again later
    standing: bytes = b""  # u1 [n, 3], of the candidates: see models/data/item_features.py


# cloud-downlink -----------------------------------------------------------------------------------------------------


class SlowPriors(Record, frozen=True, tag="priors"):
    """The cloud's answer: r_t and r_n (f2 [n, d]) and the slow nets' scores (f4 [n]) in the order of the candidates."""

    user: str
    seq: int
    r_t: Tensor
    r_n: Tensor
    din: Tensor
    f2s: Tensor
    history: int  # length of the delayed history used
    window: int  # of the r2 used, 0 = zero state
    versions: Versions


# outcomes -----------------------------------------------------------------------------------------------------------


class Outcome(Record, frozen=True, tag="outcome"):
    """How each variant ranked one clicked item. Ranks are 1-based; `time` is that of the unit's first event."""

    user: str
    seq: int
    epoch: int
    time: int
    target: int
    place: int  # of the target among the shuffled candidates: the tie-breaker
    candidates: Tensor  # i8 [n]
    slate: Literal["sampled", "logged"]
    cold: bool  # target outside the catalogue, or catalogue too small for the full number of negatives
    expired: bool  # no priors in time (free-running only): din, f2s and mc2sf are missing from `ranks`
    ranks: dict[str, int]
    not_finite: int  # scores that were NaN or infinite and were ranked last
    versions: Versions
    window: int
    r2_age: int  # ms of event time since the window closed, 0 where there is none
    history: int
    bytes_up: int
    bytes_down: int
    asked_wall: int = 0
    answered_wall: int = 0


# fast-examples ------------------------------------------------------------------------------------------------------


class FastExample(Record, frozen=True, tag="example"):
    """One online step of the fast part. Row 0 of `items` is the click, the others are negatives."""

    user: str
    seq: int
    epoch: int
    time: int
    clicks: Tensor  # i8 [<= L_F], oldest first
    exposures: Tensor  # i8 [<= L_F], oldest first
    items: Tensor  # i8 [1 + 4]
    r_t: Tensor  # f2 [1 + 4, d]
    r_n: Tensor  # f2 [1 + 4, d]
    versions: Versions
    standing: bytes = b""  # u1 [1 + 4, 3]


# item-embeddings, model-releases, dead-letters ----------------------------------------------------------------------


class EmbeddingRow(Record, frozen=True, tag="row"):
    """One row of the item table E: `index` never changes for an item; a reader takes the newest version <= its own."""

    item: int
    index: int
    vector: Tensor  # f4 [d]
    encoder: int


class Manifest(Record, frozen=True, tag="release"):
    """A release, written after its parts.

    `parts` maps encoder, slow and fast to the SHA-256 of their bytes, and so each of `nets.APART` that has nets of its
    own, whose version is the encoder's.
    """

    version: int
    parent: int
    kind: Literal["initial", "retrain", "learner", "rollback"]
    versions: Versions
    epoch: int  # after which it was made
    trained_until: int  # event time, ms
    items: int  # rows of E, reserved ones included
    embeddings: str  # SHA-256 of E's bytes, f4 little-endian, in row order
    parts: dict[str, str]
    offsets: dict[str, int]  # "topic/partition" -> next offset consumed by the learner
    gate: dict[str, float]


class EpochDecision(Record, frozen=True, tag="decision"):
    """What applies from epoch + 1 on. Exactly one an epoch, also when nothing changed."""

    epoch: int
    release: int
    outcome: Literal["unchanged", "retrain", "learner", "rejected", "rollback"]
    reason: str


class ItemCounts(Record, frozen=True, tag="counts"):
    """What was seen in `epoch`, and how often it was clicked. Published before the decision of the epoch."""

    epoch: int
    chunk: int  # of `chunks`, from 0: a record has room for so many items only
    chunks: int
    items: Tensor  # i8 [n], ascending
    clicks: Tensor  # i8 [n], 0 where an item was shown only


class DeadLetter(Record, frozen=True, tag="dead"):
    """A record that was refused: raw bytes, where it stood, and why."""

    topic: str  # without the run prefix
    partition: int
    offset: int
    key: bytes
    value: bytes
    reason: str
    role: str  # the processor that refused it


DeviceEvent = DeviceBatch | EpochBegin | EpochEnd | EndOfLog
Uplink = NegativeMemory | ClickUpload | RankRequest | EpochEnd | EndOfLog
OutcomeEvent = Outcome | EpochEnd | EndOfLog
ExampleEvent = FastExample | EpochEnd | EndOfLog
ReleaseEvent = Manifest | EpochDecision | ItemCounts

_encoder = msgspec.msgpack.Encoder()
_PREFIX = bytes([SCHEMA])  # a MessagePack positive integer


def encode(record: Record) -> bytes:
    """The record's bytes. Raises RecordError where they exceed MAX_BYTES."""
    data = _PREFIX + _encoder.encode(record)
    if len(data) > MAX_BYTES:
        raise RecordError(f"{type(record).__name__} of {len(data)} bytes: at most {MAX_BYTES} are allowed")
    return data


class Reader(Generic[R]):
    """Decodes the records of one topic: `Reader(Uplink)`."""

    def __init__(self, kinds: Any) -> None:
        """`kinds` is one of the unions above, or one record type."""
        self._decoder = msgspec.msgpack.Decoder(kinds)

    def decode(self, data: bytes | None) -> R:
        """The record in `data`. Raises RecordError with the reason where there is none that this version reads."""
        if not data:
            raise RecordError("empty value")
        if len(data) > MAX_BYTES:
            raise RecordError(f"{len(data)} bytes: at most {MAX_BYTES} are allowed")
        if not 1 <= data[0] <= 127:
            raise RecordError(f"first byte {data[0]} is no schema number")
        if data[0] > SCHEMA:
            raise RecordError(f"schema {data[0]} is newer than {SCHEMA}: upgrade this process")
        try:
            record: R = self._decoder.decode(memoryview(data)[1:])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RecordError(str(error)) from error
        return record
