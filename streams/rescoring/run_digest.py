"""The digest of a run: SHA-256 over its results. Equal digests mean equal outcomes, states and releases.

It covers the outcomes in total order, the newest device and cloud state of each user, and the releases; no wall-clock
times, names of runs or orders of arrival. It is comparable on one CPU family and torch version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from streams.codec import Reader
from streams.database import schema
from streams.release_records import Manifest

_EXCLUDED = {"run", "asked_wall", "answered_wall", "recorded_wall"}
_RELEASE = ("version", "parent", "kind", "versions", "epoch", "trained_until", "items", "embeddings", "parts")
_manifests: Reader[Manifest] = Reader(Manifest)
_CHUNK = 1000  # rows
_order_free = msgspec.msgpack.Encoder(order="deterministic")


def digest(connection: Connection, run: str) -> str:
    """Return the digest of `run` from its tables, in hex."""
    total = hashlib.sha256()
    for rows in (_outcomes(connection, run), _states(connection, run), _releases(connection, run)):
        part = hashlib.sha256()
        for row in rows:
            part.update(_order_free.encode(row))
        total.update(part.digest())
    return total.hexdigest()


def _outcomes(connection: Connection, run: str) -> Iterator[tuple[object, ...]]:
    """Yield the outcomes in total order."""
    o = schema.outcomes.c
    names = sorted(column.name for column in o if column.name not in _EXCLUDED)
    query = sa.select(*(o[name] for name in names)).where(o.run == run)
    yield from _read(connection, query.order_by(o.time, _by_code_point(connection, o.user), o.seq))


def _states(connection: Connection, run: str) -> Iterator[tuple[object, ...]]:
    u = schema.user_snapshots.c
    query = sa.select(u.side, u.user, u.state).where(u.run == run)
    rows = _read(connection, query.order_by(u.side, _by_code_point(connection, u.user)))
    yield from ((side, user, bytes(state)) for side, user, state in rows)


def _read(connection: Connection, query: sa.Select[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows; not all are in memory at once, as there may be millions of users."""
    with connection.execute(query, execution_options={"yield_per": _CHUNK}) as rows:
        yield from map(tuple, rows)


def _by_code_point(connection: Connection, column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """Return `column` with the order of code points, since databases disagree on the order of text."""
    return sa.collate(column, "C" if connection.dialect.name == "postgresql" else "BINARY")


def _releases(connection: Connection, run: str) -> Iterator[tuple[object, ...]]:
    r = schema.releases.c
    query = sa.select(r.manifest).where(r.run == run).order_by(r.version)
    for data in connection.execute(query).scalars():
        manifest = _manifests.decode(data)
        yield tuple(getattr(manifest, name) for name in _RELEASE)
