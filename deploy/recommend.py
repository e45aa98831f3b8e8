"""Recommendations for a user: the whole catalogue, ranked by the variant that is served."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from deploy.report.measurements import online, served_now
from deploy.runs import FoundRun
from deploy.user_error import UserError
from models.data.event_kinds import CLICK_KINDS, EXPOSURE
from models.data.views import View, view
from streams.database import run_state, schema
from streams.model_config import view_spec
from streams.prequential.served import By
from streams.releases.item_statistics import statistics_after
from streams.releases.release import Release, read_release


class Suggestion(NamedTuple):
    """The name of an item, and its logit; by popularity, its clicks."""

    item: str
    score: float


class Recommendation(NamedTuple):
    """The best items by variant `by` and `release`, given all events up to the end of `epoch`."""

    by: By
    items: list[Suggestion]
    release: int
    epoch: int


def recommend(found: FoundRun, user: str, k: int, release: int | None = None, by: By | None = None) -> Recommendation:
    """Return the k best items of the catalogue for `user`, without those clicked before.

    Before the first trained release the catalogue is the items seen so far.

    `release` defaults to the newest one, `by` to the variant that is served. Raises UserError if the user is unknown or
    there is no release yet, ReleaseError if the release is unknown or incomplete.
    """
    run, settings = found.settings.run, found.settings
    with found.engine.connect() as connection:
        by = by or variant_to_serve(connection, run)
        i = schema.interactions.c
        own = run_state.events_of(run, user)
        events = connection.execute(sa.select(i.item, i.kind).where(own).order_by(i.seq)).all()
        if not events:
            raise UserError(f"no events of user {user!r} in run {run}")
        if release is None:
            release = run_state.active_release(connection, run)
        if release is None:
            raise UserError(f"run {run} has no release yet")
        whole = read_release(connection, run, release)
        scorer, catalogue = whole.scorer, whole.catalogue
        m = schema.negative_memories.c
        windows = sa.select(m.window, m.size).where(m.run == run, m.user == user).distinct()
        sizes = {row.window: row.size for row in connection.execute(windows)}
        clicks = np.array([e.item for e in events if e.kind in CLICK_KINDS], np.int64)
        shown = np.array([e.item for e in events if e.kind == EXPOSURE], np.int64)
        window = max(sizes, default=0)
        open_count = len(shown) - sum(sizes.values())
        seen = view(clicks, clicks, shown, open_count, window, view_spec(settings), closed_count=sizes.get(window))
        recorded = run_state.recorded(connection, run)
        epoch = recorded[0] if recorded else -1
        counted = statistics_after(connection, run, epoch)
        keys = catalogue.keys if len(catalogue) else counted.keys  # before the first retrain: the items seen so far
        rows, statistics = catalogue.rows(keys), counted.buckets_of(keys)
        r2 = _last_r2(connection, run, user, whole, seen)
        short = catalogue.rows(seen.clicks), catalogue.rows(seen.exposures)
        slow = scorer.slow(catalogue.rows(seen.history), r2, rows, statistics)
        near = whole.near(seen.clicks, keys)
        fast = scorer.fast(*short, rows, slow.r_t, slow.r_n, statistics, slow.f2s, near)
        if by == "popularity":
            scores = counted.clicks_of(keys).astype(np.float32)
        else:
            scores = getattr(slow if by in ("f2s", "din") else fast, by)
        scores = np.where(np.isin(keys, clicks), -np.inf, scores)
        best = [int(n) for n in np.argsort(-scores, kind="stable")[:k] if np.isfinite(scores[n])]
        names = _names(connection, run, keys[best].tolist())
    items = [Suggestion(name, float(scores[n])) for name, n in zip(names, best, strict=True)]
    return Recommendation(by, items, release, epoch)


def _names(connection: sa.Connection, run: str, keys: list[int]) -> list[str]:
    names = run_state.item_names(connection, run, keys)
    return [names.get(key, str(key)) for key in keys]


def variant_to_serve(connection: sa.Connection, run: str) -> By:
    """Return the variant that is served after the last recorded epoch."""
    return served_now(online(connection, run))


def _last_r2(connection: sa.Connection, run: str, user: str, release: Release, seen: View) -> NDArray[np.float32]:
    """Return the r2 of the last closed window of the device, [d], recorded with the encoder of the release.

    Without a record the device has not used that encoder yet. It will then encode the closed window from a zero state,
    even if windows carry their state over, and so does this function.
    """
    m = schema.negative_memories.c
    here = (m.run == run) & (m.user == user) & (m.window == seen.window)
    query = sa.select(m.r2).where(here, m.encoder == release.manifest.versions.encoder)
    recorded = connection.execute(query).scalar_one_or_none()
    if recorded is not None:
        return np.frombuffer(recorded, "<f4")
    closed = release.catalogue.rows(seen.window_items)
    zero = np.zeros((1, release.nets.config.dim), np.float32)
    r2: NDArray[np.float32] = release.scorer.encode_exposures(zero, [closed])[0]
    return r2
