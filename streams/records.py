"""Every record on every topic, as msgspec structs. Records are the only coupling between processes.

`streams/codec.py` encodes them, as arrays: the order of the fields is part of the format, their names are not. Users
are strings; items are strings on `device-events` and 64-bit keys (`item_key`) everywhere else. Times are event time in
integer milliseconds since 1970 (UTC); a name that ends in `wall` marks wall-clock time. In the comments of tensors, d
is `Settings.dim` and n the number of items.
"""

from __future__ import annotations

import functools
import hashlib
from enum import IntEnum
from typing import Annotated, ClassVar, Literal

import msgspec

from models.data import event_kinds
from streams.codec import Record, Tensor

LATEST = 1 << 53  # event times and numbers from here up are refused: JSON would round them
RANKED = LATEST  # impressions from here up to twice as much are rankings: each of their clicks is evaluated
_HASHED = 1 << 62  # keys from here up are hashes of names, below they are the numbers themselves


class Kind(IntEnum):
    """The kind of a device's event about an item.

    If all items beside a click of an impression are candidates, the slate is a list made for ranking and is ranked in
    its own order: it was shuffled when it was made.
    """

    EXPOSURE = event_kinds.EXPOSURE  # shown, not clicked
    CLICK = event_kinds.CLICK  # clicked: ranked if drawn for evaluation, and learnt from
    CANDIDATE = event_kinds.CANDIDATE  # on the slate of an impression for ranking only: enters no history and no window
    PAST_CLICK = event_kinds.PAST_CLICK  # clicked before the span under evaluation: enters histories, is never ranked


@functools.lru_cache(maxsize=1 << 18)
def item_key(name: str) -> int:
    """Return the 64-bit key of an item: its number if its name is a canonical decimal below 10^18, else a hash."""
    if name.isdecimal() and name.isascii() and len(name) <= 18 and (name == "0" or name[0] != "0"):
        return int(name)
    return _HASHED | int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 2


class Versions(msgspec.Struct, frozen=True, array_like=True):
    """The release in force and the versions of its three parts."""

    release: int = 0  # version of the release
    encoder: int = 0  # release that last changed the encoder (E and the GRU)
    slow: int = 0  # release that last changed the slow nets
    fast: int = 0  # release that last changed the fast nets


# device-events ------------------------------------------------------------------------------------------------------


class DeviceBatch(Record, frozen=True, tag="batch"):
    """Consecutive events of one user, as columns of equal length. Event i has sequence number `seq + i`.

    With a key, `seq` is ignored: the events follow the user's last ones, and a batch whose key is among the user's last
    keys is a repeat, or refused if its body was another. See streams/state/numbering.py.

    Events of one impression are adjacent and in one batch. A negative impression is an impression group too, but not a
    slate: its exposures were simulated by the replayer.
    """

    user: str  # user's name
    seq: int  # sequence number of the first event, from 0 per user
    items: list[str]  # item names
    kinds: bytes  # one Kind per event
    times: list[int]  # event times, ms
    impressions: list[int]  # impression numbers, 0 if the event belongs to none
    sent_wall: int = 0  # wall clock of sending, ms: for freshness only, never in a digest; 0: unknown (schema 1)
    key: str = ""  # idempotency key of events that their sender did not number
    body: int = 0  # hash of the request's body that came with the key; 0: unknown


class EpochBegin(Record, frozen=True, tag="begin"):
    """Marks the begin of an epoch in this partition."""

    epoch: int  # number of the epoch, from 0
    release: int | None  # version of the release that applies; None: the newest (free-running)
    time: int  # event time reached, ms


class EpochEnd(Record, frozen=True, tag="end"):
    """Marks the end of an epoch in this partition."""

    epoch: int  # number of the epoch
    time: int  # event time reached, ms


class EndOfLog(Record, frozen=True, tag="eol"):
    """Marks the end of the log in this partition."""

    epoch: int  # number of the last epoch
    time: int  # event time reached, ms
    events: int  # events sent to this partition in the whole run


EpochMarker = EpochBegin | EpochEnd | EndOfLog


