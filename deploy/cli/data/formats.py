"""`mc2sf data formats` and `mc2sf data convert`: the public logs that are read as they come, and files for others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.data.map_options import MapOptions
from deploy.cli.options import PolicyOption, flattened
from deploy.cli.source_argument import SourceArgument, parse_source
from deploy.console import terminal
from deploy.user_error import UserError
from replay.convert import convert
from replay.errors import OnError, RowErrors
from replay.prepare.implausible import doubts
from replay.prepare.plan import exposure_policy
from replay.sources.presets import map_text, presets

console = terminal()


def data_formats(
    scheme: Annotated[
        str | None, typer.Argument(metavar="SCHEME", help="Print the map of this format instead of the list.")
    ] = None,
) -> None:
    """List the public logs that can be read without a map: `mc2sf run SCHEME:FILE`, or SCHEME:DIR of the download.

    With SCHEME, print the map of that format as TOML, which can be changed and passed to `log:FILE --map`.
    """
    known = presets()
    if scheme is None:
        for name, preset in known.items():
            holds = "exposures logged" if preset.exposures else "ratings" if preset.rated else "clicks only"
            takes = "DIR" if preset.file else "FILE"
            lines = f"{name}:{takes}  {preset.title}\n    {holds}; {preset.publisher}, {preset.address}"
            console.print(lines, markup=False, highlight=False, soft_wrap=True)
        return
    if scheme not in known:
        raise UserError(f"unknown format {scheme!r}: choose one of {', '.join(known)}")
    if known[scheme].map is None:
        raise UserError(f"{scheme} has no map: it is read by a module of this program")
    console.print(map_text(scheme), markup=False, highlight=False, soft_wrap=True, end="")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(MapOptions):
    """Options that decide which events a source yields."""

    exposures: PolicyOption = None
    on_error: Annotated[OnError, typer.Option(help="At an invalid row: stop, or skip it and count it.")] = "stop"


@flattened
def data_convert(
    *,
    source: SourceArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="OUT.parquet, or OUT.inter for RecBole.")],
    options: ConvertOptions,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
) -> None:
    """Convert a log to the generic log in Parquet, or to a RecBole atomic file.

    `log:OUT.parquet` yields the same events as SOURCE. In OUT.inter a click has the label 1, an exposure 0.
    """
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists: --overwrite replaces it")
    policy, plugin = exposure_policy(options.exposures)
    if plugin is not None:
        raise UserError(
            "--exposures: a plugin adds exposures when a log is prepared for a run, not when it is converted"
        )
    log, errors = parse_source(source, options.log_map()), RowErrors(options.on_error)
    with console.status(f"converting {source}"):
        rows = convert(log.read(policy or log.policies[0], errors), out)
    refused = f"; {errors.total:,} rows refused: {', '.join(errors.first)}" if errors.total else ""
    console.print(f"{rows:,} events written to {out}{refused}", markup=False, highlight=False, soft_wrap=True)
    for finding in doubts(errors.doubts):
        text = f"{finding.name}: {finding.sentence}; the first: {finding.first[0]}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
