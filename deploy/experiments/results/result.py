"""The types of an experiment's result file `NAME_DATA.json`, and the JSON schema of these files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, field

from models.evaluation.metrics import METRICS

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's t at 97.5 %, 1 to 9 degrees
Setting = bool | int | float | str  # the value of a protocol's field or of a hyperparameter
Settings = dict[str, Setting]


class Interval(Struct, frozen=True):
    """A mean, and half the width of its 95 % interval; 0 if the interval is not known."""

    mean: float
    half_width: float = 0.0


def over_seeds(values: Sequence[float]) -> Interval:
    """Return the mean over seeds and its 95 % interval by Student's t; no interval for a single seed."""
    n = len(values)
    if n < 2:
        return Interval(statistics.fmean(values))
    quantile = _T[n - 2] if n - 2 < len(_T) else 1.96
    return Interval(statistics.fmean(values), quantile * statistics.stdev(values) / n**0.5)


class Counts(Struct, frozen=True):
    """The size of a dataset: users, items, exposures, and clicks per phase."""

    users: int
    items: int
    exposures: int
    slow: int
    fast: int
    validation: int
    test: int


class CellCount(Struct, frozen=True):
    """The number of cells (a model with a seed) that are computed, and of all cells of the experiment."""

    done: int
    wanted: int


class Versions(Struct, frozen=True):
    """The versions of the software that computed the result."""

    torch: str
    numpy: str
    python: str


class RunSettings(Struct, frozen=True):
    """The command that reproduces the result, its data and its hyperparameters."""

    command: str
    source: str
    users: int | None
    seeds: list[int]
    cells: CellCount
    counts: Counts
    chance: dict[str, float]  # metric -> expected value for a random order
    hyperparameters: dict[str, Settings] = field(name="recipes")  # by net
    threads: int
    versions: Versions


class UploadCosts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The costs of uploading r2, and the age of the r2 that test clicks are ranked with; None if not measured."""

    uploads_per_user: float | None = None
    bytes_up_per_user: int | None = None
    bytes_down_per_request: int | None = None
    share_with_r2: float | None = None  # of test clicks
    stale_exposures: float | None = None  # mean number of exposures since the upload
    stale_hours_median: float | None = None


class ResultRow(UploadCosts, frozen=True, kw_only=True, omit_defaults=True):
    """One model with one seed: metrics over all test clicks and the cost of training."""

    model: str
    seed: int
    metrics: dict[str, float]
    seconds: float
    epochs: int
    validation: dict[str, list[float]]  # name of a fit -> NDCG@10 after each epoch
    varied: Settings  # settings that differ from those of the experiment


class Difference(Struct, frozen=True):
    """The difference a - b of a metric on the same users, its 95 % interval and a two-sided p."""

    a: str
    b: str
    metric: str
    difference: float
    low: float
    high: float
    p: float


class FrequencySlice(Struct, frozen=True):
    """The test clicks on items with at least `least` clicks in the slow phase (up to the next slice's `least`)."""

    least: int
    clicks: int
    ndcg: dict[str, float] = field(name="ndcg@10")  # by model, mean over seeds


class Result(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of an experiment on one dataset."""

    experiment: str
    data: str
    protocol: Settings
    settings: RunSettings
    rows: list[ResultRow]
    tests: list[Difference]
    slices: list[FrequencySlice] | None = None
    cases: list[str] | None = None  # lines of Markdown
    plugins: list[str] | None = None  # KIND=MODULE:NAME@SHA256

    @property
    def models(self) -> list[str]:
        """The models in the order in which they were run."""
        return list(dict.fromkeys(row.model for row in self.rows))

    @property
    def metrics(self) -> list[str]:
        """The metrics of its rows: the project's, then those that are plugins."""
        return [*METRICS, *(name for name in self.settings.chance if name not in METRICS)]

    def of_model(self, model: str) -> list[ResultRow]:
        """The rows of `model`, one per seed."""
        return [row for row in self.rows if row.model == model]


class Trial(Struct, frozen=True):
    """One setting that was tried for a net, and the best validation score that it reached."""

    net: str
    tried: dict[str, float]
    validation: float
    epochs: int


class TuningSettings(Struct, frozen=True):
    """The command that reproduces the trials."""

    command: str
    users: int | None
    judged_on: str


class Tuning(Struct, frozen=True):
    """All trials of `mc2sf experiment tune` on one dataset."""

    experiment: Literal["tune"]
    data: str
    protocol: Settings
    settings: TuningSettings
    trials: list[Trial]


def read_results(folder: Path, experiments: list[str]) -> list[Result]:
    """Read the results of `experiments` in `folder`, in this order; skip other files."""

    class _Named(Struct):
        experiment: str = ""

    found = []
    for path in sorted(folder.glob("*_*.json")):
        text = path.read_bytes()
        if msgspec.json.decode(text, type=_Named).experiment in experiments:
            found.append(msgspec.json.decode(text, type=Result))
    return sorted(found, key=lambda result: (experiments.index(result.experiment), result.data))


def read_tunings(folder: Path) -> list[Tuning]:
    """Read all results of `mc2sf experiment tune` in `folder`."""
    return [msgspec.json.decode(path.read_bytes(), type=Tuning) for path in sorted(folder.glob("tuning_*.json"))]


def schema() -> str:
    """Return the JSON schema of a result and of a tuning, as text."""
    kinds, parts = msgspec.json.schema_components((Result, Tuning), ref_template="#/$defs/{name}")
    return json.dumps({"anyOf": kinds, "$defs": parts}, indent=2) + "\n"
