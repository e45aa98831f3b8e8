"""The exposure policy `plugin`: a user's own policy adds exposures before each click of a log without exposures.

As with `simulated` they are in one impression group with the click. The policy is called for all clicks of a group
before it learns any of them, so it knows the past only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from random import Random
from typing import NamedTuple, cast

import pyarrow as pa

from replay.errors import InvalidError, SourceError, shown
from replay.prepare import impression_groups
from replay.prepare.logged_impressions import GROUP_EVENTS
from replay.sources import columns
from replay.sources.schema import BATCH, POSITIONED, ROWS
from streams.plugins.laws import call
from streams.plugins.plugin import Plugin, PluginError, load
from streams.plugins.protocols import ExposurePolicy
from streams.records import Kind

MAX_EXPOSURES = 100  # exposures per click
FIRST = 1000  # number of groups for which the policy is called twice, to check that it is repeatable


class _Event(NamedTuple):
    """A row of a sorted log, with the number of its impression group."""

    user: str
    item: str
    time: int
    kind: int
    group: int


def plugin_exposures(path: Path, rows: int, seed: int, text: str, plugin: Plugin) -> Iterator[pa.RecordBatch]:
    """Yield the first `rows` rows of a sorted log with exposures added, as batches with a column `position`.

    Raises SourceError if the log already has exposures, PluginError if the policy breaks a law.
    """
    twice = [list(islice(_with_exposures(path, rows, seed, text, plugin), FIRST)) for _ in range(2)]
    if twice[0] != twice[1]:
        raise PluginError(f"{plugin}: called again for the same clicks, it shows other items")
    events = (event for group in _with_exposures(path, rows, seed, text, plugin) for event in group)
    written = 0
    while batch := list(islice(events, BATCH)):
        user, item, time, kind, group = zip(*batch, strict=True)
        values = (user, item, time, kind, [-1 - n for n in group], range(written, written + len(batch)))
        arrays = [pa.array(column, f.type) for column, f in zip(values, POSITIONED, strict=True)]
        yield pa.record_batch(arrays, schema=POSITIONED)
        written += len(batch)


def _with_exposures(path: Path, rows: int, seed: int, text: str, plugin: Plugin) -> Iterator[list[_Event]]:
    """Yield the events of each impression group, each click after its exposures."""
    policy = cast(ExposurePolicy, call(plugin, load(plugin)))  # type: ignore[arg-type]  # no class: it can't be called
    for name in ("shown", "learn"):
        if not callable(getattr(policy, name, None)):
            raise PluginError(f"{plugin} has no method {name}")
    for number, of_group in groupby(islice(_events(path), rows), lambda event: event.group):
        group, with_exposures = list(of_group), []
        for n, event in enumerate(group):
            if event.kind == Kind.EXPOSURE:
                raise SourceError(f"{text}: exposures can't be added, the log has its own: use the policy logged")
            if event.kind == Kind.CLICK:
                shown = _shown(plugin, policy, event, _random(seed, number + n))
                with_exposures += [event._replace(item=item, kind=Kind.EXPOSURE) for item in shown]
            with_exposures.append(event)
        if len(with_exposures) > GROUP_EVENTS:
            raise PluginError(f"{plugin}: {len(with_exposures):,} events in one impression of user {group[0].user!r}")
        yield with_exposures
        for event in group:
            call(plugin, policy.learn, event.user, event.item, event.time)


def _shown(plugin: Plugin, policy: ExposurePolicy, click: _Event, random: Random) -> list[str]:
    """Return the items shown before a click, without repeats and without the clicked one. Raises PluginError."""
    items = call(plugin, policy.shown, click.user, click.time, random)
    if not isinstance(items, list | tuple) or len(items) > MAX_EXPOSURES:
        raise PluginError(f"{plugin}: shown returns {shown(items)}: a list of at most {MAX_EXPOSURES} items is needed")
    try:
        names = dict.fromkeys(columns.name("item", item) for item in items)
    except InvalidError as error:
        raise PluginError(f"{plugin}: {error}") from error
    return [name for name in names if name != click.item]


def _random(seed: int, position: int) -> Random:
    digest = hashlib.blake2b(f"exposures\0{seed}\0{position}".encode(), digest_size=16).digest()
    return Random(int.from_bytes(digest, "little"))  # noqa: S311 - no secret


def _events(path: Path) -> Iterator[_Event]:
    """Yield the rows of a sorted log; a group is numbered by the position of its first event."""
    before, position, group = None, 0, 0
    for batch in impression_groups.read_batches(path, ROWS.names):
        starts = impression_groups.group_starts(batch, before)
        values = (batch[name].to_pylist() for name in ("user", "item", "time", "kind"))
        for start, *event in zip(starts.tolist(), *values, strict=True):
            group = position if start else group
            yield _Event(event[0], event[1], event[2], event[3], group)
            position += 1
        before = impression_groups.last_key(batch)
