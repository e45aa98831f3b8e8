"""A series of retrains, at several paces of the learning rate: `python -m benchmarks.training.pace SOURCE`.

As in a stream, each retrain continues from the active release on new clicks and a sample of old ones. Its nets are
released if they are no worse on the held-out clicks (the gate of a run allows a little more). The active nets after
each retrain are evaluated on the clicks until the next one: NDCG@10 among 99 items drawn for each, the same at all
paces. Learning rate = full rate x (share of clicks used) ** pace; with pace 0 it is always the full rate.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import described
from benchmarks.training.increment import SPEC, Judge, logged, means, until
from models.data.catalogue import Catalogue
from models.data.interaction_log import InteractionLog
from models.mc2sf.nets import NetConfig, Nets
from models.training.retrain import TrainConfig, TrainResult, retrain

RESULT = Path(__file__).with_name("pace.json")
PACES = (0.0, 1.0, 1.5, 2.0)


def followed(
    log: InteractionLog,
    every: int,
    last: int,
    config: TrainConfig,
    seed: int,
    retrain: Callable[..., TrainResult] = retrain,
) -> list[dict[str, Any]]:
    """Return a row per retrain, one in `every` epochs until `last`."""
    nets, catalogue, since = Nets.initial(NetConfig(), Catalogue([]).size, seed), Catalogue([]), None
    rows = []
    for epoch in range(every, last, every):
        result = retrain(nets, catalogue, until(log, epoch), config=config, spec=SPEC, seed=seed + epoch, since=since)
        released = result.finite and result.candidate <= result.active
        if released:
            nets, catalogue, since = result.nets, result.catalogue, result.trained_until
        known = result.catalogue
        judge = Judge(log, known, epoch, epoch + every, seed)
        gains = judge.gains(nets.grown(known.size, seed))
        rows.append(
            {"epoch": epoch, "released": released, "trained": result.trained, "judged": len(judge)}
            | {"ndcg@10": means(gains)}
        )
    return rows


def main() -> None:
    """Measure, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="as for `mc2sf run`")
    parser.add_argument("--paces", type=float, nargs="+", default=PACES)
    parser.add_argument("--every", type=int, default=20, help="epochs between two retrains")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan, log = logged(options.source)
    of = {}
    for pace in options.paces:
        rows = followed(log, options.every, plan.epochs, replace(TrainConfig(), pace=pace), options.seed)
        of[pace] = {"mean": _mean(rows), "rows": rows}
        print(pace, json.dumps(of[pace]["mean"]), flush=True)
        result = {"data": options.source.partition(":")[0], "epochs": plan.epochs, "every": options.every}
        result |= {"seed": options.seed, "paces": of, "machine": described(("torch", "numpy"))}
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def _mean(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean over all evaluated clicks by variant."""
    weights = [row["judged"] for row in rows]
    return {
        name: round(float(np.average([row["ndcg@10"][name] for row in rows], weights=weights)), 4)
        for name in rows[0]["ndcg@10"]
    }


if __name__ == "__main__":
    main()
