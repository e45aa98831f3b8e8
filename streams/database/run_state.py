"""The state of a run: the epochs recorded and decided, and the release in force."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import Connection

from streams.database.schema import decisions, interactions, items, progress, releases
from streams.release_records import EpochDecision

# Statements of every look of a waiting process are made once: to make one costs more than to execute it.
_RUN: sa.BindParameter[str] = sa.bindparam("run")
_RECORDED = sa.select(progress.c.epoch, progress.c.over).where(
    (progress.c.run == _RUN) & (progress.c.role == "recorder")
)
_DECISION = sa.select(decisions.c.epoch, decisions.c.release, decisions.c.outcome, decisions.c.reason).where(
    (decisions.c.run == _RUN) & (decisions.c.epoch == sa.bindparam("epoch"))
)
_LAST_DECIDED = sa.select(sa.func.max(decisions.c.epoch)).where(decisions.c.run == _RUN)
_ACTIVE = sa.select(sa.func.max(releases.c.version)).where((releases.c.run == _RUN) & releases.c.published)


def recorded(connection: Connection, run: str) -> tuple[int, bool] | None:
    """Return the last epoch that the recorder wrote, and True if the log is over; None before the first epoch."""
    row = connection.execute(_RECORDED, {"run": run}).one_or_none()
    return (row.epoch, row.over) if row else None


def forgotten(connection: Connection, run: str) -> int | None:
    """Return the last epoch in which a user was forgotten; None if nobody was."""
    return _of_recorder(connection, run, progress.c.forgotten)


def forgotten_users(connection: Connection, run: str) -> int:
    """Return how often a user was forgotten."""
    return _of_recorder(connection, run, progress.c.forgotten_users) or 0


def trimmed(connection: Connection, run: str) -> int | None:
    """Return the event time before which outcomes were deleted, ms; None if none were."""
    return _of_recorder(connection, run, progress.c.trimmed)


def _of_recorder(connection: Connection, run: str, column: sa.Column[int]) -> int | None:
    """Return a column of the recorder's progress; None before it has begun."""
    query = sa.select(column).where((progress.c.run == run) & (progress.c.role == "recorder"))
    return connection.execute(query).scalar_one_or_none()


def all_recorded(connection: Connection, run: str) -> bool:
    """Return True if the recorder wrote the log to its end."""
    found = recorded(connection, run)
    return found is not None and found[1]


def last_decision(connection: Connection, run: str) -> EpochDecision | None:
    """Return the decision of the newest decided epoch; None before the first."""
    newest = connection.execute(_LAST_DECIDED, {"run": run}).scalar()
    return None if newest is None else decision(connection, run, newest)


def decision(connection: Connection, run: str, epoch: int) -> EpochDecision | None:
    """Return the decision of `epoch`; None while there is none."""
    row = connection.execute(_DECISION, {"run": run, "epoch": epoch}).one_or_none()
    return EpochDecision(row.epoch, row.release, row.outcome, row.reason) if row else None


def active_release(connection: Connection, run: str) -> int | None:
    """Return the version of the newest published release, which is the one in force; None before release 0."""
    return connection.execute(_ACTIVE, {"run": run}).scalar()


def events_of(run: str, user: str) -> sa.ColumnElement[bool]:
    """Return the condition for a user's rows of `interactions`: looked up epoch by epoch, as in their key."""
    i = interactions.c
    last = sa.select(sa.func.max(i.epoch)).where(i.run == run).scalar_subquery()
    epochs = sa.select(sa.literal(0).label("epoch")).cte("epochs", recursive=True, nesting=True)
    epochs = epochs.union_all(sa.select(epochs.c.epoch + 1).where(epochs.c.epoch < last))
    return (i.run == run) & i.epoch.in_(sa.select(epochs.c.epoch)) & (i.user == user)


def item_names(connection: Connection, run: str, keys: Sequence[int] | None = None) -> dict[int, str]:
    """Return the names of the items of the run, or of those in `keys`, by key and in its order."""
    t = items.c
    query = sa.select(t.item, t.name).where(t.run == run).order_by(t.item)
    rows = connection.execute(query if keys is None else query.where(t.item.in_(keys)))
    return {row.item: row.name for row in rows}
