"""Verification of a run: compares its tables with its log folded again, and names the first difference.

Compares everything recorded: each outcome with its ranks by the nets, by popularity and by chance, each r2, each
upload, both states of each user, and the metrics. Arithmetic is done by the tile scorer that serves, so that equal
means equal to the last bit; on a sample of outcomes the same equations without tiles must agree within TOLERANCE. In
lockstep only: in a free-running run, the log does not determine which release applied.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, RowMapping

from streams.database import schema
from streams.plugins.loaded import loaded
from streams.releases.release import Assembler, Release, read_release
from streams.settings import Settings
from streams.state.cloud import CloudState
from streams.state.device import DeviceState
from streams.state.row_codec import decode_row
from streams.verification import popularity, reference_ranking, untiled_scores
from streams.verification.differences import Difference, DifferenceFound, require_equal
from streams.verification.item_statistics import ReferenceItemStatistics
from streams.verification.reference_fold import EpochRelease, Event, R2Upload, RankedClick, ReferenceFold

Floats = NDArray[np.float32]

TOLERANCE = 1e-5  # of scores without tiles, relative to 1 + the score's size
NETS = ("random", "din", "f2s", "fast", "mc2sf")


@dataclass
class Verification:
    """Numbers of what was compared and found equal."""

    users: int = 0
    events: int = 0
    outcomes: int = 0
    memories: int = 0
    uploads: int = 0
    untiled: int = 0  # outcomes scored without tiles as well
    untiled_difference: float = 0.0  # the largest, relative to 1 + the score's size
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


def verify(
    engine: Engine,
    settings: Settings,
    *,
    sample: int = 50,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Verification:
    """Compare everything of a run; one outcome in `sample` is scored without tiles as well.

    Raises DifferenceFound at the first difference, and ValueError if the run was not in lockstep.
    """
    if not settings.lockstep:
        raise ValueError("only a run in lockstep can be verified: its log determines which release applied")
    with engine.connect() as connection:
        return Verifier(connection, settings, sample).run(progress)


class Verifier:
    """The comparison of one run."""

    def __init__(self, connection: Connection, settings: Settings, sample: int) -> None:
        self._connection, self._settings, self._run, self._sample = connection, settings, settings.run, sample
        self._assembler = Assembler()
        d = schema.decisions.c
        query = sa.select(d.epoch, d.release).where(d.run == self._run)
        self._decided = {row.epoch: row.release for row in connection.execute(query)}
        self._statistics = ReferenceItemStatistics(connection, self._run)
        self._release = functools.cache(self._read)
        self.release_of = functools.cache(self._epoch_release)
        self._catalogues: dict[str, tuple[list[int], frozenset[int]]] = {}  # by the checksum of the embeddings
        self._ranks: defaultdict[str, list[int]] = defaultdict(list)
        self._sizes: list[int] = []  # of the lists of these ranks
        self.found = Verification()

    def _read(self, version: int) -> Release:
        return read_release(self._connection, self._run, version, self._assembler)

    def _epoch_release(self, epoch: int) -> EpochRelease:
        release = self._release(self._decided[epoch - 1] if epoch else 0)
        if (catalogue := self._catalogues.get(release.manifest.embeddings)) is None:
            keys = release.catalogue.keys.tolist()
            catalogue = self._catalogues[release.manifest.embeddings] = keys, frozenset(keys)
        return EpochRelease(release.manifest.versions, *catalogue)

    def run(self, progress: Callable[[int, int], None]) -> Verification:
        """Compare everything. Raises DifferenceFound."""
        i = schema.interactions.c
        of = self._connection.execute(sa.select(sa.func.count(i.user.distinct())).where(i.run == self._run))
        total = int(of.scalar_one())
        for user, events in self._users():
            self._user(ReferenceFold(user, self._settings, self.release_of).fold(events))
            self.found.users += 1
            self.found.events += len(events)
            progress(self.found.users, total)
        popularity.check(self._connection, self._run, len(self._decided) + 1)
        self._no_other_rows()
        self._metrics()
        self._plugin_metrics()
        return self.found

    def _users(self) -> Iterator[tuple[str, list[Event]]]:
        i = schema.interactions.c
        wanted = (i.user, i.seq, i.item, i.kind, i.time, i.impression, i.epoch)
        query = sa.select(*wanted).where(i.run == self._run).order_by(i.user, i.seq)
        rows = self._connection.execution_options(yield_per=50_000).execute(query)
        for user, some in groupby(rows, lambda row: row.user):
            yield user, [Event(*row[1:]) for row in some]

    def _rows(self, table: sa.Table, user: str) -> list[RowMapping]:
        query = sa.select(table).where(table.c.run == self._run, table.c.user == user)
        return list(self._connection.execute(query).mappings())

    def _user(self, fold: ReferenceFold) -> None:
        self._r2_uploads(fold)
        self._uploads(fold)
        self._device(fold)
        self._cloud(fold)
        recorded = {row["seq"]: row for row in self._rows(schema.outcomes, fold.user)}
        ranked = {click.seq: click for click in fold.ranked}
        require_equal(fold.user, "all", "seqs of outcomes", sorted(recorded), sorted(ranked))
        for seq, click in ranked.items():
            self._outcome(fold.user, recorded[seq], click)

    def _gru_state(self, items: tuple[int, ...], version: int) -> bytes:
        """Return the bytes of GRU_n's state over `items` from zero, on tiles, f4 [d]; empty if there are no items."""
        if not items:
            return b""
        release = self._release(version)
        zero = np.zeros((1, self._settings.dim), np.float32)
        after = release.scorer.encode_exposures(zero, [release.catalogue.rows(items)])
        return after.astype("<f4").tobytes()

    def _r2_uploads(self, fold: ReferenceFold) -> None:
        recorded = {(row["window"], row["encoder"]): row for row in self._rows(schema.negative_memories, fold.user)}
        right: dict[tuple[int, int], R2Upload] = {(r2.window, r2.versions.encoder): r2 for r2 in fold.r2_uploads}
        require_equal(fold.user, "all", "windows of r2", sorted(recorded), sorted(right))
        for (window, encoder), r2 in right.items():
            row, event = recorded[window, encoder], f"window {window} under encoder {encoder}"
            require_equal(fold.user, event, "size", row["size"], r2.size)
            require_equal(fold.user, event, "time", row["time"], r2.time)
            require_equal(fold.user, event, "r2", bytes(row["r2"]), self._gru_state(r2.items, r2.versions.release))
        self.found.memories += len(right)

    def _uploads(self, fold: ReferenceFold) -> None:
        rows = self._rows(schema.click_uploads, fold.user)
        recorded = {row["epoch"]: np.frombuffer(row["items"], "<i8").tolist() for row in rows}
        longest = self._settings.history_long
        require_equal(fold.user, "all", "uploads", recorded, {e: items[-longest:] for e, items in fold.uploads.items()})
        self.found.uploads += len(recorded)

    def _newest(self, side: str, user: str) -> bytes:
        u = schema.user_snapshots.c
        this = (u.run == self._run) & (u.side == side) & (u.user == user)
        query = sa.select(u.state).where(this).order_by(u.epoch.desc()).limit(1)
        found = self._connection.execute(query).scalar_one_or_none()
        if found is None:
            raise DifferenceFound(Difference(user, "final state", side, None, "a state"))
        return bytes(found)

    def _device(self, fold: ReferenceFold) -> None:
        state = decode_row(self._newest("device", fold.user), DeviceState)
        s, version = self._settings, fold.versions.release
        carried = fold.r2_items if s.carry else ()
        open_items = carried + tuple(fold.open)
        expected: dict[str, object] = {
            "seq": fold.events,
            "time": fold.time,
            "encoder": fold.encoder,
            "gru_state": self._gru_state(open_items, version),
            "open_count": len(fold.open),
            "r2": self._gru_state(fold.r2_items, version),
            "window": fold.window,
            "closed_count": len(fold.closed),
            "closed": fold.closed_at,
            "clicks": fold.clicks[-s.history_short :],
            "exposures": fold.exposures[-2 * s.threshold :],
            "uploads": [],
        }
        for name, value in expected.items():
            require_equal(fold.user, "final device state", name, getattr(state, name), value)

    def _cloud(self, fold: ReferenceFold) -> None:
        if not (fold.uploads or fold.r2_uploads):
            return
        state = decode_row(self._newest("cloud", fold.user), CloudState)
        clicks = [item for items in fold.uploads.values() for item in items[-self._settings.history_long :]]
        longest = self._settings.history_long
        sent = [(r2.window, r2.versions.encoder) for r2 in fold.r2_uploads]
        kept = sent[-2:] if not sent or max(sent) in sent[-2:] else [max(sent), *sent[-2:]]
        for name, recorded, value in (
            ("history", [*state.earlier_clicks, *state.last_clicks][-longest:], clicks[-longest:]),
            ("epoch", state.epoch, max(fold.uploads, default=-1)),
            ("r2s", [(r2.window, r2.encoder) for r2 in state.r2s], kept),
        ):
            require_equal(fold.user, "final cloud state", name, recorded, value)

    def _outcome(self, user: str, row: RowMapping, click: RankedClick) -> None:
        event, versions, candidates = f"seq {click.seq}", click.versions, click.candidates
        for name, recorded, value in (
            ("epoch", row["epoch"], click.epoch),
            ("time", row["time"], click.time),
            ("target", row["target"], click.target),
            ("candidates", np.frombuffer(row["candidates"], "<i8").tolist(), candidates.keys),
            ("target_index", row["target_index"], candidates.target_index),
            ("slate", row["slate"], "logged" if click.logged else "sampled"),
            ("cold", bool(row["cold"]), candidates.cold),
            ("expired", bool(row["expired"]), False),
            (
                "release",
                (row["release"], row["encoder"], row["slow"], row["fast"]),
                (versions.release, versions.encoder, versions.slow, versions.fast),
            ),
            ("window", row["window"], click.window),
            ("r2_age", row["r2_age"], click.r2_age),
            ("history", row["history"], len(click.history)),
        ):
            require_equal(user, event, name, recorded, value)
        ranks = self._ranks_by_nets(user, click)
        for name in NETS:
            require_equal(user, event, f"rank by {name}", row["ranks"].get(name), ranks[name])
        if not candidates.cold:
            self._sizes.append(len(candidates.keys))
            for name, value in row["ranks"].items():
                self._ranks[name].append(ranks.get(name, value))
        self.found.outcomes += 1

    def _ranks_by_nets(self, user: str, click: RankedClick) -> dict[str, int]:
        release, keys, target_index = self._release(click.versions.release), click.candidates.keys, click.candidates[1]
        rows, dim = release.catalogue.rows, self._settings.dim
        r2 = np.frombuffer(self._gru_state(click.r2_items, click.versions.release) or bytes(4 * dim), "<f4")
        buckets = self._statistics.buckets(click.epoch, keys)
        slow = release.scorer.slow(rows(click.history), r2, rows(keys), buckets)
        short = rows(click.clicks), rows(click.exposures)
        fast = release.scorer.fast(*short, rows(keys), slow.r_t, slow.r_n, buckets)
        scores = {"din": slow.din, "f2s": slow.f2s, "fast": fast.fast, "mc2sf": fast.mc2sf}
        if self.found.outcomes % self._sample == 0:
            long = rows(click.history), rows(click.r2_items)
            self._compare_untiled(
                user, click.seq, scores, untiled_scores.scores(release, *long, *short, rows(keys), buckets, slow)
            )
        ranks = {name: reference_ranking.rank(values.tolist(), target_index) for name, values in scores.items()}
        return ranks | {"random": target_index + 1}

    def _compare_untiled(self, user: str, seq: int, scores: dict[str, Floats], untiled: dict[str, Floats]) -> None:
        for name, tiled in scores.items():
            difference = float(np.max(np.abs(untiled[name] - tiled) / (1 + np.abs(tiled))))
            self.found.untiled_difference = max(self.found.untiled_difference, difference)
            if not difference <= TOLERANCE:
                raise DifferenceFound(Difference(user, f"seq {seq}", f"{name} without tiles", difference, TOLERANCE))
        self.found.untiled += 1

    def _no_other_rows(self) -> None:
        """Check that nothing is recorded of users that are not in the log."""
        for table, found in (
            (schema.outcomes, self.found.outcomes),
            (schema.negative_memories, self.found.memories),
            (schema.click_uploads, self.found.uploads),
        ):
            query = sa.select(sa.func.count()).select_from(table).where(table.c.run == self._run)
            require_equal("", "all", f"rows of {table.name}", self._connection.execute(query).scalar_one(), found)

    def _metrics(self) -> None:
        """Check that the last cumulative points are the means of the recomputed ranks."""
        p = schema.metric_points.c
        last = sa.select(sa.func.max(p.epoch)).where(p.run == self._run).scalar_subquery()
        where = (p.run == self._run) & (p.epoch == last) & (p.subset == "all") & (p.form == "cumulative")
        for row in self._connection.execute(sa.select(schema.metric_points).where(where)):
            found = reference_ranking.means(self._ranks[row.variant])
            self.found.metrics[row.variant] = found
            for name, value in found.items():
                require_equal("", row.variant, name, getattr(row, name.replace("@", "_")), value)

    def _plugin_metrics(self) -> None:
        """Check the metrics that are plugins in the summary of the run, if it has ended."""
        r = schema.runs.c
        summary = self._connection.execute(sa.select(r.summary).where(r.run == self._run)).scalar_one() or {}
        recorded = summary.get("plugin_metrics", {})
        for name, metric in loaded(self._settings.plugins).metrics.items():
            for variant, ranks in self._ranks.items():
                found = math.fsum(metric(rank, n) for rank, n in zip(ranks, self._sizes, strict=True)) / len(ranks)
                self.found.metrics[variant][name] = found
                if recorded:
                    require_equal("", variant, name, recorded[name][variant]["online"], found)
