"""Nothing is known before its time: what comes later changes nothing earlier, and a coin can't be foreseen."""

from __future__ import annotations

import csv
import json
import math
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streams.database.engine import connect
from streams.rescoring import rescore
from tests.support.whole_run import PATIENCE_S

pytestmark = [pytest.mark.proof, pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(1800)]  # whole runs
UNITS, EPOCH, CHANGED = 900, 300, 5  # units of a log; events of an epoch; the first epoch that is changed
USERS, QUITTERS, QUIT = 40, 8, 400  # users of a log; of those that leave it, the number and their last unit
SIDES = ("device", "cloud")
TWINS = ("heads", "tails")  # every second slate holds both, and a coin decides which is clicked


@dataclass(frozen=True)
class Event:
    user: str
    item: str
    time: int
    kind: str
    impression: int


def events(seed: int) -> list[Event]:
    """Slates of three: one is clicked by the user's taste, or of the twins by a coin. The first users leave early."""
    chance, found = random.Random(seed), []
    for unit in range(UNITS):
        user = chance.randrange(0 if unit < QUIT else QUITTERS, USERS)
        other = f"i{chance.randrange(60)}"
        slate = [*TWINS, other] if unit % 2 else [f"i{(user + 7 * n) % 60}" for n in range(2)] + [other]
        clicked = chance.choice(TWINS) if unit % 2 else slate[0]
        for item in dict.fromkeys(slate):
            kind = "click" if item == clicked else "exposure"
            found.append(Event(f"u{user}", item, 1_700_000_000 + 60 * unit, kind, unit + 1))
    return found


def changed(log: list[Event], start: int) -> list[Event]:
    """The log with everything different from event `start` on: other items, other clicks, other users.

    Users that left stay away: a database keeps the newest state of each user only, and theirs is from before.
    """
    chance, rest = random.Random("changed"), []
    for event in log[start:]:
        user, item = f"u{chance.randrange(QUITTERS, 50)}", f"i{chance.randrange(90)}"
        rest.append(Event(user, item, event.time + chance.randrange(30), chance.choice(("click", "exposure")), 0))
    return log[:start] + rest


@dataclass(frozen=True)
class Done:
    """The results of a run."""

    out: Path

    @classmethod
    def of(cls, log: list[Event], folder: Path) -> Done:
        folder.mkdir()
        with (folder / "log.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("user", "item", "timestamp", "event", "impression"))
            rows.writerows((e.user, e.item, e.time, e.kind, e.impression or "") for e in log)
        command = [sys.executable, "-m", "deploy.cli", "run", f"log:{folder / 'log.csv'}", "--out", str(folder / "run")]
        pace = ("--epoch", str(EPOCH), "--retrain-every", str(2 * EPOCH), "--evaluate", "1")
        done = subprocess.run([*command, *pace], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return cls(folder / "run")

    def rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.out / "mc2sf.db")) as database:
            return database.execute(query).fetchall()

    def until(self, epoch: int) -> dict[str, list[Any]]:
        """All that was known, ranked, kept and published up to the end of an epoch."""
        ranked = 'time, "user", seq, target, target_index, candidates, ranks, "release", encoder, slow, fast'
        ranked += ', "window", history'
        in_force = f"encoder IN (SELECT encoder FROM releases WHERE epoch < {epoch})"  # later ones fold windows again
        wanted = {
            "outcomes": (ranked, f"epoch <= {epoch}"),
            "negative_memories": ('"user", "window", encoder, r2', f"time <= {self.end(epoch)} AND {in_force}"),
            "releases": ("version, kind, epoch, manifest", f"epoch <= {epoch}"),
            "metric_points": ("epoch, variant, subset, form, n, ndcg_10", f"epoch <= {epoch}"),
        }
        queries = {
            table: f"SELECT {what} FROM {table} WHERE {some} ORDER BY 1, 2, 3, 4"
            for table, (what, some) in wanted.items()
        }
        return {name: self.rows(query) for name, query in queries.items()}

    def states(self, epoch: int) -> dict[tuple[str, str], Any]:
        """The states, on device and cloud, of the users that did nothing later."""
        found = self.rows(f'SELECT side, "user", epoch, state FROM user_snapshots WHERE epoch <= {epoch}')
        return {(side, user): rest for side, user, *rest in found}

    def end(self, epoch: int) -> int:
        """The event time of an epoch's last event, ms."""
        return int(self.rows(f"SELECT max(time) FROM interactions WHERE epoch <= {epoch}")[0][0])


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return Done.of(events(1), tmp_path_factory.mktemp("honest") / "run")


def test_changing_everything_after_a_moment_changes_nothing_before_it(honest: Done, tmp_path: Path) -> None:
    log = events(1)
    start = next(i for i in range(CHANGED * EPOCH + 10, len(log)) if log[i].impression != log[i - 1].impression)
    other = Done.of(changed(log, start), tmp_path / "run")  # within epoch CHANGED, between two slates
    for name, rows in honest.until(CHANGED - 1).items():
        assert rows, name
        assert rows == other.until(CHANGED - 1)[name], name
    states = [done.states(CHANGED - 1) for done in (honest, other)]
    unchanged = states[0].keys() & states[1].keys()
    assert {side: sum(each == side for each, _ in unchanged) for side in SIDES} == dict.fromkeys(SIDES, QUITTERS)
    assert states[0].keys() == states[1].keys()
    assert all(states[0][user] == states[1][user] for user in unchanged)
    assert honest.until(CHANGED)["outcomes"] != other.until(CHANGED)["outcomes"]  # the change is there
    moment = min(honest.end(CHANGED - 1), other.end(CHANGED - 1))
    scored = [rescored(done, moment) for done in (honest, other)]
    assert scored[0] == scored[1]


def rescored(done: Done, as_of: int) -> Any:
    engine = connect(f"sqlite:///{done.out / 'mc2sf.db'}")
    run = json.loads((done.out / "run.json").read_text())["run"]
    result = rescore.rescore(engine, run, as_of=as_of)
    engine.dispose()
    assert result.outcomes > 300
    return result.metrics


def test_nobody_knows_how_a_coin_will_fall(honest: Done) -> None:
    """A gain on the twins can only come from what was not known yet: from the slate's own click, say."""
    twins = {item for (item,) in honest.rows(f"SELECT item FROM items WHERE name IN {TWINS}")}
    won: dict[str, list[float]] = {}
    for target, ranks in honest.rows("SELECT target, ranks FROM outcomes WHERE slate = 'logged'"):
        if target in twins:
            for variant, rank in json.loads(ranks).items():
                won.setdefault(variant, []).append(rank)
    assert set(won) == {"random", "popularity", "river", "din", "f2s", "fast", "mc2sf", "served"}
    for variant, ranks in won.items():
        n = len(ranks)
        first = sum(rank == 1 for rank in ranks) / n
        assert n > 350
        assert first < 0.5 + 4 * math.sqrt(0.25 / n), f"{variant} is right in {first:.2f} of {n}"
