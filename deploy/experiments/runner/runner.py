"""The runner: computes cell after cell, keeps each one, and writes the result again after each."""

from __future__ import annotations

import functools
import platform
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from msgspec import structs

from deploy.experiments.data.dataset import load
from deploy.experiments.data.protocol import Phase, Protocol
from deploy.experiments.definitions.experiment import Arm, Experiment, Request
from deploy.experiments.results.result import CellCount, Difference, Result, ResultRow, RunSettings, Settings, Versions
from deploy.experiments.runner.cells import Cell, Measured, load_or_compute
from deploy.experiments.runner.frequency_slices import slices
from deploy.experiments.runner.significance import by_user, compare
from deploy.experiments.training.trainer import EpochProgress, Trainer, TrainerIdentity, identity
from models.data.catalogue import ROW_PADDING
from models.evaluation.metrics import mean_chance
from replay.json_file import write_json
from streams.plugins.loaded import loaded
from streams.prequential.plugin_metrics import plugin_means

Compared = dict[tuple[str | int, ...], list[Difference]]  # by two models and the seeds that both have


class Trainers:
    """One trainer per protocol: each one's data are read, and their states computed, once."""

    def __init__(
        self,
        request: Request,
        work: Path,
        progress: EpochProgress = lambda *_: None,
        reading: Callable[[str, int], None] | None = None,
        *,
        cached_only: bool = False,
    ) -> None:
        """Keep sorted logs and fits in `work`; `cached_only`: see `Trainer`."""
        self._request, self._work, self._progress, self._cached_only = request, work, progress, cached_only
        self._reading = reading or (lambda _what, _rows: None)
        self._trainers: dict[Protocol, Trainer] = {}

    def of(self, protocol: Protocol) -> Trainer:
        """Return the trainer of `protocol`. Raises SourceError."""
        if protocol not in self._trainers:
            request = self._request
            dataset = load(request.source, protocol, self._work / request.data, request.users, self._reading)
            self._trainers[protocol] = Trainer(
                dataset, protocol, self._work / "fits", self._progress, cached_only=self._cached_only
            )
        return self._trainers[protocol]


def run(experiment: Experiment, request: Request, trainers: Trainers, keep: Path, out: Path) -> Iterator[Result]:
    """Run `experiment` with cells stored in `keep`; after each cell write the result so far to `out` and yield it."""
    out.mkdir(parents=True, exist_ok=True)
    done: list[Cell] = []
    compared: Compared = {}
    arms = len(experiment.arms(request))
    for cell in cells(experiment, request, trainers, keep):
        done.append(cell)
        result = result_of(experiment, request, trainers, done, compared)
        if experiment.case_study is not None and len(done) == arms * request.seeds:
            result = structs.replace(result, cases=experiment.case_study(request, trainers.of))
        write_json(out / f"{experiment.name}_{request.name}.json", result)
        yield result


def cells(experiment: Experiment, request: Request, trainers: Trainers, keep: Path) -> Iterator[Cell]:
    """Yield all cells, those of the first seed first."""
    for seed in range(1, request.seeds + 1):
        for arm in experiment.arms(request):
            yield cell_of(arm, seed, trainers.of(arm.protocol), keep)


def cell_of(arm: Arm, seed: int, trainer: Trainer, keep: Path) -> Cell:
    """Return the cell of `arm` from the folder `keep`, or compute and store it there."""

    def compute() -> Cell:
        trainer.cost.clear()
        net = arm.model.fit(trainer, arm.hyperparameters, seed)
        ranks = trainer.ranks(net, fresh=arm.model.fresh, shuffled_users=arm.shuffled_users)
        measured = Measured(validation=dict(trainer.cost.curves), **structs.asdict(arm.measure(trainer)))
        return Cell(arm.name, seed, ranks, trainer.cost.seconds, trainer.cost.epochs, measured)

    return load_or_compute(keep / cell_name(arm, seed, trainer.identity), compute)


