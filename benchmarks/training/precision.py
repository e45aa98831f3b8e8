"""The speed of bf16 and of torch.compile: `python -m benchmarks.training.precision SOURCE [BATCHES]`.

Steps of each net are timed with full precision, under bf16 autocast and compiled by inductor, in turns on the same
batches, in CPU time of one core; a first pass over them warms up and compiles. SASRec, which bf16 makes faster, is then
fitted with and without it at each width and evaluated on the validation clicks of SOURCE. Writes precision.json.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.machine import described
from deploy.experiments.data.protocol import Protocol
from deploy.experiments.definitions.experiment import Request
from deploy.experiments.runner.runner import Trainers
from deploy.experiments.training import minibatches, models
from deploy.experiments.training.hyperparameters import Hyperparameters, HyperparameterSet
from deploy.experiments.training.trainer import Trainer
from models.mc2sf.variants import DIN, F2S, FastAlone
from models.training.objectives import objective
from replay.json_file import write_json
from replay.sources.source import parse

Build = Callable[[HyperparameterSet], nn.Module]
MODES = ("float32", "bf16", "compiled")
WIDTHS = (32, 64, 128, 256)
CPUS = Path("/proc/cpuinfo")


@dataclass
class Contender:
    """One net in one mode, with an optimiser of its own."""

    objective: nn.Module
    mode: str
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._loss: Callable[[Any], torch.Tensor] = (
            torch.compile(self.objective, dynamic=True) if self.mode == "compiled" else self.objective
        )
        self._optimiser = torch.optim.Adam(self.objective.parameters(), fused=True)

    def step(self, batch: Any) -> None:
        """Run forward, backward and the optimiser on a batch."""
        begun = time.process_time()
        self._optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mode == "bf16"):
            loss = self._loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it so
        self._optimiser.step()
        self.seconds += time.process_time() - begun


def main(source: str, most: int) -> None:
    """Time every net on `source`, then fit SASRec of each width with and without bf16."""
    torch.set_num_threads(1)
    request = Request(parse(source), Protocol(), seeds=1)
    usual = request.hyperparameters
    with TemporaryDirectory() as folder:
        trainer = Trainers(request, Path(folder)).of(request.protocol)
        nets: list[tuple[str, str, HyperparameterSet, Build]] = [
            ("DIN", "din", usual, lambda h: DIN(models.nets(trainer, h.din, 1))),
            ("DIN w/ F2S", "f2s", usual, lambda h: F2S(models.nets(trainer, h.f2s, 1))),
            ("fast alone", "fast", usual, lambda h: FastAlone(models.nets(trainer, h.fast, 1))),
            ("GRU4Rec", "gru4rec", usual, lambda h: models.new_gru4rec(trainer, h, 1)),
            *(
                ("SASRec", "sasrec", usual.varied(("sasrec",), dim=dim), lambda h: models.new_sasrec(trainer, h, 1))
                for dim in WIDTHS
            ),
        ]
        steps = []
        for name, field, hyperparameters, build in nets:
            params = hyperparameters.of(field)
            seconds = raced(trainer, params, partial(build, hyperparameters), most)
            ratios = {mode: round(seconds[mode] / seconds["float32"], 2) for mode in MODES[1:]}
            steps.append({"net": name, "dim": params.dim, "ms": round(1e3 * seconds["float32"], 1), **ratios})
            print(steps[-1], flush=True)
        fits = []
        for dim in WIDTHS:
            for bf16 in (False, True):
                trainer.cost.clear()
                models.fitted_sasrec(trainer, request.hyperparameters.varied(("sasrec",), dim=dim, bf16=bf16), 1)
                curve = trainer.cost.curves["SASRec"]
                fits.append({"net": "SASRec", "dim": dim, "bf16": bf16, "validation": max(curve), "epochs": len(curve)})
                print(fits[-1], flush=True)
    result = {
        "source": source.partition(":")[0],
        "batches": most,
        "machine": described(["torch"]),
        "amx": CPUS.exists() and "amx_bf16" in CPUS.read_text(),
        "steps": steps,
        "fits": fits,
    }
    write_json(Path(__file__).with_suffix(".json"), result)


def raced(trainer: Trainer, params: Hyperparameters, build: Callable[[], nn.Module], most: int) -> dict[str, float]:
    """Return the CPU seconds of a step in each mode, in turns over the same `most` batches."""
    net = build()
    some = models.BOTH if isinstance(net, FastAlone) else models.SLOW
    epoch = minibatches.of_net(net, trainer.dataset, trainer.protocol, params, some)
    drawn = list(islice(epoch(0, np.random.default_rng(1)), most))
    contenders = [Contender(objective(build(), params.loss), mode) for mode in MODES]
    for number, batch in enumerate([*drawn, *drawn]):
        if number == len(drawn):
            for contender in contenders:
                contender.seconds = 0.0
        for contender in contenders if number % 2 else reversed(contenders):
            contender.step(batch)
    return {each.mode: each.seconds / len(drawn) for each in contenders}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 30)
