"""Measure what transitions counted between retrains are worth: as old as the retrain against counted every few epochs.

Run `python -m benchmarks.training.transitions SOURCE [--until SHARE]`.

Clicks of a stream are ranked by a weighted sum of item statistics, as the popularity floor, and of the transitions from
the last clicks, without nets. Transitions are counted in the clicks before the last of ten retrains, or before the last
of the epochs EVERY; the weights are fitted anew to all earlier clicks, twice in the time of a retrain. Candidates are
the logged slate, or else 99 items of the log. Intervals are those of a paired bootstrap over users.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import described
from benchmarks.training.increment import SPEC, logged
from models.data.catalogue import ROW_PADDING, Catalogue
from models.data.interaction_log import InteractionLog, click_states, is_click
from models.data.item_neighbours import ItemNeighbours, with_transitions
from models.data.item_statistics import BUCKETS
from models.evaluation.bootstrap import UserBootstrap
from models.evaluation.metrics import gains
from models.mc2sf.nets import log_share
from models.mc2sf.stacking import affinity
from models.training.losses import sampled_softmax
from models.training.minibatches import ClickSource
from models.training.stacking import fit_weights

RESULT = Path(__file__).with_name("transitions.json")
RETRAINS = 10
EVERY = 5  # as the setting `transitions_every`
MAX_RANKED = 60  # clicks ranked per epoch
OTHERS = 99
ABSENT = -50.0  # score of the places that a short slate leaves empty

FLOOR = [0, 1, 2]
FORMS = {"no transitions": FLOOR, "as old as the retrain": [*FLOOR, 3], "counted every few epochs": [*FLOOR, 4]}


def features(log: InteractionLog, epochs: int, end: int, seed: int) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Return the features [M, 1 + OTHERS, 5] of clicks before epoch `end`, column 0 the click, and user and epoch."""
    states, catalogue = click_states(log, SPEC), Catalogue(np.unique(log.keys))
    source, when, order = ClickSource.from_states(states, catalogue), log.epochs[states.event], states.order()
    known = is_click(log.kinds)
    clicks, at = (catalogue.rows(log.keys[known]), log.users[known], log.times[known]), log.epochs[known]
    shares = log_share().numpy()
    neighbours = [ItemNeighbours.empty(catalogue.size)] * 2
    found, places = [], []
    for epoch in range(epochs // RETRAINS, end):
        for kind, every in enumerate((epochs // RETRAINS, EVERY)):
            if epoch % every == 0:
                before = (column[at < epoch] for column in clicks)
                neighbours[kind] = with_transitions(ItemNeighbours.empty(catalogue.size), *before)
        draw = np.random.default_rng([seed, epoch])
        chosen = order[when[order] == epoch]
        for i in draw.permutation(chosen)[:MAX_RANKED].tolist():
            others = np.unique(source.not_clicked[source.slate.start[i] : source.slate.end[i]])
            others = others[others != source.targets[i]][:OTHERS]
            if not len(others):
                others = draw.integers(2, catalogue.size, OTHERS)
            items = np.concatenate([source.targets[[i]], others])
            buckets = source.item_statistics.buckets_of(items, np.full(len(items), epoch))
            last = states.clicks.gather(source.click_rows, np.array([i]), SPEC.history_short, ROW_PADDING)[0]
            row = np.full((1 + OTHERS, 5), 0.0, np.float32)
            row[len(items) :, 0] = ABSENT
            row[: len(items), :3] = np.stack([*(shares[buckets[:, k]] for k in (0, 1)), buckets[:, 2] / BUCKETS], -1)
            row[: len(items), 3:] = np.stack([affinity(each, last[last > 0], items)[1] for each in neighbours], -1)
            found.append(row)
            places.append((states.user[i], epoch))
    return torch.from_numpy(np.stack(found)), np.array(places)


def ranked(x: torch.Tensor, epochs: NDArray[np.int64], step: int) -> NDArray[np.float64]:
    """Return NDCG@10 of each click; the weights are fitted to the clicks of the `step` epochs before, and earlier."""
    start = torch.tensor([1.0] + [0.0] * (x.shape[-1] - 1))
    weights, values = start, np.zeros(len(x))
    for first in range(int(epochs.min()), int(epochs.max()) + 1, step):
        some = (epochs >= first) & (epochs < first + step)
        scores = x[torch.from_numpy(some)] @ weights
        ahead, level = (scores > scores[:, :1]).sum(1), (scores == scores[:, :1]).sum(1)
        values[some] = gains((1 + ahead + (level - 1) / 2).numpy())["ndcg@10"]  # ties count half
        weights = fit_weights(x[torch.from_numpy(epochs < first + step)], start, sampled_softmax)
    return values


def main() -> None:
    """Rank, and write the rows of a source beside those of others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="as for `mc2sf run`")
    parser.add_argument("--until", type=float, default=1.0, help="share of the epochs that is looked at")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan, log = logged(options.source)
    x, places = features(log, plan.epochs, int(plan.epochs * options.until), options.seed)
    values = {name: ranked(x[..., of], places[:, 1], plan.epochs // RETRAINS // 2) for name, of in FORMS.items()}
    _, users = np.unique(places[:, 0], return_inverse=True)
    old = values["as old as the retrain"]
    differences = UserBootstrap(int(users.max()) + 1, options.seed).estimates(
        users, np.stack([each - old for each in values.values()])
    )
    row = {"clicks": len(x), "until": options.until, "every": EVERY, "seed": options.seed} | {
        name: {
            "ndcg@10": round(float(of.mean()), 4),
            "minus old": [round(value, 4) for value in (gain.value, gain.low, gain.high)],
        }
        for (name, of), gain in zip(values.items(), differences, strict=True)
    }
    print(json.dumps(row), flush=True)
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    result |= {options.source.partition(":")[0]: row, "machine": described(("torch", "numpy"))}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