def cell_name(arm: Arm, seed: int, trainer_identity: TrainerIdentity) -> str:
    """Return the file name of a cell. A change of this function or of the hashed values orphans all stored cells."""
    hyperparameters = {net: arm.hyperparameters.of(net).settings() for net in arm.model.nets}
    setting: dict[str, object] = {
        "model": arm.name,
        "of": trainer_identity,
        "recipes": hyperparameters,
        "others": arm.shuffled_users,
    }
    if arm.model.code:
        setting["code"] = arm.model.code
    return f"{arm.name}-{seed}-{identity(setting)}.json".replace(" ", "_").replace("/", "-")


def result_of(
    experiment: Experiment, request: Request, trainers: Trainers, done: list[Cell], compared: Compared
) -> Result:
    """Return the result of the cells `done` so far; `compared` caches the comparisons of two models."""
    arms = {arm.name: arm for arm in experiment.arms(request)}
    trainer = trainers.of(next(iter(arms.values())).protocol)
    read = {net for arm in arms.values() for net in arm.model.nets}
    sizes = (trainer.candidate_lists(Phase.TEST).items != ROW_PADDING).sum(1).tolist()
    plugins = " ".join(plugin.setting for plugin in request.plugins)
    of_plugins = functools.partial(plugin_means, loaded(plugins).metrics, sizes)
    settings = RunSettings(
        command=command_of(experiment.name, request),
        source=request.source.scheme,
        users=request.users,
        seeds=sorted({cell.seed for cell in done}),
        cells=CellCount(len(done), len(arms) * request.seeds),
        counts=trainer.dataset.counts(),
        chance=mean_chance(sizes) | of_plugins(None),
        hyperparameters={net: params for net, params in request.hyperparameters.settings().items() if net in read},
        threads=torch.get_num_threads(),
        versions=Versions(version("torch"), version("numpy"), platform.python_version()),
    )
    return Result(
        experiment=experiment.name,
        data=request.name,
        protocol=trainer.protocol_record,
        settings=settings,
        rows=[_row(cell, arms, request, of_plugins(cell.ranks.tolist())) for cell in done],
        plugins=plugins.split() or None,
        tests=list(_tests(experiment, arms, trainers, done, compared)),
        slices=slices(trainer, done) if experiment.sliced else None,
    )


def _row(cell: Cell, arms: dict[str, Arm], request: Request, by_plugins: dict[str, float]) -> ResultRow:
    row = cell.row(_varied(arms[cell.model], request))
    return structs.replace(row, metrics=row.metrics | by_plugins)


def command_of(name: str, request: Request) -> str:
    """Return the command that reproduces this result; the path of the source is left out."""
    words = ["mc2sf", "experiment", name, "--data", request.source.public]
    for option, value in request.options.items():
        words += ["--" + option.replace("_", "-"), value]
    for plugin in request.plugins:
        if plugin.kind in {"metric", "variant"}:
            words += [f"--{plugin.kind}", f"{plugin.module}:{plugin.name}"]
    if request.users is not None:
        words += ["--users", str(request.users)]
    return shlex.join(words if name == "tune" else [*words, "--seeds", str(request.seeds)])


def _varied(arm: Arm, request: Request) -> Settings:
    """Return the settings of an arm that differ from those of the request."""
    found: Settings = {
        name: value for name, value in asdict(arm.protocol).items() if value != getattr(request.protocol, name)
    }
    for net in (each.name for each in fields(arm.hyperparameters)):
        own, usual = arm.hyperparameters.of(net), request.hyperparameters.of(net)
        if own != usual:
            before = usual.settings()
            found |= {f"{net}.{name}": value for name, value in own.settings().items() if value != before.get(name)}
    return found | ({"exposures": "of another user, at test"} if arm.shuffled_users else {})


def _tests(
    experiment: Experiment, arms: dict[str, Arm], trainers: Trainers, done: list[Cell], compared: Compared
) -> Iterator[Difference]:
    for a, b in experiment.pairs:
        of = {name: {cell.seed: cell.ranks for cell in done if cell.model == name} for name in (a, b)}
        seeds = sorted(of[a].keys() & of[b].keys())
        if not seeds:
            continue
        if (a, b, *seeds) not in compared:
            users = trainers.of(arms[a].protocol).test_users
            one, other = (by_user(np.stack([of[name][seed] for seed in seeds]), users) for name in (a, b))
            compared[a, b, *seeds] = compare((a, one), (b, other), seed=1)
        yield from compared[a, b, *seeds]
