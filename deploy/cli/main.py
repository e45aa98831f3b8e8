"""The `mc2sf` command: the main job, and each process on its own as it runs in production.

The processes read their settings from the environment (`MC2SF_*`, see docs/operations.md); `run` takes options and
passes settings to its children. Every error that a user can fix ends with a sentence and exit code 2, not a traceback.
"""

from __future__ import annotations

import gc
import sys
from importlib.metadata import version
from typing import Annotated, ClassVar

import typer

from deploy.cli.groups import Entry, LazyGroup
from deploy.console import never_fail


class Commands(LazyGroup):
    """All commands, in the order of the help."""

    entries: ClassVar = {
        "run": Entry("deploy.cli.run:run", "Replay SOURCE through all processes, and check the result."),
        "data": Entry("deploy.cli.data.commands:app", "Inspect and convert logs before they are replayed."),
        "evaluate": Entry("deploy.cli.evaluate:evaluate", "Score every outcome of a run again, from its tables alone."),
        "compare": Entry(
            "deploy.analysis.compare_command:compare", "Compare runs with the first one, with 95 % intervals by users."
        ),
        "verify": Entry("deploy.cli.evaluate:verify", "Verify a run: recompute it from its log with independent code."),
        "recommend": Entry("deploy.cli.inspect:recommend", "Recommend items to a user of a run."),
        "export": Entry(
            "deploy.stored_runs.commands:export_run",
            "Export a run: a Parquet file per table, with named columns and decoded states.",
        ),
        "export-device": Entry(
            "deploy.stored_runs.commands:export_device",
            "Export a release for a device: the fast part as ONNX, the items as Parquet.",
        ),
        "runs": Entry(
            "deploy.stored_runs.commands:app", "Stored runs: list, show, delete, prune, trim, backup, restore."
        ),
        "gateway": Entry("deploy.gateway.commands:app", "An HTTP gateway for live devices: events in, rankings out."),
        "dashboard": Entry("deploy.cli.dashboard:dashboard", "Serve the live page of a run, and print its address."),
        "releases": Entry("deploy.cli.inspect:releases_app", "The releases of a run."),
        "dead-letters": Entry("deploy.cli.dead_letters:app", "Refused records: list them, show one, send them again."),
        "doctor": Entry(
            "deploy.cli.inspect:doctor",
            "Check database, broker, topics, lag and versions, and report the progress of the run.",
        ),
        "experiment": Entry("deploy.experiments.commands:experiment", "Run an experiment of the paper on SOURCE."),
        "topics": Entry("deploy.cli.processes:topics_app", "The topics of a run on the broker."),
        "replay": Entry("deploy.cli.replay:replay", "Send SOURCE to the topics of the run in the environment."),
        "worker": Entry("deploy.cli.processes:worker_app", "A Faust worker; several share the partitions."),
        "recorder": Entry(
            "deploy.cli.processes:recorder", "Write events, outcomes and states into the tables, exactly once."
        ),
        "learner": Entry("deploy.cli.processes:learner", "Train the fast part online: one small release per epoch."),
        "coordinator": Entry("deploy.cli.processes:coordinator", "Review and publish releases; decide each epoch."),
        "retrain": Entry("deploy.cli.processes:retrain", "Retrain the encoder and the slow part from the tables."),
    }


_OBJECTS = 50_000  # between two collections: at Python's 700 they are a tenth of the CPU time of starting a process

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(shown: bool) -> None:
    if shown:
        typer.echo(f"mc2sf {version('mc2sf')}")
        raise typer.Exit


@app.callback()
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Slow-fast learning for recommendation, as a stream of events.

    Start with `mc2sf run synthetic`: it needs nothing else. Then `mc2sf data inspect SOURCE` describes a log, and
    `mc2sf run SOURCE` replays it through the whole loop. SOURCE is `synthetic[:users=1000,items=200]`, `ml-1m:DIR`,
    `ml-100k:DIR`, `steam:FILE`, `ebnerd:DIR`, `alipay:FILE` or `log:FILE`; or `protocol:SOURCE`, the stream of what
    `mc2sf experiment` ranks.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command with `arguments` (None: those of the process); a mistake of the user ends with a sentence."""
    never_fail(sys.stdout, sys.stderr)
    if arguments is None:
        gc.set_threshold(_OBJECTS)
    try:
        app(arguments)
    except Exception as error:
        from deploy.cli.errors import explain

        explained = explain(error)
        if explained is None:
            raise
        typer.echo(typer.style(f"{explained.subject}:", fg="red") + f" {explained.sentence}", err=True)
        sys.exit(explained.code)
