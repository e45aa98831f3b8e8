"""A run's tables against its log folded once more: the first difference by user, event and field, or a certificate.

Everything recorded is looked at: each outcome with its ranks by the nets, by popularity and by chance, each negative
memory, each upload, both states of each user, and the metrics. Arithmetic is done by the tile scorer that serves, so
that equal means equal to the last bit; on a sample of outcomes the same equations without tiles must agree within
TOLERANCE. In lockstep only: free-running, the log does not say which release applied.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from models.data.item_statistics import Buckets
from models.mc2sf.tiled_scorer import FastAnswer, SlowAnswer
from streams.database import schema
from streams.releases.release import Assembler, Release, read_release
from streams.settings import Settings
from streams.state.cloud import CloudState
from streams.state.device import DeviceState
from streams.state.row_codec import decode_row
from streams.verification import popularity, reference_ranking
from streams.verification import untiled_scores as untiled
from streams.verification.differences import Difference, DifferenceFound, same
from streams.verification.item_statistics import Stood
from streams.verification.user_fold import Account, Event, InForce, Memory, Question

TOLERANCE = 1e-5  # of the arithmetic without tiles, beside 1 + its size
NETS = ("random", "din", "f2s", "fast", "mc2sf")


@dataclass
class Certificate:
    """What was compared and found equal."""

    users: int = 0
    events: int = 0
    outcomes: int = 0
    memories: int = 0
    uploads: int = 0
    untiled: int = 0  # outcomes computed without tiles as well
    untiled_difference: float = 0.0  # the largest, beside 1 + the score's size
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


def certify(
    engine: Engine,
    settings: Settings,
    *,
    sample: int = 50,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Certificate:
    """Compare everything of a run; one in `sample` outcomes is computed without tiles as well.

    Raises DifferenceFound at the first difference, and ValueError where the run was not in lockstep.
    """
    if not settings.lockstep:
        raise ValueError("only a run in lockstep can be certified: its log says which release applied")
    with engine.connect() as connection:
        return _Check(connection, settings, sample).run(progress)


class _Check:
    def __init__(self, connection: Connection, settings: Settings, sample: int) -> None:
        self._connection, self._settings, self._run, self._sample = connection, settings, settings.run, sample
        self._assembler = Assembler()
        d = schema.decisions.c
        query = sa.select(d.epoch, d.release).where(d.run == self._run)
        self._decided = {row.epoch: row.release for row in connection.execute(query)}
        self._stood = Stood(connection, self._run)
        self._release = functools.cache(self._read)
        self._force = functools.cache(self._in_force)
        self._listed: dict[str, tuple[list[int], frozenset[int]]] = {}  # a catalogue by the checksum of its embeddings
        self._ranks: defaultdict[str, list[int]] = defaultdict(list)
        self.found = Certificate()

    def _read(self, version: int) -> Release:
        return read_release(self._connection, self._run, version, self._assembler)

    def _in_force(self, epoch: int) -> InForce:
        release = self._release(self._decided[epoch - 1] if epoch else 0)
        if (listed := self._listed.get(release.manifest.embeddings)) is None:
            keys = release.catalogue.keys.tolist()
            listed = self._listed[release.manifest.embeddings] = keys, frozenset(keys)
        return InForce(release.manifest.versions, *listed)

    def run(self, progress: Callable[[int, int], None]) -> Certificate:
        i = schema.interactions.c
        of = self._connection.execute(sa.select(sa.func.count(i.user.distinct())).where(i.run == self._run))
        total = int(of.scalar_one())
        for user, events in self._users():
            self._user(Account(user, self._settings, self._force).fold(events))
            self.found.users += 1
            self.found.events += len(events)
            progress(self.found.users, total)
        popularity.check(self._connection, self._run, len(self._decided) + 1)
        self._counted()
        self._metrics()
        return self.found

    def _users(self) -> Iterator[tuple[str, list[Event]]]:
        i = schema.interactions.c
        wanted = (i.user, i.seq, i.item, i.kind, i.time, i.impression, i.epoch)
        query = sa.select(*wanted).where(i.run == self._run).order_by(i.user, i.seq)
        rows = self._connection.execution_options(yield_per=50_000).execute(query)
        for user, some in groupby(rows, lambda row: row.user):
            yield user, [Event(*row[1:]) for row in some]

    def _rows(self, table: sa.Table, user: str) -> list[Any]:
        return list(self._connection.execute(sa.select(table).where(table.c.run == self._run, table.c.user == user)))

    def _user(self, account: Account) -> None:
        self._memories(account)
        self._uploads(account)
        self._device(account)
        self._cloud(account)
        recorded = {row.seq: row for row in self._rows(schema.outcomes, account.user)}
        asked = {question.seq: question for question in account.questions}
        same(account.user, "all", "seqs of outcomes", sorted(recorded), sorted(asked))
        for seq, question in asked.items():
            self._outcome(account.user, recorded[seq], question)

    def _fold(self, items: tuple[int, ...], version: int) -> bytes:
        """GRU_n over items from zero, on tiles: bytes of f4 [d], empty where there are none."""
        if not items:
            return b""
        release = self._release(version)
        zero = np.zeros((1, self._settings.dim), np.float32)
        after = release.scorer.encode_exposures(zero, [release.catalogue.rows(items)])
        return after.astype("<f4").tobytes()

    def _memories(self, account: Account) -> None:
        recorded = {(row.window, row.encoder): row for row in self._rows(schema.negative_memories, account.user)}
        folded: dict[tuple[int, int], Memory] = {(m.window, m.versions.encoder): m for m in account.memories}
        same(account.user, "all", "windows of memories", sorted(recorded), sorted(folded))
        for (window, encoder), memory in folded.items():
            row, event = recorded[window, encoder], f"window {window} under encoder {encoder}"
            same(account.user, event, "size", row.size, memory.size)
            same(account.user, event, "time", row.time, memory.time)
            same(account.user, event, "r2", bytes(row.r2), self._fold(memory.items, memory.versions.release))
        self.found.memories += len(folded)

    def _uploads(self, account: Account) -> None:
        rows = self._rows(schema.click_uploads, account.user)
        recorded = {row.epoch: np.frombuffer(row.items, "<i8").tolist() for row in rows}
        longest = self._settings.history_long
        same(account.user, "all", "uploads", recorded, {e: items[-longest:] for e, items in account.uploads.items()})
        self.found.uploads += len(recorded)

    def _newest(self, side: str, user: str) -> bytes:
        u = schema.user_snapshots.c
        this = (u.run == self._run) & (u.side == side) & (u.user == user)
        query = sa.select(u.state).where(this).order_by(u.epoch.desc()).limit(1)
        found = self._connection.execute(query).scalar_one_or_none()
        if found is None:
            raise DifferenceFound(Difference(user, "final state", side, None, "a state"))
        return bytes(found)

    def _device(self, account: Account) -> None:
        state = decode_row(self._newest("device", account.user), DeviceState)
        s, version = self._settings, account.versions.release
        carried = account.r2_items if s.carry else ()
        open_items = carried + tuple(account.open)
        expected: dict[str, object] = {
            "seq": account.events,
            "time": account.time,
            "encoder": account.encoder,
            "gru_state": self._fold(open_items, version),
            "open_count": len(account.open),
            "r2": self._fold(account.r2_items, version),
            "window": account.window,
            "closed_count": len(account.closed),
            "closed": account.closed_at,
            "clicks": account.clicks[-s.history_short :],
            "exposures": account.exposures[-2 * s.threshold :],
            "uploads": [],
        }
        for name, value in expected.items():
            same(account.user, "final device state", name, getattr(state, name), value)

    def _cloud(self, account: Account) -> None:
        if not (account.uploads or account.memories):
            return
        state = decode_row(self._newest("cloud", account.user), CloudState)
        clicks = [item for items in account.uploads.values() for item in items[-self._settings.history_long :]]
        longest = self._settings.history_long
        came = [(m.window, m.versions.encoder) for m in account.memories]
        kept = came[-2:] if not came or max(came) in came[-2:] else [max(came), *came[-2:]]
        for name, recorded, value in (
            ("history", [*state.earlier_clicks, *state.last_clicks][-longest:], clicks[-longest:]),
            ("epoch", state.epoch, max(account.uploads, default=-1)),
            ("r2s", [(r2.window, r2.encoder) for r2 in state.r2s], kept),
        ):
            same(account.user, "final cloud state", name, recorded, value)

    def _outcome(self, user: str, row: Any, question: Question) -> None:
        event, versions, listed = f"seq {question.seq}", question.versions, question.listed
        for name, recorded, value in (
            ("epoch", row.epoch, question.epoch),
            ("time", row.time, question.time),
            ("target", row.target, question.target),
            ("candidates", np.frombuffer(row.candidates, "<i8").tolist(), listed.keys),
            ("target_index", row.target_index, listed.place),
            ("slate", row.slate, "logged" if question.logged else "sampled"),
            ("cold", bool(row.cold), listed.cold),
            ("expired", bool(row.expired), False),
            ("release", (row.release, row.encoder, row.slow, row.fast), _numbers(versions)),
            ("window", row.window, question.window),
            ("r2_age", row.r2_age, question.r2_age),
            ("history", row.history, len(question.history)),
        ):
            same(user, event, name, recorded, value)
        ranks = self._scored(user, question)
        for name in NETS:
            same(user, event, f"rank by {name}", row.ranks.get(name), ranks[name])
        if not listed.cold:
            for name, value in row.ranks.items():
                self._ranks[name].append(ranks.get(name, value))
        self.found.outcomes += 1

    def _scored(self, user: str, q: Question) -> dict[str, int]:
        release = self._release(q.versions.release)
        rows, dim = release.catalogue.rows, self._settings.dim
        r2 = np.frombuffer(self._fold(q.r2_items, q.versions.release) or bytes(4 * dim), "<f4")
        candidates = rows(q.listed.keys)
        stands = self._stood.before(q.epoch, q.listed.keys)
        slow = release.scorer.slow(rows(q.history), r2, candidates, stands)
        fast = release.scorer.fast(rows(q.clicks), rows(q.exposures), candidates, slow.r_t, slow.r_n, stands)
        if self.found.outcomes % self._sample == 0:
            self._without_tiles(user, q, release, stands, slow, fast)
        scores = {"din": slow.din, "f2s": slow.f2s, "fast": fast.fast, "mc2sf": fast.mc2sf}
        ranks = {name: reference_ranking.rank(values.tolist(), q.listed.place) for name, values in scores.items()}
        return ranks | {"random": q.listed.place + 1}

    def _without_tiles(
        self, user: str, q: Question, release: Release, stands: Buckets, slow: SlowAnswer, fast: FastAnswer
    ) -> None:
        rows = release.catalogue.rows
        again = untiled.scores(
            release,
            rows(q.history),
            rows(q.r2_items),
            rows(q.clicks),
            rows(q.exposures),
            rows(q.listed.keys),
            stands,
            slow,
        )
        for name, tiled in (("din", slow.din), ("f2s", slow.f2s), ("fast", fast.fast), ("mc2sf", fast.mc2sf)):
            apart = float(np.max(np.abs(again[name] - tiled) / (1 + np.abs(tiled))))
            self.found.untiled_difference = max(self.found.untiled_difference, apart)
            if not apart <= TOLERANCE:
                raise DifferenceFound(Difference(user, f"seq {q.seq}", f"{name} without tiles", apart, TOLERANCE))
        self.found.untiled += 1

    def _counted(self) -> None:
        """Nothing is recorded of users who are not in the log."""
        for table, found in (
            (schema.outcomes, self.found.outcomes),
            (schema.negative_memories, self.found.memories),
            (schema.click_uploads, self.found.uploads),
        ):
            query = sa.select(sa.func.count()).select_from(table).where(table.c.run == self._run)
            same("", "all", f"rows of {table.name}", self._connection.execute(query).scalar_one(), found)

    def _metrics(self) -> None:
        """The last cumulative points are the means of the ranks found."""
        p = schema.metric_points.c
        last = sa.select(sa.func.max(p.epoch)).where(p.run == self._run).scalar_subquery()
        where = (p.run == self._run) & (p.epoch == last) & (p.subset == "all") & (p.form == "cumulative")
        for row in self._connection.execute(sa.select(schema.metric_points).where(where)):
            found = reference_ranking.means(self._ranks[row.variant])
            self.found.metrics[row.variant] = found
            for name, value in found.items():
                same("", row.variant, name, getattr(row, name.replace("@", "_")), value)


def _numbers(versions: Any) -> tuple[int, int, int, int]:
    return versions.release, versions.encoder, versions.slow, versions.fast
