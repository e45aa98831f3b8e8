"""One log run with several seeds: a folder per seed, and the means over the seeds in SEEDS_FILE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import sqlalchemy as sa
from msgspec import Meta
from rich.box import SIMPLE_HEAD

from deploy.console import Table
from deploy.experiments.results.result import over_seeds
from deploy.report.summary import METRICS, Qualities, Summary
from deploy.report.variants import ordered
from deploy.runs import RUN_FILE, find, lock_folder
from deploy.user_error import UserError
from replay.json_file import write_json
from streams.database import schema
from streams.database.engine import NoTablesError

SEEDS_FILE = "seeds.json"


class SeedMean(msgspec.Struct, frozen=True):
    """A mean over seeds, and half the width of its 95 % interval by Student's t; null with one seed."""

    mean: float
    half_width: float | None


class SeedsFile(msgspec.Struct, frozen=True):
    """The runs of one log with several seeds. Each has its own evaluated clicks, candidates and initial weights."""

    source: str
    options: Annotated[dict[str, str], Meta(description="Options of `mc2sf run`, as text.")]
    finished: Annotated[list[int], Meta(description="Seeds whose run is finished, in order.")]
    online: Annotated[dict[str, dict[str, SeedMean]], Meta(description="Per variant: each metric over the seeds.")]
    last_quarter: Annotated[
        dict[str, dict[str, SeedMean]], Meta(description="The same over the newest quarter of the outcomes.")
    ]


def seed_folder(folder: Path, seed: int) -> Path:
    """Return the folder of the run with `seed`."""
    return folder / f"seed-{seed}"


def read_seeds_file(folder: Path) -> SeedsFile:
    """Read SEEDS_FILE in `folder`. Raises UserError if it is damaged."""
    path = folder / SEEDS_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=SeedsFile)
    except msgspec.DecodeError as error:
        raise UserError(f"{path} is damaged ({error}): move {folder} elsewhere") from error


def run_seeds(
    folder: Path, source: str, options: dict[str, str], seeds: Sequence[int], run: Callable[[int, Path], None]
) -> SeedsFile:
    """Call `run(seed, folder of the seed)` for each seed whose run is not finished, and write SEEDS_FILE.

    Raises UserError if `folder` has other contents, or runs of another source or with other options.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        if (folder / SEEDS_FILE).is_file():
            begun = read_seeds_file(folder)
            if (begun.source, begun.options) != (source, options):
                raise UserError(f"{folder} holds runs of another source or with other options: name another --out")
        elif (folder / RUN_FILE).is_file() or any(folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no runs of several seeds: name another --out")
        else:
            write_json(folder / SEEDS_FILE, SeedsFile(source, options, [], {}, {}))
        result = read_seeds_file(folder)
        for seed in sorted({*result.finished, *seeds}):
            if _finished(seed_folder(folder, seed)) is None:
                run(seed, seed_folder(folder, seed))
            result = _with(result, folder, seed)
            write_json(folder / SEEDS_FILE, result)
    return result


def _with(file: SeedsFile, folder: Path, seed: int) -> SeedsFile:
    """Return the file with the means over the finished seeds and `seed`."""
    seeds = sorted({*file.finished, seed})
    summaries = [summary for each in seeds if (summary := _finished(seed_folder(folder, each))) is not None]
    return SeedsFile(
        file.source,
        file.options,
        seeds,
        mean_over_seeds([summary.online for summary in summaries]),
        mean_over_seeds([summary.last_quarter for summary in summaries]),
    )


def mean_over_seeds(runs: Sequence[Qualities]) -> dict[str, dict[str, SeedMean]]:
    """Return the mean of each metric over runs, for the variants that all of them have."""
    variants = set.intersection(*(set(run) for run in runs)) if runs else set()
    means: dict[str, dict[str, SeedMean]] = {}
    for variant in ordered(variants):
        values = {name: [run[variant].metric(name) for run in runs] for name in METRICS}
        means[variant] = {
            name: _mean([value for value in each if value is not None])
            for name, each in values.items()
            if None not in each
        }
    return means


def table(means: Mapping[str, Mapping[str, SeedMean]], seeds: Sequence[int], title: str) -> Table:
    """Return a table of means over seeds with one row per variant, and its 95 % interval below."""
    table = Table("variant", *METRICS, title=f"{title}, mean of {len(seeds)} seeds", box=SIMPLE_HEAD, padding=0)
    for variant, row in reversed([*means.items()]):
        table.add_row(variant, *(f"{row[name].mean:.4f}" if name in row else "" for name in METRICS))
        widths = [row[name].half_width if name in row else None for name in METRICS]
        table.add_row("  95 %", *("" if width is None else f"±{width:.4f}" for width in widths), style="dim")
    return table


def _mean(values: Sequence[float]) -> SeedMean:
    over = over_seeds(values)
    return SeedMean(over.mean, over.half_width if len(values) > 1 else None)


def _finished(folder: Path) -> Summary | None:
    """Return the summary of the run in `folder`; None if it is not finished."""
    try:
        found = find(str(folder))
    except (UserError, NoTablesError):  # not begun, or ended before its first row
        return None
    r = schema.runs.c
    with found.engine.connect() as connection:
        row = connection.execute(sa.select(r.status, r.summary).where(r.run == found.settings.run)).one()
    found.engine.dispose()
    return msgspec.convert(row.summary, Summary) if row.status == "finished" else None
