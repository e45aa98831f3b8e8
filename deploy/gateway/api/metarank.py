"""Metarank's formats of events and rankings, so that its clients can use this gateway. Pure.

Fields without a meaning here (`fields`, `relevancy`, `label`, `session` beside a user) are accepted and ignored.
Format: doc/api.md and doc/event-schema.md of github.com/metarank/metarank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from deploy.gateway.api.bodies import MAX_CANDIDATES, MAX_EVENTS, BodyError, Event, Name, RankingAnswer
from replay.errors import InvalidError
from replay.times import MS
from replay.values.times import Times
from streams.records import LATEST

Timestamp = int | Annotated[str, Meta(max_length=40)]  # ms since 1970, or ISO 8601


class Item(msgspec.Struct, frozen=True):
    """An item of a ranking."""

    id: Name


class Feedback(msgspec.Struct, frozen=True):
    """An event of the user or, if that is missing, of the session."""

    event: Literal["item", "user", "ranking", "interaction"]
    id: Name
    timestamp: Timestamp
    user: Name | None = None
    session: Name | None = None
    item: Name | None = None
    items: Annotated[list[Item], Meta(max_length=MAX_EVENTS)] = []
    type: str = ""
    ranking: Name | None = None


FEEDBACKS: msgspec.json.Decoder[Feedback | list[Feedback]] = msgspec.json.Decoder(
    Feedback | Annotated[list[Feedback], Meta(max_length=MAX_EVENTS)]
)


class FeedbackAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """The number of events that were processed."""

    accepted: int
    status: str
    took_millis: int
    updated: int = 0


class Rank(msgspec.Struct, frozen=True):
    """A request for a ranking."""

    id: Name
    timestamp: Timestamp
    items: Annotated[list[Item], Meta(min_length=1, max_length=MAX_CANDIDATES)]
    user: Name | None = None
    session: Name | None = None


RANK = msgspec.json.Decoder(Rank)


class ScoredItem(msgspec.Struct, frozen=True):
    """An item with its score."""

    item: str
    score: float


class RankAnswer(msgspec.Struct, frozen=True):
    """The items, best first. `ranking` is the id to be named by clicks here; Metarank has no such field."""

    took: int
    items: list[ScoredItem]
    ranking: str


def owner(found: Feedback | Rank) -> str:
    """Return the user, or else the session, of an event or a ranking. Raises BodyError."""
    user = found.user or found.session
    if user is None:
        raise BodyError("neither user nor session - at `$.user`")
    return user


def time_of(timestamp: Timestamp) -> int:
    """Return event time in ms. Raises BodyError."""
    try:
        return Times(options=False).ns(timestamp) // MS
    except InvalidError as error:
        raise BodyError(f"{error.reason}: {error.detail} - at `$.timestamp`") from error


def ranking_id(user: str, request: str) -> str:
    """Return this gateway's id of a ranking: Metarank's clients choose ids that are unique per user only."""
    return hashlib.blake2b(f"{user}\0{request}".encode(), digest_size=12).hexdigest()


def events(found: Feedback, known: Callable[[str], bool]) -> list[Event]:
    """Return the clicks and exposures of a feedback; none for feedback of other kinds. Raises BodyError.

    `known` returns True for the id of a ranking of this gateway: a click that names it is a click on its list.
    """
    if found.event == "ranking":
        time = time_of(found.timestamp)
        return [Event(item.id, "exposure", time, _impression(found.id)) for item in found.items]
    if found.event != "interaction" or found.type != "click":
        return []
    if found.item is None:
        raise BodyError("a click needs an item - at `$.item`")
    ranking = None if found.ranking is None else ranking_id(owner(found), found.ranking)
    if ranking is not None and known(ranking):
        return [Event(found.item, "click", time_of(found.timestamp), ranking=ranking)]
    return [Event(found.item, "click", time_of(found.timestamp), _impression(found.ranking))]


def _impression(request: str | None) -> int:
    digest = hashlib.blake2b((request or "").encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % LATEST if request else 0


def answered(ranking: RankingAnswer, took: int) -> RankAnswer:
    """Return a ranking in Metarank's format."""
    return RankAnswer(took, [ScoredItem(each.item, each.score) for each in ranking.items], ranking.ranking)