class GatewayRequest(Record, frozen=True, tag="ask"):
    """Asks a user's device for a ranking, as of all events before it in its partition. Free-running only."""

    id: str  # id of the ranking
    user: str  # user's name
    candidates: list[str]  # item names; empty: the device picks some of the catalogue
    k: int  # number of items of the catalogue that are wanted
    deadline_wall: int  # wall clock after which the gateway no longer waits, ms
    asked_wall: int  # wall clock of the request, ms
    variant: str = "mc2sf"  # whose scores order the items of the whole answer


class Forget(Record, frozen=True, tag="forget"):
    """Deletes a user: device and cloud their rows, the recorder those that it has from each topic."""

    user: str  # user's name
    wall: int  # wall clock of the request, ms


# device-uplink ------------------------------------------------------------------------------------------------------


class NegativeMemory(Record, frozen=True, tag="memory"):
    """r2 of eq. (3): the GRU state over a closed window of exposures of one user."""

    user: str  # user's name
    window: int  # number of the window, from 1 per user
    r2: Tensor  # f4 [d]
    encoder: int  # version of the encoder that computed r2
    size: int  # exposures in the window
    time: int  # event time of the event that closed the window, ms


class ClickUpload(Record, frozen=True, tag="clicks"):
    """The clicks of one user in one epoch, at most the last L_S."""

    user: str  # user's name
    epoch: int  # number of the epoch
    items: Tensor  # i8 [n], item keys, oldest first
    time: int  # event time of the epoch's end, ms


class RankRequest(Record, frozen=True, tag="request"):
    """Asks the cloud for priors and slow scores of the candidates of one click. (user, seq) is the request's id."""

    user: str  # user's name
    seq: int  # sequence number of the click
    candidates: Tensor  # i8 [n], item keys, shuffled
    time: int  # event time of the first event of the click's impression group, ms
    window: int  # number of the window whose r2 the answer must use; 0: none yet
    versions: Versions  # release in force on the device
    epoch: int = 0  # the answer uses the uploads of earlier epochs only, also if the request is repeated later
    item_statistics: bytes = b""  # u1 [n, 3], item statistics of the candidates: see models/data/item_statistics.py
    statistics_epoch: int | None = None  # epoch at whose begin these were counted; None: unknown (sent by version 0.1)
    ranking: str = ""  # id of the ranking that a gateway asked for; then `seq` is the next event's number


# cloud-downlink -----------------------------------------------------------------------------------------------------


class SlowPriors(Record, frozen=True, tag="priors"):
    """The cloud's answer to a RankRequest, in the order of its candidates."""

    user: str  # user's name
    seq: int  # sequence number of the click
    r_t: Tensor  # f2 [n, d], prior of positive interest, eq. (1)
    r_n: Tensor  # f2 [n, d], prior of negative interest, eq. (5)
    din: Tensor  # f4 [n], scores of DIN
    f2s: Tensor  # f4 [n], scores of the slow net with r2 (F2S)
    history: int  # clicks in the uploaded history that was used
    window: int  # number of the window whose r2 was used; 0: zero state
    versions: Versions  # release that was used
    statistics_epoch: int | None = None  # that of the request; None: unknown (sent by version 0.1)
    ranking: str = ""  # that of the request
    history_items: Tensor | None = None  # i8 [history], item keys of the uploaded history; of a gateway's ranking only
    r2: bytes = b""  # f4 [d] that was used, empty: zero; of a gateway's ranking only


# outcomes -----------------------------------------------------------------------------------------------------------


class Outcome(Record, frozen=True, tag="outcome"):
    """The rank of one clicked item among its candidates, by each variant."""

    user: str  # user's name
    seq: int  # sequence number of the click
    epoch: int  # epoch of the click
    time: int  # event time of the first event of the click's impression group, ms
    target: int  # key of the clicked item
    target_index: int  # index of the target among the shuffled candidates: breaks ties
    candidates: Tensor  # i8 [n], item keys, shuffled
    slate: Literal["sampled", "logged"]  # candidates drawn from the known items, or the items shown
    cold: bool  # the target is not in the catalogue, or the catalogue has too few negatives
    expired: bool  # no priors in time (free-running only): din, f2s and mc2sf are missing from `ranks`
    ranks: dict[str, int]  # variant -> rank, from 1
    not_finite: int  # scores that were NaN or infinite and were ranked last
    versions: Versions  # release in force
    window: int  # number of the window whose r2 was used; 0: zero state
    r2_age: int  # event time since that window closed, ms; 0 if there is none
    history: int  # clicks in the uploaded history that was used
    bytes_up: int  # size of the request, bytes
    bytes_down: int  # size of the answer, bytes
    asked_wall: int = 0  # wall clock of the request, ms
    answered_wall: int = 0  # wall clock of the answer, ms
    statistics_epoch: int | None = None  # epoch at whose begin the item statistics were counted; None: unknown


