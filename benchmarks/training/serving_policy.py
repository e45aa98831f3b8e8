"""Policies that choose the variant to serve, replayed on the recorded ranks of finished runs.

Run `python -m benchmarks.training.serving_policy RUN...` with --out folders. A policy chooses for an epoch by the
NDCG@10 of earlier epochs. The table says what each gains, and that minus the best single variant in hindsight, with a
95 % interval by users.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.report.intervals import SEED, metric_difference
from deploy.runs import find
from models.evaluation.bootstrap import UserBootstrap
from models.evaluation.metrics import gains
from streams.prequential.recorded import OutcomeRow, recorded_outcomes
from streams.prequential.served import SERVABLE

Floats = NDArray[np.float64]
Policy = Callable[
    [Floats, NDArray[np.int64]], NDArray[np.int64]
]  # earlier gains [n, V], contexts [n + m] -> choices [m]


def follow(before: Floats) -> int:
    """Return the variant of the highest sum."""
    return int(before.sum(0).argmax())


def fading(before: Floats) -> int:
    """Return the variant of the highest sum in which a click counts by half after 1,400 later ones."""
    return int(((1 - 1 / 2000) ** np.arange(len(before))[::-1] @ before).argmax())


def hedge(before: Floats, contexts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw variants with weights exp(sum / 2)."""
    weights = np.exp((before.sum(0) - before.sum(0).max()) / 2)
    return np.random.default_rng(len(before)).choice(
        len(weights), len(contexts) - len(before), p=weights / weights.sum()
    )


def one(choose: Callable[[Floats], int]) -> Policy:
    """Return the policy that takes one variant for all clicks of an epoch."""
    return lambda before, contexts: np.full(len(contexts) - len(before), choose(before))


def by_context(before: Floats, contexts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Follow the leader apart for users with a delayed history and an r2, and for others."""
    n = len(before)
    leaders = np.array([follow(before[contexts[:n] == context]) for context in (0, 1)])
    return leaders[contexts[n:]]


POLICIES: dict[str, Policy] = {
    "follow the leader": one(follow),
    "leader, fading": one(fading),
    "leader by context": by_context,
    "Hedge": hedge,
}


def replayed(rows: list[OutcomeRow]) -> dict[str, dict[str, object]]:
    """Return what each variant and each policy gains on the clicks that all variants ranked."""
    rows = [row for row in rows if all(variant in row.ranks for variant in SERVABLE)]
    gained = np.stack([gains([row.ranks[v] for row in rows])["ndcg@10"] for v in SERVABLE], 1)
    contexts = np.array([int(bool(row.history and row.window)) for row in rows])
    best = gained[:, gained.mean(0).argmax()]
    users, user = np.unique([row.user for row in rows], return_inverse=True)
    bootstrap = UserBootstrap(len(users), SEED)
    found: dict[str, dict[str, object]] = {
        variant: {"ndcg@10": round(float(mean), 4)} for variant, mean in zip(SERVABLE, gained.mean(0), strict=True)
    }
    for name, policy in POLICIES.items():
        chosen: list[NDArray[np.int64]] = []
        n = 0
        for _, of_epoch in groupby(rows, attrgetter("epoch")):
            end = n + len(list(of_epoch))
            chosen.append(policy(gained[:n], contexts[:end]))
            n = end
        taken = gained[np.arange(n), np.concatenate(chosen)]
        (estimate,) = bootstrap.estimates(user, (taken - best)[None])
        minus_best = metric_difference(estimate)
        found[name] = {
            "ndcg@10": round(float(taken.mean()), 4),
            "minus best": [round(x, 4) for x in (minus_best.difference, minus_best.low or 0, minus_best.high or 0)],
        }
    return {"clicks": {"n": len(rows), "users": len(users)}, **found}


def main() -> None:
    """Print the table of each run as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    for folder in parser.parse_args().runs:
        found = find(str(folder))
        with found.engine.connect() as connection:
            rows = list(recorded_outcomes(connection, found.settings.run))
        print(json.dumps({folder.name: replayed(rows)}, indent=1))


if __name__ == "__main__":
    main()
