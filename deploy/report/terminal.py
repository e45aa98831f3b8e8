"""What a run says at its end, on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_SHOWN = ("random", "popularity", "river", "din", "f2s", "fast", "mc2sf")


def show(console: Console, document: dict[str, Any], folder: Path) -> None:
    """Print the end of a run: quality, flow, and what to try next."""
    console.print(quality(document["online"], "online = offline, all outcomes"))
    last = quality(document["last_quarter"], "the last quarter of them")
    if document["optimum"]:
        last.add_row("optimum", *(f"{value:.4f}" for value in document["optimum"].values()), "", "", style="italic")
    console.print(last)
    if document["online_collaborative"]:
        console.print(quality(document["online_collaborative"], "users with a delayed history and an r2 in the cloud"))
    if document["cold"] > document["outcomes"] / 10:
        console.print(
            quality(document["online_cold"], "cold: the release did not know the item, or too few items for a list")
        )
    if experiment := document["experiment"]:
        variants = ", ".join(sorted(experiment["metrics"]))
        console.print(f"All {document['outcomes']:,} lists and ranks of {variants} are the experiment's.\n")
    table = Table(title="flow", show_header=False)
    kinds = [entry["kind"] for entry in document["releases"]]
    for name, value in (
        ("events sent = applied", f"{document['events_applied']:,}"),
        ("events per second", f"{document['events_per_second']:,.0f}"),
        ("requests, outcomes", f"{document['rank_requests']:,}, {document['outcomes']:,}"),
        ("r2 uploads", f"{document['r2_uploads']:,}"),
        ("releases", ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))),
        ("dead letters", f"{document['dead_letters']:,}"),
        ("faults", ", ".join(f"{n:,} {fault}" for fault, n in (document["faults"] or {}).items()) or "none"),
        ("freshness p50, p99 ms", f"{document['freshness_ms']['p50']}, {document['freshness_ms']['p99']}"),
        ("peak memory MB", f"{sum(document['peak_memory_mb'].values()):,.0f} in all"),
        ("digest", document["digest"]),
    ):
        table.add_row(name, value)
    console.print(table)
    later = f"  mc2sf evaluate {folder} --release 1      what the first retrain's release would have scored\n"
    console.print(
        f"report: {folder / 'report.html'}\nsummary: {folder / 'summary.json'}\n\nTry next:\n"
        f"{later if len(kinds) > 1 else ''}"
        f"  mc2sf releases list {folder}             every release and what the gate saw\n"
        f"  mc2sf data inspect ml-1m:DIR             what a log of your own holds, then `mc2sf run` it",
        highlight=False,
    )


def quality(metrics: dict[str, dict[str, float]], title: str) -> Table:
    """Return a table of metrics, a row a variant, best known order first."""
    from models.evaluation.metrics import METRICS  # noqa: PLC0415 - loads numpy

    table = Table("variant", *METRICS, "n", "chance@10", title=title, box=SIMPLE_HEAD, show_edge=False, padding=0)
    for variant in sorted(metrics, key=lambda v: (_SHOWN.index(v) if v in _SHOWN else 99, v)):
        row = metrics[variant]
        numbers = [f"{row[name]:.4f}" if row[name] is not None else "" for name in METRICS]
        chance = row["chance_hr@10"]
        table.add_row(variant, *numbers, f"{row['n']:,}", f"{chance:.4f}" if chance is not None else "")
    return table
