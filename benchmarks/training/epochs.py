"""The cost of an epoch of each net on a source, by its parts, in seconds of one core.

Run `python -m benchmarks.training.epochs SOURCE [BATCHES]`. A few batches are timed (in CPU time, which other processes
do not change) and scaled to all clicks of the slow phase. Prints one JSON line per net.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from deploy.experiments.data.dataset import Dataset, load
from deploy.experiments.data.protocol import Phase, Protocol
from deploy.experiments.training import minibatches
from deploy.experiments.training.hyperparameters import Hyperparameters, HyperparameterSet
from models.baselines.gru4rec import GRU4Rec, GRU4RecConfig
from models.baselines.sasrec import SASRec, SASRecConfig
from models.mc2sf.nets import NetConfig, Nets
from models.mc2sf.variants import DIN, F2S, MC2SF, FastAlone
from models.training.objectives import objective
from replay.sources.source import parse

SLOW = (Phase.SLOW,)


def main(source: str, most: int) -> None:
    """Time every net on `source`."""
    torch.set_num_threads(1)
    protocol, hyperparameters = Protocol(), HyperparameterSet()
    with TemporaryDirectory() as folder:
        dataset = load(parse(source), protocol, Path(folder))

    def nets() -> Nets:
        return Nets.initial(NetConfig(), dataset.rows, 1)

    rows: list[tuple[str, nn.Module, Hyperparameters]] = [
        ("DIN", DIN(nets()), hyperparameters.din),
        ("DIN w/ F2S", F2S(nets()), hyperparameters.f2s),
        ("fast alone", FastAlone(nets()), hyperparameters.fast),
        ("MC2-SF", MC2SF(nets()), hyperparameters.s2f),
        ("GRU4Rec", GRU4Rec(GRU4RecConfig(length=protocol.recent), dataset.rows), hyperparameters.gru4rec),
        ("SASRec", SASRec(SASRecConfig(length=protocol.history), dataset.rows), hyperparameters.sasrec),
    ]
    for name, net, params in rows:
        print(json.dumps({"net": name, "negatives": params.negatives, **timed(dataset, protocol, net, params, most)}))


def timed(dataset: Dataset, protocol: Protocol, net: nn.Module, params: Hyperparameters, most: int) -> dict[str, float]:
    """Return the seconds of an epoch: drawing batches, forward, backward, optimiser."""
    draw, minimised = minibatches.of_net(net, dataset, protocol, params, SLOW), objective(net, params.loss)
    optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], fused=True)
    spent: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(into: str) -> Iterator[None]:
        begun = time.process_time()
        yield
        spent[into] += time.process_time() - begun

    clicks = 0
    with part("folding"):
        epoch = draw(0, np.random.default_rng(0))
        batch = next(epoch, None)
    for _ in range(most) if most else count():
        if batch is None:
            break
        clicks += len(batch)
        optimiser.zero_grad()
        with part("forward"):
            loss = minimised(batch)
        with part("backward"):
            loss.backward()
        with part("optimiser"):
            optimiser.step()
        with part("sampler"):
            batch = next(epoch, None)
    folding = spent.pop("folding")
    scale = len(dataset.clicks(*SLOW)) / max(clicks, 1)
    parts = {name: round(seconds * scale, 1) for name, seconds in spent.items()}
    return {
        "clicks": clicks,
        "folding": round(folding, 1),
        **parts,
        "epoch": round(folding + sum(spent.values()) * scale, 1),
    }


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 60)
