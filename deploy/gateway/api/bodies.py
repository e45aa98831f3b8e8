"""Bodies of requests and answers as structs, so that an error names the field. Pure.

The OpenAPI document is made from them: a docstring is the description of its schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Meta

from streams.prequential.served import SERVABLE, By
from streams.records import LATEST

MAX_BODY = 256 * 1024  # bytes
MAX_EVENTS, MAX_CANDIDATES, MAX_NAME = 500, 1000, 256

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, pattern="^[^\\x00]*$")]  # PostgreSQL stores no NUL
Number = Annotated[int, Meta(ge=0, lt=LATEST)]
TopK = Annotated[int, Meta(ge=1, le=MAX_CANDIDATES)]


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An event of a device. `exposure`: shown and not clicked.

    `time` is event time, ms since 1970; default: now. Items of one impression have the same number `impression`; 0:
    none. An item on the list of a ranking has its id in `ranking` instead.
    """

    item: Name
    kind: Literal["click", "exposure"]
    time: Number | None = None
    impression: Number = 0
    ranking: Name | None = None


class Events(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Consecutive events of one user. All events of an impression or a ranking are in one body.

    `seq` is the number of the first one, if the device numbers its events: each user's from 0.
    """

    events: Annotated[list[Event], Meta(min_length=1, max_length=MAX_EVENTS)]
    seq: Number | None = None


class EventsAnswer(msgspec.Struct, frozen=True):
    """The events are on Kafka. `next_seq`: number of the user's next event, if the device numbers them."""

    user: str
    accepted: int
    next_seq: int | None
    idempotency_key: str | None


class Candidates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Items to be ranked for a user.

    `k`: how many of them will be shown; default: all. `variant`: whose scores order them; default: the one served.
    """

    candidates: Annotated[list[Name], Meta(min_length=1, max_length=MAX_CANDIDATES)]
    k: TopK = MAX_CANDIDATES
    variant: By | None = None


class RankedItem(msgspec.Struct, frozen=True):
    """An item of a ranking, with its score by the variant (a logit)."""

    item: str
    score: float


class RankingAnswer(msgspec.Struct, frozen=True):
    """A ranking, best first. Ages are in ms; null: there is no such data.

    `ranking` is its id, to be named by a click on one of its items. `degraded`: by the fast part alone, because the
    cloud was late. The user's events before `next_seq` were known. `r2_age` is the time since the window of exposures
    closed whose r2 was used, `history_age` that since the user's clicks were last uploaded to the cloud; `history` are
    the uploaded clicks that were used, `not_uploaded` those that only the device knows yet.
    """

    ranking: str
    user: str
    items: list[RankedItem]
    release: int
    variant: str
    degraded: bool
    next_seq: int
    r2_age: int | None
    history_age: int | None
    history: int
    not_uploaded: int


class DeviceAnswer(msgspec.Struct, frozen=True):
    """A user's state on the device at the end of an epoch: short histories, and windows of exposures."""

    epoch: int
    clicks: list[str]
    exposures: list[str]
    not_uploaded: list[str]
    window: int
    open_exposures: int


class CloudAnswer(msgspec.Struct, frozen=True):
    """A user's state on the cloud at the end of an epoch: uploaded clicks, and windows whose r2 is kept."""

    epoch: int
    history: list[str]
    windows: list[int]


class UserAnswer(msgspec.Struct, frozen=True):
    """A user's state as recorded last. `next_seq`: number of the next event after the recorded ones."""

    user: str
    next_seq: int
    device: DeviceAnswer | None
    cloud: CloudAnswer | None


class ForgetAnswer(msgspec.Struct, frozen=True):
    """The request to forget the user is on Kafka.

    States and tables follow at the end of the epoch. Records that Kafka has by now expire up to `topics_until` (ms).
    """

    user: str
    topics_until: int


class ReleaseAnswer(msgspec.Struct, frozen=True):
    """A release, trained after `epoch` on events up to `trained_until` (ms); `gate`: the figures that were compared."""

    version: int
    parent: int
    kind: str
    epoch: int
    trained_until: int
    gate: dict[str, float | str | None]


class ReleasesAnswer(msgspec.Struct, frozen=True):
    """The published releases, newest first."""

    releases: list[ReleaseAnswer]


class ItemAnswer(msgspec.Struct, frozen=True):
    """An item as of the end of `epoch`. `first_epoch`: in which it was first seen; null: never."""

    item: str
    epoch: int
    clicks: int
    clicks_of_epoch: int
    first_epoch: int | None
    in_catalogue: bool


class ErrorAnswer(msgspec.Struct, frozen=True):
    """A sentence about what is wrong, which names the field if there is one."""

    error: str


class HealthAnswer(msgspec.Struct, frozen=True):
    """The gateway runs."""

    status: Literal["ok"] = "ok"


class BodyError(ValueError):
    """A body is not acceptable; the message names the field."""


def check_path(raw: bytes) -> None:
    """Raise BodyError unless a path is UTF-8: replaced characters would make different users one."""
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise BodyError("the path is not UTF-8") from error


def check_candidates(candidates: Sequence[str], field: str = "candidates") -> None:
    """Raise BodyError if an item is there twice. `field`: the one of the body that has them."""
    if len(set(candidates)) < len(candidates):
        twice = next(item for item in candidates if candidates.count(item) > 1)
        raise BodyError(f"item {twice!r} is there twice - at `$.{field}`")


def check_user(user: str) -> None:
    """Raise BodyError if `user` can't be one. A slash would end the name in a path."""
    if not 0 < len(user) <= MAX_NAME or "/" in user or not user.isprintable():
        raise BodyError(f"user: 1 to {MAX_NAME} printable characters, no slash")


def variant_of(name: str | None) -> By | None:
    """Return the variant of this name; None for None. Raises BodyError."""
    if name is None:
        return None
    for variant in SERVABLE:
        if variant == name:
            return variant
    raise BodyError(f"variant: one of {', '.join(SERVABLE)}")
