"""Whether bf16 or torch.compile helps: `precision.py SOURCE [BATCHES]` writes precision.json.

Steps of each net are timed with full precision, under bf16 autocast and compiled by inductor, in turns on the same
batches, in CPU time of one core; a first pass over them warms up and compiles. Where bf16 is faster, nets are then
fitted with and without it and judged on the validation clicks of SOURCE.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.machine import described
from deploy.experiments import batches, rows
from deploy.experiments.bench import Bench
from deploy.experiments.experiment import Asked
from deploy.experiments.protocol import Protocol
from deploy.experiments.recipe import Recipe
from deploy.experiments.running import Benches
from models.forms import DIN, F2S, FastAlone
from models.gru4rec import GRU4Rec, GRU4RecConfig
from models.objectives import OfLists, OfSequences
from models.sasrec import SASRec, SASRecConfig
from models.sequential import Sequential
from replay.plan import write_json
from replay.source import parse

Build = Callable[[Recipe], nn.Module]
MODES = ("float32", "bf16", "compiled")
WIDTHS = (32, 64, 128, 256)


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
        """Forward, backward, optimiser."""
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
    asked = Asked(parse(source), Protocol(), seeds=1)
    with TemporaryDirectory() as folder:
        bench = Benches(asked, Path(folder)).of(asked.protocol)
        recipes = asked.recipes

        def sasrec(recipe: Recipe) -> SASRec:
            torch.manual_seed(1)
            return SASRec(SASRecConfig(recipe.dim, asked.protocol.history, dropout=recipe.dropout), bench.rows)

        def gru4rec(recipe: Recipe) -> GRU4Rec:
            torch.manual_seed(1)
            return GRU4Rec(GRU4RecConfig(recipe.dim, 2 * recipe.dim, asked.protocol.recent), bench.rows)

        nets: list[tuple[str, Recipe, Build]] = [
            ("DIN", recipes.din, lambda recipe: DIN(rows.nets(bench, recipe, 1))),
            ("DIN w/ F2S", recipes.f2s, lambda recipe: F2S(rows.nets(bench, recipe, 1))),
            ("fast alone", recipes.fast, lambda recipe: FastAlone(rows.nets(bench, recipe, 1))),
            ("GRU4Rec", recipes.gru4rec, gru4rec),
            *(("SASRec", replace(recipes.sasrec, dim=dim), sasrec) for dim in WIDTHS),
        ]
        steps = []
        for name, recipe, build in nets:
            seconds = dict(raced(bench, recipe, build, most))
            ratios = {mode: round(seconds[mode] / seconds["float32"], 2) for mode in MODES[1:]}
            steps.append({"net": name, "dim": recipe.dim, "ms": round(1e3 * seconds["float32"], 1), **ratios})
            print(steps[-1], flush=True)
        fits = []
        for dim in WIDTHS:
            for bf16 in (False, True):
                recipe = replace(recipes.sasrec, dim=dim, bf16=bf16)
                bench.spent.clear()
                bench.fit("SASRec", sasrec(recipe), recipe, 1, rows.SLOW)
                curve = bench.spent.curves["SASRec"]
                fits.append({"net": "SASRec", "dim": dim, "bf16": bf16, "validation": max(curve), "epochs": len(curve)})
                print(fits[-1], flush=True)
    result = {
        "source": source.partition(":")[0],
        "batches": most,
        "machine": described(["torch"]),
        "amx": "amx_bf16" in Path("/proc/cpuinfo").read_text(),
        "steps": steps,
        "fits": fits,
    }
    write_json(Path(__file__).with_suffix(".json"), result)


def raced(bench: Bench, recipe: Recipe, build: Build, most: int) -> Iterator[tuple[str, float]]:
    """CPU seconds of a step in each mode, in turns over the same `most` batches."""
    net = build(recipe)
    if isinstance(net, Sequential):
        epoch = batches.of_sequences(bench.dataset, recipe, rows.SLOW, net.length)
    else:
        some = rows.BOTH if isinstance(net, FastAlone) else rows.SLOW
        epoch = batches.of_lists(bench.dataset, bench.protocol, recipe, some)
    drawn = list(islice(epoch(0, np.random.default_rng(1)), most))

    def objective() -> nn.Module:
        new = build(recipe)
        return OfSequences(new, recipe.loss) if isinstance(new, Sequential) else OfLists(new, recipe.loss)

    contenders = [Contender(objective(), mode) for mode in MODES]
    for number, batch in enumerate([*drawn, *drawn]):
        if number == len(drawn):
            for contender in contenders:
                contender.seconds = 0.0
        for contender in contenders if number % 2 else reversed(contenders):
            contender.step(batch)
    yield from ((each.mode, each.seconds / len(drawn)) for each in contenders)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 30)
