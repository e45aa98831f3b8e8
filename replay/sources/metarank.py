"""Reader of Metarank's events: rankings are impressions, interactions of type `click` are clicks in them.

Other interactions and the events that describe items and users are left out and counted. A click of no ranking has no
impression.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from replay.errors import InvalidError, RowError, RowErrors, shown
from replay.sources import columns
from replay.sources.schema import Row, batches
from replay.sources.text.containers import Parts
from replay.sources.text.lines import lines
from replay.times import MS
from replay.values.times import Times
from streams.records import Kind
from streams.settings import Exposures

LEFT_OUT = ("item", "user", "interaction")


def metarank(log: Parts, _policy: Exposures, errors: RowErrors) -> Iterator[pa.RecordBatch]:
    """Yield batches of events from JSON lines; bad lines go to `errors`."""
    log.report(errors)
    for path in log.files:
        yield from batches(_rows(path, errors), errors)


def _rows(path: Path, errors: RowErrors) -> Iterator[Row]:
    for number, line in lines(path, errors):
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict):
                raise InvalidError("not a JSON object", shown(line))
            rows = _events(fields)
        except (ValueError, RecursionError) as error:
            bad = error if isinstance(error, InvalidError) else InvalidError("not JSON", str(error))
            errors.add(RowError(path, number, bad.reason, bad.detail))
            continue
        if not rows:
            errors.left_out["events that are no ranking and no click"] += 1
        yield from rows


def _events(fields: dict[str, object]) -> list[Row]:
    """Return the events of an object, none if it describes an item or a user. Raises InvalidError."""
    event = fields.get("event")
    if event not in {"ranking", *LEFT_OUT}:
        raise InvalidError("unknown event kind", shown(event))
    if event != "ranking" and (event != "interaction" or fields.get("type") != "click"):
        return []
    missing = [name for name in ("timestamp", "items" if event == "ranking" else "item") if name not in fields]
    if missing:
        raise InvalidError("wrong columns", f"there is no {', '.join(missing)}")
    user = fields.get("user") or fields.get("session")  # the user is optional there
    name, time = columns.name("user", user), Times(options=False).ns(fields["timestamp"]) // MS
    if event == "interaction":
        impression = columns.impression(fields.get("ranking"))
        return [(name, columns.name("item", fields["item"]), time, Kind.CLICK, impression)]
    items = fields["items"]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InvalidError("items is no list of objects", shown(items))
    impression = columns.impression(fields.get("id"))
    return [(name, columns.name("item", item.get("id")), time, Kind.EXPOSURE, impression) for item in items]
