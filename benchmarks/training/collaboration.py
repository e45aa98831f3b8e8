"""Measure the value of the cloud's knowledge: a stream's retrains in one process, mixtures of scores on its clicks.

Run `python -m benchmarks.training.collaboration SOURCE`.

Ten retrains on the plan's epochs, as in a stream. Each click is ranked among 99 other items of the catalogue by the
newest release before it, with the cloud's history delayed by epochs. A mixture is a weighted sum of scores; its weights
are fitted on the clicks of the interval before the one that is ranked, which its release had not seen, and item
neighbours are those of the clicks before the release. Intervals are those of a paired bootstrap over users. One thread,
deterministic for a seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import described
from benchmarks.training.increment import SPEC, logged, until
from models.data.catalogue import Catalogue
from models.data.interaction_log import InteractionLog, Ints, click_states
from models.data.ranges import Ranges
from models.evaluation.bootstrap import UserBootstrap
from models.evaluation.metrics import gains
from models.mc2sf.nets import NetConfig, Nets
from models.training.losses import sampled_softmax
from models.training.minibatches import Batch, ClickSource
from models.training.retrain import TrainConfig, retrain
from models.training.stacking import fit_weights

RESULT = Path(__file__).with_name("collaboration.json")
RETRAINS = 10
OTHERS = 99
BATCH = 128
Floats = NDArray[np.float64]
Scores = dict[str, torch.Tensor]  # by name, [B, 1 + OTHERS] each
ScoresOf = Callable[[Nets, ClickSource, Ints], Callable[[Batch], Scores]]  # of a release and the clicks before it

# scores by name; each mixture starts from a weight of one for its first and of zero for the others
MIXTURES: dict[str, tuple[str, ...]] = {
    "fast": ("fast",),
    "din": ("din",),
    "f2s": ("f2s",),
    "S2F (the paper's mc2sf)": ("s2f",),
    "clicks of the item": ("popularity",),
    "EASE, short clicks": ("ease",),
    "transitions": ("transitions",),
    "mc2sf as released": ("mc2sf",),
    "fast + popularity": ("fast", "popularity"),
    "fast + f2s": ("fast", "f2s"),
    "fast + S2F": ("fast", "s2f"),
    "fast + S2F + f2s + din": ("fast", "s2f", "f2s", "din"),
    "fast + EASE": ("fast", "ease"),
    "fast + transitions": ("fast", "transitions"),
    "fast + EASE + transitions": ("fast", "ease", "transitions"),
    "fast + EASE + transitions + popularity": ("fast", "ease", "transitions", "popularity"),
    "fast + S2F + f2s + EASE + transitions": ("fast", "s2f", "f2s", "ease", "transitions"),
    "the same, by whether the cloud knows the user": (
        *("fast", "s2f", "f2s", "ease", "transitions"),
        *("known f2s", "known s2f", "known ease", "known transitions"),
    ),
}


@dataclass(frozen=True)
class Interval:
    """Clicks between two retrains [M]: their scores [M, 1 + OTHERS] by name, column 0 the click."""

    users: Ints
    both_known: NDArray[np.bool_]  # the cloud has a history and an r2
    scores: Scores


def intervals(log: InteractionLog, epochs: int, seed: int, more: ScoresOf | None = None) -> Iterator[Interval]:
    """Yield the intervals after each retrain, with the scores of `more` beside the usual ones."""
    every = epochs // RETRAINS
    nets, catalogue, since = (
        Nets.initial(NetConfig(floor=True, stacked=True), Catalogue([]).size, seed),
        Catalogue([]),
        None,
    )
    for epoch in range(every, epochs, every):
        before = until(log, epoch)
        made = retrain(nets, catalogue, before, config=TrainConfig(), spec=SPEC, seed=seed, since=since)
        nets, catalogue, since = made.nets, made.catalogue, made.trained_until
        states = click_states(until(log, epoch + every), SPEC)
        none = np.zeros(len(states), np.int64)  # no slates: the others come from the catalogue for every click
        source = replace(ClickSource.from_states(states, catalogue), slate=Ranges(none, none))
        is_ranked = states.log.epochs[states.event] >= epoch
        scores_of = more(nets, source, np.flatnonzero(~is_ranked)) if more else lambda _: {}
        yield _scored(nets, source, np.flatnonzero(is_ranked), seed, scores_of)


@torch.inference_mode()
def _scored(nets: Nets, source: ClickSource, some: Ints, seed: int, scores_of: Callable[[Batch], Scores]) -> Interval:
    states, scores, order = source.states, [], []
    for start in range(0, len(some), BATCH):
        chosen = some[start : start + BATCH]
        # the order of a batch
        order.append(chosen[np.argsort(states.history.lengths(chosen, SPEC.history_long), kind="stable")])
        batch = source.batch(chosen, np.random.default_rng([seed, start]), n=OTHERS)
        logits = nets(batch.inputs(nets, nets.encoder.E[batch.rows]))
        clicks, items = batch.rows[batch.clicks], batch.rows[batch.items]
        ease, transitions = nets.fast.neighbours.affinities(clicks, items)
        known = batch.history.ne(0).any(1, keepdim=True)
        of = logits._asdict() | {"s2f": logits.mc2sf, "mc2sf": nets.stacked(logits, clicks, items).mc2sf}
        of |= {"ease": ease, "transitions": transitions, "popularity": batch.item_statistics[..., 0].float()}
        of |= {f"known {name}": known * of[name] for name in ("f2s", "s2f", "ease", "transitions")}
        scores.append(of | scores_of(batch))
    columns = {name: torch.cat([of[name] for of in scores]) for name in scores[0]}
    clicks_of = np.concatenate(order)
    known_users = (states.history.lengths(clicks_of, 1) > 0) & (states.window[clicks_of] > 0)
    return Interval(states.user[clicks_of], known_users, columns)


def mixture(found: Sequence[Interval], names: tuple[str, ...]) -> Floats:
    """Return NDCG@10 of each click by a mixture; ties count half."""
    weights, values = torch.tensor([1.0] + [0.0] * (len(names) - 1)), []
    for interval in found:
        features = torch.stack([interval.scores[name] for name in names], -1)
        scores = features @ weights
        ahead, level = (scores > scores[:, :1]).sum(1), (scores == scores[:, :1]).sum(1)
        values.append(gains((1 + ahead + (level - 1) / 2).numpy())["ndcg@10"])
        if len(names) > 1:
            weights = fit_weights(features, weights, sampled_softmax)
    return np.concatenate(values)


def compared(
    users: Ints, known: NDArray[np.bool_], values: Floats, base: Floats, seed: int, name: str
) -> dict[str, object]:
    """Return NDCG@10 and, as `name`, the interval of its difference to `base`: of all clicks, and where both know."""
    bootstrap, row = UserBootstrap(int(users.max()) + 1, seed), dict[str, object]()
    for subset, some in (("all", np.ones(len(users), np.bool_)), ("both known", known)):
        gain = bootstrap.estimates(users[some], (values - base)[None, some])[0]
        row[subset] = {"ndcg@10": round(float(values[some].mean()), 4), name: [round(gain.low, 4), round(gain.high, 4)]}
    return row


def main() -> None:
    """Rank, and write a row for each mixture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="as for `mc2sf run`")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan, log = logged(options.source)
    found = []
    for interval in intervals(log, plan.epochs, options.seed):
        found.append(interval)
        print(f"{len(found)}: {len(interval.users)} clicks", flush=True)
    users = np.concatenate([interval.users for interval in found])
    known = np.concatenate([interval.both_known for interval in found])
    base, rows = mixture(found, ("fast",)), []
    for name, names in MIXTURES.items():
        values = mixture(found, names)
        row = {"scores": name} | compared(users, known, values, base, options.seed, "minus fast")
        rows.append(row)
        print(json.dumps(row), flush=True)
    result = {
        "data": options.source.partition(":")[0],
        "retrains": len(found),
        "clicks": {"all": len(users), "both known": int(known.sum())},
        "seed": options.seed,
        "rows": rows,
        "machine": described(("torch", "numpy")),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
