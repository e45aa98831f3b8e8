"""Bodies of requests and answers as structs, so that an error names the field. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from streams.codec import RecordError
from streams.kafka.message import check_batch
from streams.records import LATEST, DeviceBatch, Kind

MAX_BODY = 256 * 1024  # bytes
MAX_EVENTS, MAX_CANDIDATES, MAX_NAME = 500, 1000, 256

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Number = Annotated[int, Meta(ge=0, lt=LATEST)]


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An event of a device."""

    item: Name
    kind: Literal["click", "exposure"]  # exposure: shown and not clicked
    time: Number  # event time, ms since 1970
    impression: Number = 0  # number of the impression, the same for all its items; 0: none


class Events(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Consecutive events of one user. `seq` is the number of the first one: each user's events are numbered from 0.

    Sent again, an event is applied once. All events of an impression are in one body.
    """

    seq: Number
    events: Annotated[list[Event], Meta(min_length=1, max_length=MAX_EVENTS)]

    def batch(self, user: str, wall_ms: int) -> DeviceBatch:
        """Return the record for Kafka. Raises BodyError."""
        events = self.events
        batch = DeviceBatch(
            user=user,
            seq=self.seq,
            items=[event.item for event in events],
            kinds=bytes([Kind[event.kind.upper()] for event in events]),
            times=[event.time for event in events],
            impressions=[event.impression for event in events],
            sent_wall=wall_ms,
        )
        for i in range(1, len(events)):
            if events[i].time < events[i - 1].time:
                raise BodyError(f"earlier than the event before it - at `$.events[{i}].time`")
        try:
            check_batch(batch)
        except RecordError as error:
            raise BodyError(str(error)) from error
        return batch


class Candidates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Items to be ranked for a user."""

    candidates: Annotated[list[Name], Meta(min_length=1, max_length=MAX_CANDIDATES)]


class BodyError(ValueError):
    """A body is not acceptable; the message names the field."""


def check_user(user: str) -> None:
    """Raise BodyError if `user` can't be one."""
    if not 0 < len(user) <= MAX_NAME or "\0" in user or not user.isprintable():
        raise BodyError(f"user: 1 to {MAX_NAME} printable characters")
