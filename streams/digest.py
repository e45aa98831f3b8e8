"""The digest of a run: one number that is equal for the same log, seed and settings, whatever the speed or the crashes.

It covers the outcomes in total order, the final state of every device and of the cloud, and the releases. Left out is
what isn't a function of those: wall clocks, and how far a topic had been read when a release was made, which repeats
after a crash move. It holds for one CPU family and one version of torch; the run's row names both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from streams.records import Manifest, Reader
from streams.tables import outcomes, releases, user_snapshots

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_manifests: Reader[Manifest] = Reader(Manifest)


def digest(connection: Connection, run: str) -> str:
    """SHA-256 of what `run` came to, in hexadecimal."""
    total = hashlib.sha256()
    for part in (_outcomes, _states, _releases):
        for row in part(connection, run):
            total.update(_encoder.encode(row))
    return total.hexdigest()


def _outcomes(connection: Connection, run: str) -> Iterator[list[Any]]:
    columns = [c for c in outcomes.columns if c.name != "run" and not c.name.endswith("_wall")]
    query = sa.select(*columns).where(outcomes.c.run == run).order_by(outcomes.c.epoch)
    rows = connection.execution_options(yield_per=1000).execute(query)
    for _, group in groupby(rows, attrgetter("epoch")):
        yield from map(list, sorted(group, key=attrgetter("time", "user", "seq")))


def _states(connection: Connection, run: str) -> Iterator[list[Any]]:
    """The newest state of each user, side by side."""
    u = user_snapshots.c
    newest = sa.select(u.side, u.user, sa.func.max(u.epoch).label("epoch")).where(u.run == run)
    last = newest.group_by(u.side, u.user).subquery()
    same = (u.side == last.c.side) & (u.user == last.c.user) & (u.epoch == last.c.epoch)
    rows = connection.execute(sa.select(u.side, u.user, u.state).join(last, same).where(u.run == run))
    yield from map(list, sorted(rows, key=itemgetter(0, 1)))


def _releases(connection: Connection, run: str) -> Iterator[list[Any]]:
    r = releases.c
    for manifest in connection.execute(sa.select(r.manifest).where(r.run == run).order_by(r.version)).scalars():
        record = msgspec.structs.replace(_manifests.decode(manifest), offsets={})
        yield [hashlib.sha256(_encoder.encode(record)).hexdigest()]
