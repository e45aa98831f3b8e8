"""The runner: cell after cell, seed by seed; what is done is kept, and the result is written anew after each cell."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from msgspec import structs

from deploy.experiments.data.dataset import load
from deploy.experiments.data.protocol import Phase, Protocol
from deploy.experiments.definitions.experiment import Arm, Asked, Experiment
from deploy.experiments.results.result import CellCount, Difference, Result, RunSettings, Settings, Versions
from deploy.experiments.runner.cells import Cell, Measured, load_or_compute
from deploy.experiments.runner.frequency_slices import slices
from deploy.experiments.runner.significance import by_user, compare
from deploy.experiments.training.trainer import Bench, Told, identity
from models.data.catalogue import ROW_PADDING
from models.evaluation.metrics import mean_chance
from replay.json_file import write_json


class Benches:
    """One bench for each protocol: data are read and folded once."""

    def __init__(
        self,
        asked: Asked,
        work: Path,
        told: Told = lambda *_: None,
        reading: Callable[[str, int], None] | None = None,
        *,
        kept_only: bool = False,
    ) -> None:
        """`work` keeps sorted logs and fits; `kept_only`: see `Bench`."""
        self._asked, self._work, self._told, self._kept_only = asked, work, told, kept_only
        self._reading = reading or (lambda _what, _rows: None)
        self._benches: dict[Protocol, Bench] = {}

    def of(self, protocol: Protocol) -> Bench:
        """The bench of `protocol`. Raises SourceError."""
        if protocol not in self._benches:
            asked = self._asked
            dataset = load(asked.source, protocol, self._work / asked.data, asked.users, self._reading)
            self._benches[protocol] = Bench(
                dataset, protocol, self._work / "fits", self._told, kept_only=self._kept_only
            )
        return self._benches[protocol]


def run(experiment: Experiment, asked: Asked, benches: Benches, keep: Path, out: Path) -> Iterator[Result]:
    """Run it, keeping cells in `keep`; the result so far is written to `out` and given after each cell."""
    out.mkdir(parents=True, exist_ok=True)
    done: list[Cell] = []
    arms = len(experiment.arms(asked))
    for cell in cells(experiment, asked, benches, keep):
        done.append(cell)
        result = document(experiment, asked, benches, done)
        if experiment.look is not None and len(done) == arms * asked.seeds:
            result = structs.replace(result, cases=experiment.look(asked, benches.of))
        write_json(out / f"{experiment.name}_{asked.name}.json", result)
        yield result


def cells(experiment: Experiment, asked: Asked, benches: Benches, keep: Path) -> Iterator[Cell]:
    """All cells, the first seed's first; kept ones are read."""
    for seed in range(1, asked.seeds + 1):
        for arm in experiment.arms(asked):
            yield cell_of(arm, seed, benches.of(arm.protocol), keep)


def cell_of(arm: Arm, seed: int, bench: Bench, keep: Path) -> Cell:
    """A cell: as it is in `keep`, or computed."""
    recipes = {net: arm.recipes.of(net).settings() for net in arm.row.nets}
    setting = {"model": arm.model, "of": bench.identity, "recipes": recipes, "others": arm.strangers}
    name = f"{arm.model}-{seed}-{identity(setting)}.json".replace(" ", "_").replace("/", "-")

    def compute() -> Cell:
        bench.spent.clear()
        net = arm.row.fit(bench, arm.recipes, seed)
        ranks = bench.ranks(net, fresh=arm.row.fresh, strangers=arm.strangers)
        measured = Measured(validation=dict(bench.spent.curves), **structs.asdict(arm.measure(bench)))
        return Cell(arm.model, seed, ranks, bench.spent.seconds, bench.spent.epochs, measured)

    return load_or_compute(keep / name, compute)


def document(experiment: Experiment, asked: Asked, benches: Benches, done: list[Cell]) -> Result:
    """The result so far: protocol, settings, rows, tests, and slices where they are asked for."""
    arms = {arm.model: arm for arm in experiment.arms(asked)}
    bench = benches.of(next(iter(arms.values())).protocol)
    read = {net for arm in arms.values() for net in arm.row.nets}
    sizes = (bench.lists(Phase.TEST).items != ROW_PADDING).sum(1)
    settings = RunSettings(
        command=command_of(experiment.name, asked),
        source=asked.source.scheme,
        users=asked.users,
        seeds=sorted({cell.seed for cell in done}),
        cells=CellCount(len(done), len(arms) * asked.seeds),
        counts=bench.dataset.counts(),
        chance=mean_chance(sizes.tolist()),
        hyperparameters={net: recipe for net, recipe in asked.recipes.settings().items() if net in read},
        threads=torch.get_num_threads(),
        versions=Versions(version("torch"), version("numpy"), platform.python_version()),
    )
    return Result(
        experiment=experiment.name,
        data=asked.name,
        protocol=bench.record,
        settings=settings,
        rows=[cell.row(_varied(arms[cell.model], asked)) for cell in done],
        tests=list(_tests(experiment, arms, benches, done)),
        slices=slices(bench, done) if experiment.sliced else None,
    )


def command_of(name: str, asked: Asked) -> str:
    """The command that gives this result; the source without its path."""
    words = ["mc2sf", "experiment", name, "--data", asked.source.public]
    for option, value in asked.options.items():
        words += ["--" + option.replace("_", "-"), value]
    if asked.users is not None:
        words += ["--users", str(asked.users)]
    return shlex.join(words if name == "tune" else [*words, "--seeds", str(asked.seeds)])


def _varied(arm: Arm, asked: Asked) -> Settings:
    """What of an arm differs from what was asked for."""
    found: Settings = {
        name: value for name, value in asdict(arm.protocol).items() if value != getattr(asked.protocol, name)
    }
    usual = asked.recipes.settings()
    for net, recipe in arm.recipes.settings().items():
        found |= {f"{net}.{name}": value for name, value in recipe.items() if value != usual[net].get(name)}
    return found | ({"exposures": "of another user, at test"} if arm.strangers else {})


def _tests(experiment: Experiment, arms: dict[str, Arm], benches: Benches, done: list[Cell]) -> Iterator[Difference]:
    for a, b in experiment.pairs:
        of = {name: {cell.seed: cell.ranks for cell in done if cell.model == name} for name in (a, b)}
        seeds = sorted(of[a].keys() & of[b].keys())
        if not seeds:
            continue
        users = benches.of(arms[a].protocol).test_users
        one, other = (by_user(np.stack([of[name][seed] for seed in seeds]), users) for name in (a, b))
        yield from compare((a, one), (b, other), seed=1)
