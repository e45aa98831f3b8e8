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
from replay.prepare.plan import exposure_policy
from replay.sources.presets import map_text, presets

console = terminal()


def data_formats(
    scheme: Annotated[str | None, typer.Argument(metavar="SCHEME", help="Print its map, for --map.")] = None,
) -> None:
    """List the public logs that are read as they come: `mc2sf run SCHEME:FILE`, or the folder of the download.

    With a SCHEME the map by which it is read is printed as TOML, to be changed and given to `log:FILE --map`.
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
        raise UserError(f"{scheme!r} is no format: there are {', '.join(known)}")
    if known[scheme].map is None:
        raise UserError(f"{scheme} is read by a module of its own, not by a map")
    console.print(map_text(scheme), markup=False, highlight=False, soft_wrap=True, end="")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(MapOptions):
    """Options that decide which events a source yields."""

    exposures: PolicyOption = None
    on_error: Annotated[OnError, typer.Option(help="A bad row stops the command, or is skipped and counted.")] = "stop"


@flattened
def data_convert(
    *,
    source: SourceArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="OUT.parquet, or OUT.inter for RecBole.")],
    options: ConvertOptions,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
) -> None:
    """Write the events of a log as the generic log in Parquet, or as a RecBole atomic file.

    `log:OUT.parquet` is prepared into the same events as SOURCE. In OUT.inter a click has the label 1, an exposure 0.
    """
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists: --overwrite replaces it")
    policy, plugin = exposure_policy(options.exposures)
    if plugin is not None:
        raise UserError("--exposures: a policy of one's own adds its exposures when a log is prepared, not here")
    log, errors = parse_source(source, options.log_map()), RowErrors(options.on_error)
    with console.status(f"converting {source}"):
        rows = convert(log.read(policy or log.policies[0], errors), out)
    refused = f"; {errors.total:,} rows refused: {', '.join(errors.first)}" if errors.total else ""
    console.print(f"{rows:,} events written to {out}{refused}", markup=False, highlight=False, soft_wrap=True)
