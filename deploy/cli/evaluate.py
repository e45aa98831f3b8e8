"""`mc2sf evaluate` and `verify`: score a run again, and recompute it with independent code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from deploy.cli.options import JsonOption, MetricOption, RunArgument, VariantOption, moment
from deploy.console import print_json, terminal
from deploy.user_error import UserError

if TYPE_CHECKING:
    from deploy.runs import FoundRun

console = terminal()


def evaluate(
    run: RunArgument,
    as_of: Annotated[
        str | None, typer.Option(help="Score only clicks up to this event time: ISO 8601 or seconds since 1970.")
    ] = None,
    release: Annotated[
        int | None, typer.Option(help="Score all clicks with this release instead of the one in force.")
    ] = None,
    without_learner: Annotated[
        bool,
        typer.Option("--without-learner", help="Score each click with the last release that is not the learner's."),
    ] = False,
    metric: MetricOption = None,
    variant: VariantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score every outcome of a run again, from its tables alone.

    Exit code 1 if a rank differs from the one computed online.
    """
    from deploy.analysis.compare_command import differences
    from deploy.analysis.comparison import compare
    from deploy.report.intervals import intervals
    from deploy.report.measurements import scored_again
    from deploy.report.summary import by_variant
    from deploy.report.terminal import by_plugins, quality
    from deploy.runs import find
    from streams.plugins.loaded import setting
    from streams.prequential.ranked_clicks import ranked_clicks
    from streams.rescoring import rescore

    if release is not None and without_learner:
        raise UserError("--release and --without-learner exclude each other")
    more = setting(metrics=metric, variants=variant)
    found = find(run)
    with console.status("scoring again") as status:
        result = rescore.rescore(
            found.engine,
            found.settings.run,
            as_of=moment("--as-of", as_of),
            release=release,
            without_learner=without_learner,
            progress=lambda done, of: status.update(f"scoring again: {done:,} of {of:,}"),
            extra_plugins=more,
        )
    if as_of is not None and not result.outcomes:
        raise UserError(f"--as-of {as_of!r}: no click was ranked up to that event time")
    for name, by_name in result.plugin_metrics.items():
        for by, mean in by_name.items():
            result.metrics[by][name] = mean.value
    with found.engine.connect() as connection:
        recorded = ranked_clicks(connection, found.settings.run)
    again = recorded.with_ranks(result.ranks)
    if as_json:
        print_json(result.metrics)
    else:
        widths = intervals(again.select(again.subsets["all"]))
        console.print(quality(by_variant(result.metrics), f"offline, run {found.settings.run}", widths))
        if result.plugin_metrics:
            console.print(by_plugins(scored_again(result.plugin_metrics), "metrics of plugins"))
    console.print(_trimmed(found), end="")
    if release is None and not without_learner:
        console.print(f"{len(result.differences)} ranks differ from those given online")
        if result.differences:
            console.print(_forgotten(found), end="")
        raise typer.Exit(1 if result.differences else 0)
    name = "without the learner" if release is None else f"release {release}"
    console.print(f"{name}, on the same clicks" + (" (hindsight)" if result.hindsight else ""))
    if not as_json:
        (difference,) = compare([("the releases in force", recorded), (name, again)]).differences
        console.print(f"{name} minus the releases in force, ndcg@10, by {len(again.users):,} users:")
        console.print(differences(difference, "ndcg@10"))


def verify(
    run: RunArgument,
    sample: Annotated[
        int, typer.Option(min=1, help="Recompute one outcome in this many also without tiles, as training does.")
    ] = 50,
) -> None:
    """Verify a run: recompute it from its log with independent code.

    Compares every outcome, r2, state and metric. Reads the tables alone, in one thread, without Kafka. Names the first
    difference (user, event, field) and exits with 1 if there is one. A free-running run recorded which release and
    which item statistics each click was ranked with; the rest is recomputed.
    """
    import torch

    from deploy.runs import find
    from replay.times import utc
    from streams.database import run_state
    from streams.releases.release import ReleaseError
    from streams.verification.differences import DifferenceFound
    from streams.verification.verify import verify as verify_run

    found = find(run)
    with found.engine.connect() as connection:
        trimmed = run_state.trimmed(connection, found.settings.run)
    if trimmed is not None:
        raise UserError(
            f"outcomes before {utc(trimmed)} were deleted, so the run can't be verified; `mc2sf evaluate` ranks each "
            "of the others again"
        )
    torch.set_num_threads(1)  # as every worker does
    try:
        with console.status("recomputing the run") as status:
            verified = verify_run(
                found.engine,
                found.settings,
                sample=sample,
                progress=lambda done, of: status.update(f"recomputing the run: {done:,} of {of:,} users"),
            )
    except ReleaseError as error:
        raise UserError(f"the run can't be verified: {error}") from error
    except DifferenceFound as difference:
        console.print(Text.assemble(("verification failed:", "red"), f" {difference.args[0]}"))
        console.print(_forgotten(found), end="")
        raise typer.Exit(1) from None
    if not found.settings.lockstep:
        console.print("free-running: the release and the item statistics of each click are those that it recorded")
    console.print(
        f"run {found.settings.run} is verified: {verified.events:,} events of {verified.users:,} users, "
        f"{verified.outcomes:,} outcomes, {verified.memories:,} r2, {verified.uploads:,} uploads, both states of every "
        f"user, the metrics. Without tiles {verified.untiled:,} outcomes differ by at most "
        f"{verified.untiled_difference:.1e}.",
        highlight=False,
    )


def _trimmed(found: FoundRun) -> str:
    """Return the sentence about outcomes that were deleted, empty if none were."""
    from replay.times import utc
    from streams.database import run_state

    with found.engine.connect() as connection:
        trimmed = run_state.trimmed(connection, found.settings.run)
    if trimmed is None:
        return ""
    return f"Outcomes before {utc(trimmed)} were deleted: of later ones river and served are not compared.\n"


def _forgotten(found: FoundRun) -> str:
    """Return the reason why a run without one of its users can't be computed again, empty if nobody was forgotten."""
    from streams.database import run_state

    with found.engine.connect() as connection:
        epoch = run_state.forgotten(connection, found.settings.run)
    if epoch is None:
        return ""
    return (
        f"A user was forgotten, last in epoch {epoch}: popularity and item statistics counted clicks that are gone.\n"
    )
