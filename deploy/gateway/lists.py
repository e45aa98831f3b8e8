"""Events on ranked lists: a click that names its ranking implies exposures of the other items of the list."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from deploy.gateway.api.bodies import BodyError, Event
from streams.codec import RecordError
from streams.kafka.message import check_batch
from streams.records import RANKED, DeviceBatch, Kind


class PlainEvent(NamedTuple):
    """One event of a DeviceBatch."""

    item: str
    kind: int
    time: int  # ms
    impression: int


def ranking_impression(ranking: str) -> int:
    """Return the impression number of the ranking with this id."""
    return RANKED + int.from_bytes(hashlib.blake2b(ranking.encode(), digest_size=8).digest(), "little") % RANKED


Shown = Callable[[str], Sequence[str] | None]  # the list of a ranking by its id; None: not known


def batch_of(
    user: str,
    numbered: int | str,
    events: Sequence[Event],
    wall_ms: int,
    shown: Shown,
    *,
    seen: bool = False,
    body: int = 0,
) -> DeviceBatch:
    """Return the record of a user's events. `numbered`: sequence number of the first one, or their idempotency key.

    `body` is the hash of the request's body that came with the key, 0 if there was none.

    Exposures of the items of a ranking that were not clicked are added before its clicks, unless the events have an
    exposure on that ranking themselves. If the items were `seen` in earlier events, they are added as candidates only.
    Raises BodyError.
    """
    plain = list(_with_lists(_timed(events, wall_ms), shown, Kind.CANDIDATE if seen else Kind.EXPOSURE))
    batch = DeviceBatch(
        user=user,
        seq=numbered if isinstance(numbered, int) else 0,
        items=[event.item for event in plain],
        kinds=bytes(event.kind for event in plain),
        times=[event.time for event in plain],
        impressions=[event.impression for event in plain],
        sent_wall=wall_ms,
        key=numbered if isinstance(numbered, str) else "",
        body=body,
    )
    try:
        check_batch(batch)
    except RecordError as error:
        raise BodyError(str(error)) from error
    return batch


def _timed(events: Sequence[Event], wall_ms: int) -> Iterator[tuple[int, Event, int]]:
    """Yield the events with their indices and times, none later than now. Raises BodyError if the times decrease."""
    last = 0
    for i, event in enumerate(events):
        time = max(wall_ms, last) if event.time is None else event.time
        if time < last:
            raise BodyError(f"earlier than the event before it - at `$.events[{i}].time`")
        yield i, event, min(time, wall_ms)
        last = time


def _with_lists(events: Iterable[tuple[int, Event, int]], shown: Shown, rest: Kind) -> Iterator[PlainEvent]:
    for ranking, group in groupby(events, key=lambda each: each[1].ranking):
        some = list(group)
        if ranking is not None:
            yield from _of_ranking(ranking, some, shown(ranking), rest)
        else:
            for _, event, time in some:
                yield PlainEvent(event.item, Kind[event.kind.upper()], time, event.impression)


def _of_ranking(
    ranking: str, events: list[tuple[int, Event, int]], listed: Sequence[str] | None, rest: Kind
) -> Iterator[PlainEvent]:
    """Yield the events of a ranking, given with their indices in the body."""
    (first, _, began), impression = events[0], ranking_impression(ranking)
    if listed is None:
        raise BodyError(f"no ranking of this user, or not known any more - at `$.events[{first}].ranking`")
    for i, event, _ in events:
        if event.item not in listed:
            raise BodyError(f"the ranking has no such item - at `$.events[{i}].item`")
        if event.impression:
            raise BodyError(f"a ranking is an impression itself - at `$.events[{i}].impression`")
    if all(event.kind == "click" for _, event, _ in events):
        clicked = {event.item for _, event, _ in events}
        for item in sorted(listed) if rest is Kind.CANDIDATE else listed:  # candidates are ranked in their own order
            if item not in clicked:
                yield PlainEvent(item, rest, began, impression)
    for _, event, time in events:
        yield PlainEvent(event.item, Kind[event.kind.upper()], time, impression)
