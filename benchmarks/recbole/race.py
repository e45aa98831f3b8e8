"""Compare an epoch of the experiments' trainer with one of RecBole 1.2.1: the same net, sizes and data.

Run `python -m benchmarks.recbole.race SOURCE`. Ours trains twice: with RecBole's loss (the softmax over the whole
catalogue, without negatives), and with our hyperparameters (128 negatives per batch). The contenders take turns, an
epoch each, in alternating order, one thread each. At the end all rank the same test clicks among the same candidates;
then ours continue until they rank as well as RecBole does after its epochs, or have used as much CPU time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.machine import described
from benchmarks.recbole.ours import Ours, net_of
from benchmarks.recbole.rival import NETS, RECBOLE, Rival, environment
from benchmarks.rounding import rounded
from deploy.experiments.data.dataset import load
from deploy.experiments.data.protocol import LEAVE_ONE_OUT, Phase
from deploy.experiments.runner.significance import by_user, compare
from deploy.experiments.training import minibatches
from deploy.experiments.training.hyperparameters import SEQUENCES, Hyperparameters
from deploy.experiments.training.trainer import Trainer
from models.evaluation.metrics import metrics
from models.training.objectives import SequenceBatch
from replay.sources.source import parse

LENGTH = 50
PROTOCOL = replace(LEAVE_ONE_OUT, negatives=99, history=LENGTH, recent=LENGTH)


def main() -> None:
    """Race and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="as of `mc2sf run`: ml-1m:DIR")
    parser.add_argument("--environment", type=Path, required=True, help=f"folder for {RECBOLE}; made where it is not")
    parser.add_argument("--nets", nargs="+", choices=sorted(NETS), default=sorted(NETS))
    parser.add_argument("--users", type=int, help="a sample of so many [all]")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--clicks", type=int, default=2048, help="a batch [RecBole's default: 2048]")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("recbole.json"))
    request = parser.parse_args()
    torch.set_num_threads(1)
    python = environment(request.environment.absolute())
    before = os.getloadavg()[0]
    with TemporaryDirectory() as name:
        folder = Path(name)
        trainer = Trainer(load(parse(request.source), PROTOCOL, folder, request.users), PROTOCOL, folder)
        races = []
        for net in request.nets:
            races.append(race(net, trainer, python, folder / net, request.epochs, request.clicks))
            write(request, trainer, races, before)


def write(request: argparse.Namespace, trainer: Trainer, races: list[dict[str, Any]], before: float) -> None:
    """Write the races so far."""
    result = {
        "data": request.source.partition(":")[0],
        "counts": trainer.dataset.counts(),
        "protocol": asdict(PROTOCOL),
        "recbole": RECBOLE,
        "clicks a batch": request.clicks,
        "epochs": request.epochs,
        "machine": described(["torch", "numpy"]),
        "load": [round(before, 1), round(os.getloadavg()[0], 1)],
        "races": races,
    }
    request.out.write_text(json.dumps(result, indent=1) + "\n")


def race(model: str, trainer: Trainer, python: Path, folder: Path, epochs: int, clicks: int) -> dict[str, Any]:
    """Race all contenders with one net. Return the result."""
    folder.mkdir()
    params = replace(SEQUENCES, batch=sequences_a_batch(trainer, SEQUENCES, clicks))
    rival = Rival(python, folder / "recbole", model, trainer, params, clicks)
    same, sampled = (
        Ours(name, net_of(model, trainer, params), trainer, params, folder, whole=whole)
        for name, whole in (("ours, RecBole's loss", True), ("ours, recipe", False))
    )
    contenders: list[Rival | Ours] = [rival, same, sampled]
    spent: dict[str, list[dict[str, Any]]] = {each.name: [] for each in contenders}
    for number in range(epochs):
        for each in contenders if number % 2 == 0 else reversed(contenders):
            spent[each.name].append(each.epoch(number))
            print(model, each.name, spent[each.name][-1], flush=True)
    lists, users = trainer.candidate_lists(Phase.TEST), trainer.test_users
    ranks = {rival.name: rival.ranks(lists, trainer.known_history().queries(lists.clicks))}
    rival.close()
    ranks |= {each.name: each.ranks() for each in (same, sampled)}
    rows = {name: _row(spent[name], spent[rival.name]) | metrics(ranks[name]) for name in ranks}
    gains = {name: by_user(of[None], users) for name, of in ranks.items()}
    for each in (same, sampled):
        limit = each.limit()
        rows[each.name] |= {"products": limit, "share of the limit": limit["seconds"] / rows[each.name]["cpu"]}
        (test,) = (
            t
            for t in compare((each.name, gains[each.name]), (rival.name, gains[rival.name]), 1)
            if t.metric == "ndcg@10"
        )
        rows[each.name]["test"] = asdict(test)
        rows[each.name]["as good"] = as_good(each, spent[each.name], spent[rival.name], rows[rival.name]["ndcg@10"])
    return {"net": model, "recipe": params.settings(), "rows": rounded(rows, 5)}


def as_good(ours: Ours, spent: list[dict[str, Any]], rival: list[dict[str, Any]], goal: float) -> dict[str, Any]:
    """Return the epochs until NDCG@10 reaches `goal`, and the ratio of RecBole's CPU time to theirs.

    Looked at after the raced epochs and each one more; `times as fast` is 0 if RecBole's CPU time was not enough.
    """
    cpu, limit = sum(epoch["cpu"] for epoch in spent), sum(epoch["cpu"] for epoch in rival)
    epochs, reached = len(spent), metrics(ours.ranks())["ndcg@10"]
    while reached < goal and cpu < limit:
        cpu += ours.epoch(epochs)["cpu"]
        epochs, reached = epochs + 1, metrics(ours.ranks())["ndcg@10"]
    return {"epochs": epochs, "cpu": cpu, "ndcg@10": reached, "times as fast": limit / cpu if reached >= goal else 0}


def sequences_a_batch(trainer: Trainer, params: Hyperparameters, clicks: int) -> int:
    """Return the number of our sequences with about `clicks` targets: as many steps per epoch as RecBole."""
    draw = minibatches.of_sequences(trainer.dataset, params, (Phase.SLOW,), LENGTH)
    drawn = [batch for batch in draw(0, np.random.default_rng(0)) if isinstance(batch, SequenceBatch)]
    return round(clicks * sum(len(batch.sequences) for batch in drawn) / sum(map(len, drawn)))


def _row(epochs: list[dict[str, Any]], rival: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians, and the speed relative to RecBole: the median over the turns."""
    row: dict[str, Any] = {"epochs": epochs, "steps": epochs[-1]["steps"]}
    for clock in ("wall", "cpu"):
        row[clock] = statistics.median(epoch[clock] for epoch in epochs)
        row[f"times as fast, {clock}"] = statistics.median(
            other[clock] / epoch[clock] for epoch, other in zip(epochs, rival, strict=True)
        )
    return row


if __name__ == "__main__":
    main()
