"""The ladder of sizes: every variant against popularity on the first 500, 2,000, 10,000 clicks of a log.

Run `python -m benchmarks.training.ladder SOURCE`; SOURCE is as for `mc2sf run`, or `sparse`: slates with 100,000 items
and less than one click per item, or `repeating`: half of the clicks are on an item that the user clicked before.

The beginning of the log up to so many clicks is one stream of 200 epochs with ten retrains, imitated in one process:
each click is ranked by the release in force, whose retrains know earlier clicks only. Differences of NDCG@10 to
popularity on the same clicks have 95 % intervals by a bootstrap over users. Rows are added to the results of other
sources.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import described
from benchmarks.training.increment import logged
from benchmarks.training.repeating_world import repeating_log
from benchmarks.training.simulation import Simulated, simulate
from benchmarks.training.sparse_world import sparse_log
from models.data.event_kinds import CLICK, PAST_CLICK
from models.data.interaction_log import InteractionLog
from models.evaluation.bootstrap import UserBootstrap
from models.evaluation.metrics import gains
from models.training.retrain import TrainConfig

RESULT = Path(__file__).with_name("ladder.json")
SIZES = (500, 2_000, 10_000)
EPOCHS, EVERY = 200, 20
RANKED = 2_000  # evenly spread over the stream
QUARTERS = 4
WORLDS = {"sparse": partial(sparse_log, 4_000, 100_000), "repeating": partial(repeating_log, 300, 1_500)}


def beginning(log: InteractionLog, clicks: int) -> InteractionLog:
    """Return the events up to click number `clicks`, in epochs of equal numbers of events without past clicks."""
    last = np.sort(log.times[log.kinds == CLICK])[:clicks][-1]
    kept = log.times <= last
    times, kinds = log.times[kept], log.kinds[kept]
    live = np.sort(times[kinds != PAST_CLICK])
    ends = live[np.linspace(0, len(live) - 1, EPOCHS + 1).astype(np.int64)[1:-1]]
    offsets = np.concatenate([[0], np.cumsum(kept)])[log.offsets]
    return InteractionLog(offsets, log.keys[kept], kinds, times, log.impressions[kept], np.searchsorted(ends, times))


def row(source: str, clicks: int, found: Simulated) -> dict[str, Any]:
    """Return the figures of one size as JSON."""
    quarter = found.epochs * QUARTERS // (int(found.epochs.max()) + 1)
    of = {name: gains(ranks)["ndcg@10"] for name, ranks in found.ranks.items()}
    names = [name for name in of if name != "popularity"]
    _, users = np.unique(found.users, return_inverse=True)
    differences = np.stack([of[name] - of["popularity"] for name in names])
    estimates = UserBootstrap(int(users.max()) + 1, 1).estimates(users, differences)
    worst = []
    for part in range(QUARTERS):
        some = quarter == part
        _, of_part = np.unique(users[some], return_inverse=True)
        bootstrap = UserBootstrap(int(of_part.max()) + 1, 1)
        worst.append([e.high for e in bootstrap.estimates(of_part, differences[:, some])])
    return {
        "source": source,
        "clicks": clicks,
        "ranked": len(users),
        "users": int(users.max()) + 1,
        "ndcg@10": {name: round(float(values.mean()), 4) for name, values in of.items()},
        "minus popularity": {
            name: [round(value, 4) if np.isfinite(value) else None for value in (e.value, e.low, e.high)]
            for name, e in zip(names, estimates, strict=True)
        },
        "quarters below popularity": {
            name: [part + 1 for part in range(QUARTERS) if worst[part][i] < 0] for i, name in enumerate(names)
        },
        "retrains": [[round(made.active, 4), round(made.candidate, 4), made.kept] for made in found.retrains],
        "refused": found.accepted.count(False),
    }


def main() -> None:
    """Measure each size, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help=f"as for `mc2sf run`, or {' or '.join(WORLDS)}")
    parser.add_argument("--clicks", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if world := WORLDS.get(options.source):
        first = partial(world, epochs=EPOCHS, seed=options.seed)
    else:
        first = partial(beginning, logged(options.source)[1])
    name = options.source.partition(":")[0]
    for clicks in options.clicks:
        found = simulate(
            first(clicks=clicks),
            TrainConfig(),
            lambda made: made.finite and made.candidate <= made.active,
            every=EVERY,
            seed=options.seed,
            most=RANKED,
        )
        made = row(name, clicks, found)
        print(json.dumps(made), flush=True)
        kept = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
        kept = [each for each in kept if (each["source"], each["clicks"]) != (name, clicks)]
        rows = sorted([*kept, made], key=lambda each: (each["source"], each["clicks"]))
        result = {"seed": options.seed, "rows": rows, "machine": described(("torch", "numpy"))}
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
