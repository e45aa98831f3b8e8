"""mc2sf against its own fast part after each retrain, on the lists that the stream would rank.

Run `python -m benchmarks.training.stack SOURCE`.

The stream's retrains one after another in one process, without a learner. After each, clicks of the next interval,
evenly spread, are ranked by its release: among the other items of their slate or, without one, 99 items of the
release's catalogue. Transitions are as old as the retrain. Intervals are those of a paired bootstrap over users.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import described
from benchmarks.training.increment import logged, until
from benchmarks.training.simulation import SPEC, by_nets, candidates
from models.data.catalogue import ROW_UNKNOWN, Catalogue
from models.data.interaction_log import InteractionLog, Ints, click_states
from models.evaluation.bootstrap import UserBootstrap
from models.evaluation.metrics import gains
from models.mc2sf.nets import NetConfig, Nets
from models.mc2sf.stacking import FEATURES
from models.training.minibatches import ClickSource
from models.training.retrain import TrainConfig, retrain

EVERY, DELAY = 20, 2  # epochs between retrains, and until one is applied
OTHERS = 99


@dataclass(frozen=True)
class Interval:
    """NDCG@10 of clicks [M] by each variant of one release, and the weights of its stack."""

    start: int
    users: Ints
    values: dict[str, NDArray[np.float64]]
    weights: list[float]


def intervals(log: InteractionLog, end: int, most: int, seed: int) -> list[Interval]:
    """Return the intervals after each retrain before epoch `end`, with at most so many clicks each."""
    states = click_states(log, SPEC)
    order, epochs = states.order(), log.epochs[states.event]
    everything = Catalogue(np.unique(log.keys))
    source = ClickSource.from_states(states, everything)
    nets, catalogue, since = Nets.initial(NetConfig(floor=True, stacked=True), 2, seed), Catalogue([]), None
    found = []
    for start in range(EVERY, end, EVERY):
        made = retrain(nets, catalogue, until(log, start), config=TrainConfig(), spec=SPEC, seed=seed, since=since)
        if not (made.finite and made.candidate <= made.active):
            continue
        nets, catalogue, since = made.nets, made.catalogue, made.trained_until
        when = epochs[order]
        some = order[(when >= start + DELAY) & (when < start + EVERY + DELAY)]
        some = some[np.linspace(0, len(some) - 1, min(most, len(some))).astype(np.int64)]
        rows = everything.rows(catalogue.keys)  # a row of the release for each row of the whole catalogue
        own = np.full(everything.size, ROW_UNKNOWN)
        own[0], own[rows] = 0, np.arange(2, catalogue.size)
        lists = [_list(source, rows, i, seed) for i in some.tolist()]
        ranks = by_nets(nets, source, torch.from_numpy(own), some, lists)
        values = {name: gains(of)["ndcg@10"] for name, of in ranks.items()}
        found.append(Interval(start, states.user[some], values, nets.fast.stack.tolist()))
        print(json.dumps(_row(found[-1:], seed)), flush=True)
    return found


def _list(source: ClickSource, known: Ints, i: int, seed: int) -> Ints:
    """Return the candidates of click `i`, shuffled: its slate, or OTHERS of the `known` rows."""
    if source.slate.end[i] > source.slate.start[i]:
        return candidates(source, i, seed)
    draw, target = np.random.default_rng([seed, 7, i]), source.targets[i]
    others = draw.choice(known, min(OTHERS + 1, len(known)), replace=False)
    return np.asarray(draw.permutation(np.append(others[others != target][:OTHERS], target)))


def _row(found: list[Interval], seed: int) -> dict[str, object]:
    """Return the figures of intervals as JSON."""
    users = np.concatenate([each.users for each in found])
    of = {name: np.concatenate([each.values[name] for each in found]) for name in found[0].values}
    gain = UserBootstrap(int(users.max()) + 1, seed).estimates(users, (of["mc2sf"] - of["fast"])[None])[0]
    return {
        "after epochs": [each.start for each in found],
        "clicks": len(users),
        "ndcg@10": {name: round(float(values.mean()), 4) for name, values in of.items()},
        "mc2sf minus fast": [round(value, 4) for value in (gain.value, gain.low, gain.high)],
        "weights": [dict(zip(FEATURES, np.round(each.weights, 3).tolist(), strict=True)) for each in found],
    }


def main() -> None:
    """Rank, print a row per retrain and one of all, and write the latter with `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="as for `mc2sf run`")
    parser.add_argument("--until", type=float, default=1.0, help="share of the epochs that is looked at")
    parser.add_argument("--most", type=int, default=2000, help="clicks ranked per retrain")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan, log = logged(options.source)
    found = intervals(log, int(plan.epochs * options.until), options.most, options.seed)
    row = _row(found, options.seed) | {"seed": options.seed, "machine": described(("torch", "numpy"))}
    print(json.dumps(row))
    if options.out:
        options.out.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