# rankings -----------------------------------------------------------------------------------------------------------


class Ranking(Record, frozen=True, tag="ranking"):
    """A device's answer to a GatewayRequest, with all inputs of its scores.

    The fast part's answer comes at once, the whole one when the cloud has answered.
    """

    id: str  # id of the ranking
    user: str  # user's name
    degraded: bool  # by the fast part alone: the cloud had not answered yet
    variant: str  # the variant whose scores order the items
    items: Tensor  # i8 [n], item keys of the candidates
    names: list[str]  # their names [n], if the request named them
    k: int  # number of the items that are wanted
    scores: dict[str, Tensor]  # variant -> f4 [n]
    clicks: Tensor  # i8 [<= L_F], the device's short history of clicks, oldest first
    exposures: Tensor  # i8 [<= L_F], that of exposures
    history: Tensor  # i8 [<= L_S], the uploaded clicks that the cloud used
    window: int  # number of the window whose r2 was used; 0: none
    r2: bytes  # f4 [d], empty: zero
    item_statistics: bytes  # u1 [n, 3], item statistics of `items`
    statistics_epoch: int  # epoch at whose begin these were counted
    versions: Versions  # release in force
    epoch: int  # epoch of the request: the history has the uploads of earlier ones
    seq: int  # the user's events before this number are in the histories
    offset: int  # offset of the request on device-events: the events before it in the partition were applied
    time: int  # event time of the user's last event, ms; 0: none
    closed: int  # event time at which the window closed, ms
    uploaded: int  # event time of the last upload of clicks, ms; 0: none
    not_uploaded: int  # clicks of the user that the cloud does not know yet
    asked_wall: int  # wall clock of the request, ms
    answered_wall: int  # wall clock of this answer, ms


# fast-examples ------------------------------------------------------------------------------------------------------


EXAMPLE_NEGATIVES = 4


class FastExample(Record, frozen=True, tag="example"):
    """One online training example of the fast nets. Row 0 of `items` is the click, the others are negatives."""

    user: str  # user's name
    seq: int  # sequence number of the click
    epoch: int  # epoch of the click
    time: int  # event time of the first event of the click's impression group, ms
    clicks: Tensor  # i8 [<= L_F], item keys, oldest first
    exposures: Tensor  # i8 [<= L_F], item keys, oldest first
    items: Tensor  # i8 [1 + 4], item keys
    r_t: Tensor  # f2 [1 + 4, d], prior of positive interest
    r_n: Tensor  # f2 [1 + 4, d], prior of negative interest
    versions: Versions  # release in force
    item_statistics: bytes = b""  # u1 [1 + 4, 3], item statistics of `items`
    f2s: Tensor | None = None  # f4 [1 + 4], scores of the slow net with r2; None: zeros (sent by version 0.1)


# dead-letters ----------------------------------------------------------------------


class DeadLetter(Record, frozen=True, tag="dead"):
    """A record that a processor refused."""

    topic: str  # topic of the record, without the run prefix
    partition: int  # partition of the record
    offset: int  # offset of the record
    key: bytes  # its key
    value: bytes  # its value
    reason: str  # why it was refused
    role: str  # the processor that refused it
    envelope_index: int = 0  # index of the record in its envelope


class Envelope(Record, frozen=True, tag="records"):
    """Records of one partition, in order: see streams/kafka/envelope.py. Epoch markers are in none."""

    first_byte: ClassVar[bytes] = b"\x03"
    records: Annotated[list[tuple[bytes, bytes]], msgspec.Meta(min_length=1)]  # key and value of each


DeviceEvent = DeviceBatch | GatewayRequest | Forget | EpochBegin | EpochEnd | EndOfLog
Uplink = NegativeMemory | ClickUpload | RankRequest | Forget | EpochEnd | EndOfLog
OutcomeEvent = Outcome | Forget | EpochEnd | EndOfLog
RankingEvent = Ranking | Forget
ExampleEvent = FastExample | EpochEnd | EndOfLog
