"""Verification of a run: recomputes its results from its log and reports the first difference to the tables.

Everything recorded is compared: each outcome's ranks, each r2 and upload, both states of each user, and the metrics.
The serving scorer computes the scores, so that equal means equal to the last bit; on a sample of outcomes the same
equations without tiles must agree within TOLERANCE. Of a free-running run, the release and statistics of each outcome
and whether the cloud's answer came in time are taken from the record.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, RowMapping

from streams.database import schema
from streams.records import Versions
from streams.settings import Settings
from streams.state.cloud import CloudState
from streams.state.device import DeviceState
from streams.state.row_codec import decode_row
from streams.verification import popularity, reference_ranking, served, totals, untiled_scores
from streams.verification.differences import Difference, DifferenceFound, require_equal
from streams.verification.item_statistics import ReferenceItemStatistics
from streams.verification.plugin_reference import PluginReference
from streams.verification.reference_fold import Event, R2Upload, RankedClick, ReferenceFold
from streams.verification.release_schedule import ReleaseSchedule, first_windows

Floats = NDArray[np.float32]

WITH_PRIORS = ("din", "f2s", "mc2sf")  # variants that need the cloud's answer
TOLERANCE = 1e-5  # of scores without tiles, relative to 1 + |score|


@dataclass
class Verification:
    """Counts of the values that were compared and found equal."""

    users: int = 0
    events: int = 0
    outcomes: int = 0
    memories: int = 0
    uploads: int = 0
    not_ranked: int = 0  # clicks without other candidates
    untiled: int = 0  # outcomes scored without tiles as well
    untiled_difference: float = 0.0  # the largest, relative to 1 + |score|
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


def verify(
    engine: Engine,
    settings: Settings,
    *,
    sample: int = 50,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Verification:
    """Compare everything of a run; one outcome in `sample` is scored without tiles as well.

    Raises DifferenceFound at the first difference.
    """
    with engine.connect() as connection:
        return Verifier(connection, settings, sample).run(progress)


class Verifier:
    """The comparison of one run."""

    def __init__(self, connection: Connection, settings: Settings, sample: int) -> None:
        self._connection, self._settings, self._run, self._sample = connection, settings, settings.run, sample
        self._schedule = ReleaseSchedule(connection, settings)
        self._release = self._schedule.release
        self._statistics = ReferenceItemStatistics(connection, self._run)
        self._ranks: defaultdict[str, list[int]] = defaultdict(list)
        self._plugins = PluginReference(settings.plugins)
        self._sizes: defaultdict[str, list[int]] = defaultdict(list)  # of the lists of these ranks
        self.counts = Verification()

    def run(self, progress: Callable[[int, int], None]) -> Verification:
        """Compare everything. Raises DifferenceFound."""
        i = schema.interactions.c
        query = sa.select(sa.func.count(i.user.distinct())).where(i.run == self._run)
        total = int(self._connection.execute(query).scalar_one())
        for user, events in self._users():
            self._user(user, events)
            self.counts.users += 1
            self.counts.events += len(events)
            progress(self.counts.users, total)
        last = self._connection.execute(sa.select(sa.func.max(i.epoch)).where(i.run == self._run)).scalar_one()
        popularity.check(self._connection, self._run, -1 if last is None else last + 1)
        served.check(self._connection, self._run, -1 if last is None else last + 1)
        counts = self.counts
        totals.check_counts(
            self._connection, self._run, counts.outcomes, counts.memories, counts.uploads, counts.not_ranked
        )
        self.counts.metrics |= totals.check_metrics(self._connection, self._run, self._ranks)
        for variant, by_plugins in self._plugins.metrics(self._connection, self._run, self._ranks, self._sizes).items():
            self.counts.metrics[variant] |= by_plugins
        return self.counts

    def _users(self) -> Iterator[tuple[str, list[Event]]]:
        i = schema.interactions.c
        columns = (i.user, i.seq, i.item, i.kind, i.time, i.impression, i.epoch)
        query = sa.select(*columns).where(i.run == self._run).order_by(i.user, i.seq)
        rows = self._connection.execute(query, execution_options={"yield_per": 50_000})
        for user, of_user in groupby(rows, lambda row: row.user):
            yield user, [Event(*row[1:]) for row in of_user]

    def _rows(self, table: sa.Table, user: str) -> list[RowMapping]:
        query = sa.select(table).where(table.c.run == self._run, table.c.user == user)
        return list(self._connection.execute(query).mappings())

    def _user(self, user: str, events: list[Event]) -> None:
        recorded = {row["seq"]: row for row in self._rows(schema.outcomes, user)}

        def known_items(click: Event) -> list[int]:
            default = click.epoch if self._settings.lockstep else 0
            epoch = recorded[click.seq]["statistics_epoch"] if click.seq in recorded else default
            return self._statistics.seen_before(epoch or 0)  # none for clicks recorded by version 0.1

        fold = ReferenceFold(user, self._settings, self._schedule.of_user(recorded), known_items).fold(events)
        sent = self._r2_uploads(fold)
        since = first_windows(sent)
        self._uploads(fold)
        self._device(fold, since)
        self._cloud(fold, list(sent))
        ranked = {click.seq: click for click in fold.ranked if self._has_candidates(click, recorded)}
        self.counts.not_ranked += len(fold.ranked) - len(ranked)
        require_equal(user, "all", "seqs of outcomes", sorted(recorded), sorted(ranked))
        releases = [recorded[seq]["release"] for seq in sorted(recorded)]
        require_equal(user, "all", "order of releases", releases, sorted(releases))
        for seq, click in ranked.items():
            if click.window and not self._settings.lockstep:
                r2 = fold.r2(click.window, since.get(click.versions.encoder, 1), click.versions)
                click = replace(click, r2_items=r2.items)  # noqa: PLW2901 - under the recorded encoder
            self._outcome(user, recorded[seq], click)

    def _has_candidates(self, click: RankedClick, recorded: Mapping[int, RowMapping]) -> bool:
        """Return True if a click has other candidates and must have an outcome. Version 0.1 ranked all clicks."""
        alone, row = len(click.candidates.keys) < 2, recorded.get(click.seq)
        if row is not None:
            return not alone or row["statistics_epoch"] is None
        return not alone and (click.logged or self._schedule.surely_has_items(click.seq, recorded))

    def _gru_state(self, items: tuple[int, ...], version: int) -> bytes:
        """Return the bytes of GRU_n's state over `items` from zero, on tiles, f4 [d]; empty if there are no items."""
        if not items:
            return b""
        release = self._release(version)
        zero = np.zeros((1, self._settings.dim), np.float32)
        after = release.scorer.encode_exposures(zero, [release.catalogue.rows(items)])
        return after.astype("<f4").tobytes()

    def _r2_uploads(self, fold: ReferenceFold) -> dict[tuple[int, int], R2Upload]:
        """Compare the uploads of r2; return them by window and encoder, in the order of sending if it is known."""
        recorded = {(row["window"], row["encoder"]): row for row in self._rows(schema.negative_memories, fold.user)}
        recomputed: dict[tuple[int, int], R2Upload] = {(r2.window, r2.versions.encoder): r2 for r2 in fold.r2_uploads}
        if self._settings.lockstep:
            require_equal(fold.user, "all", "windows of r2", sorted(recorded), sorted(recomputed))
        else:
            windows = sorted({window for window, _ in recorded})
            require_equal(fold.user, "all", "windows of r2", windows, list(range(1, fold.window + 1)))
            since = first_windows(recorded)
            recomputed = {(window, e): fold.r2(window, since[e], Versions(e, e)) for window, e in sorted(recorded)}
        for (window, encoder), r2 in recomputed.items():
            row, event = recorded[window, encoder], f"window {window} under encoder {encoder}"
            require_equal(fold.user, event, "size", row["size"], r2.size)
            require_equal(fold.user, event, "time", row["time"], r2.time)
            require_equal(fold.user, event, "r2", bytes(row["r2"]), self._gru_state(r2.items, r2.versions.release))
        self.counts.memories += len(recomputed)
        return recomputed

    def _uploads(self, fold: ReferenceFold) -> None:
        rows = self._rows(schema.click_uploads, fold.user)
        recorded = {row["epoch"]: np.frombuffer(row["items"], "<i8").tolist() for row in rows}
        longest = self._settings.history_long
        require_equal(fold.user, "all", "uploads", recorded, {e: items[-longest:] for e, items in fold.uploads.items()})
        self.counts.uploads += len(recorded)

    def _newest(self, side: str, user: str) -> bytes:
        u = schema.user_snapshots.c
        query = sa.select(u.state).where(u.run == self._run, u.side == side, u.user == user)
        state = self._connection.execute(query).scalar_one_or_none()
        if state is None:
            raise DifferenceFound(Difference(user, "final state", side, None, "a state"))
        return bytes(state)

    def _device(self, fold: ReferenceFold, since: Mapping[int, int]) -> None:
        state = decode_row(self._newest("device", fold.user), DeviceState)
        s, version, encoder, r2_items = self._settings, fold.versions.release, fold.encoder, fold.r2_items(fold.since)
        if not s.lockstep:  # the encoder's own release, as recorded
            version = encoder = state.encoder
            r2_items = fold.r2_items(since.get(version, 1))
        carried = r2_items if s.carry else ()
        open_items = carried + tuple(fold.open)
        expected: dict[str, object] = {
            "seq": fold.events,
            "time": fold.time,
            "encoder": encoder,
            "gru_state": self._gru_state(open_items, version),
            "open_count": len(fold.open),
            "r2": self._gru_state(r2_items, version),
            "window": fold.window,
            "closed_count": len(fold.windows[-1].items) if fold.window else 0,
            "closed": fold.windows[-1].time if fold.window else 0,
            "clicks": fold.clicks[-s.history_short :],
            "exposures": fold.exposures[-2 * s.threshold :],
        }
        if state.uploads or state.uploads_epoch < 0:  # earlier versions emptied them at the end of the epoch
            last = max(fold.uploads, default=-1)
            expected |= {"uploads": fold.uploads.get(last, [])[-s.history_long :], "uploads_epoch": last}
        for name, value in expected.items():
            require_equal(fold.user, "final device state", name, getattr(state, name), value)

    def _cloud(self, fold: ReferenceFold, sent: list[tuple[int, int]]) -> None:
        if not (fold.uploads or fold.r2_uploads):
            return
        state = decode_row(self._newest("cloud", fold.user), CloudState)
        clicks = [item for items in fold.uploads.values() for item in items[-self._settings.history_long :]]
        longest = self._settings.history_long
        received = [(r2.window, r2.encoder) for r2 in state.r2s]
        kept = sent[-2:] if not sent or max(sent) in sent[-2:] else [max(sent), *sent[-2:]]
        if not self._settings.lockstep:  # a worker that was killed sends again: only the newest is certain to be kept
            kept = [max(sent)] if sent else []
            received = [r2 for r2 in received if r2 in kept]
        for name, recorded, value in (
            ("history", [*state.earlier_clicks, *state.last_clicks][-longest:], clicks[-longest:]),
            ("epoch", state.epoch, max(fold.uploads, default=-1)),
            ("r2s", received, kept),
        ):
            require_equal(fold.user, "final cloud state", name, recorded, value)

    def _outcome(self, user: str, row: RowMapping, click: RankedClick) -> None:
        event, versions, candidates = f"seq {click.seq}", click.versions, click.candidates
        lockstep, statistics_epoch = self._settings.lockstep, row["statistics_epoch"]
        expired = bool(row["expired"]) and not lockstep
        if statistics_epoch is None:  # recorded by version 0.1
            statistics_epoch = click.epoch
        for name, recorded, value in (
            ("epoch", row["epoch"], click.epoch),
            ("time", row["time"], click.time),
            ("target", row["target"], click.target),
            ("candidates", np.frombuffer(row["candidates"], "<i8").tolist(), candidates.keys),
            ("target_index", row["target_index"], candidates.target_index),
            ("slate", row["slate"], "logged" if click.logged else "sampled"),
            ("cold", bool(row["cold"]), candidates.cold),
            ("expired", bool(row["expired"]), expired),
            ("statistics_epoch", statistics_epoch, click.epoch if lockstep else min(click.epoch, statistics_epoch)),
            (
                "release",
                (row["release"], row["encoder"], row["slow"], row["fast"]),
                (versions.release, versions.encoder, versions.slow, versions.fast),
            ),
            ("window", row["window"], click.window),
            ("r2_age", row["r2_age"], click.r2_age),
            ("history", row["history"], 0 if expired else len(click.history)),
        ):
            require_equal(user, event, name, recorded, value)
        ranks = self._ranks_by_nets(user, click, statistics_epoch)
        for name in ranks.keys() - (WITH_PRIORS if expired else ()):
            require_equal(user, event, f"rank by {name}", row["ranks"].get(name), ranks[name])
        for name, value in row["ranks"].items():
            self._ranks[name].append(ranks.get(name, value))
            self._sizes[name].append(len(candidates.keys))
        self.counts.outcomes += 1

    def _ranks_by_nets(self, user: str, click: RankedClick, statistics_epoch: int) -> dict[str, int]:
        release, keys, target_index = self._release(click.versions.release), click.candidates.keys, click.candidates[1]
        rows, dim = release.catalogue.rows, self._settings.dim
        r2 = np.frombuffer(self._gru_state(click.r2_items, click.versions.release) or bytes(4 * dim), "<f4")
        buckets = self._statistics.buckets(statistics_epoch, keys)
        slow = release.scorer.slow(rows(click.history), r2, rows(keys), buckets)
        short = rows(click.clicks), rows(click.exposures)
        near = release.near(click.clicks, keys)
        fast = release.scorer.fast(*short, rows(keys), slow.r_t, slow.r_n, buckets, slow.f2s, near)
        scores = {"din": slow.din, "f2s": slow.f2s, "fast": fast.fast, "mc2sf": fast.mc2sf}
        if self.counts.outcomes % self._sample == 0:
            long = rows(click.history), rows(click.r2_items)
            self._compare_untiled(
                user, click.seq, scores, untiled_scores.scores(release, *long, *short, rows(keys), buckets, slow, near)
            )
        ranks = {name: reference_ranking.rank(values.tolist(), target_index) for name, values in scores.items()}
        return (
            ranks
            | {"random": target_index + 1}
            | self._plugins.ranks(click, buckets, release.vectors, alone=self.counts.outcomes % self._sample == 0)
        )

    def _compare_untiled(self, user: str, seq: int, scores: dict[str, Floats], untiled: dict[str, Floats]) -> None:
        for name, tiled in scores.items():
            difference = float(np.max(np.abs(untiled[name] - tiled) / (1 + np.abs(tiled))))
            self.counts.untiled_difference = max(self.counts.untiled_difference, difference)
            if not difference <= TOLERANCE:
                raise DifferenceFound(Difference(user, f"seq {seq}", f"{name} without tiles", difference, TOLERANCE))
        self.counts.untiled += 1
