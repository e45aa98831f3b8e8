"""Preparation of a plan with progress on the terminal, and the list of rows that were refused."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from deploy.cli.options import parse_source
from replay.prepare.plan import Options, Plan
from replay.prepare.prepare import prepare


def prepared(source: str, options: Options, folder: Path, console: Console) -> Plan:
    """Prepare SOURCE in `folder`; shows the progress."""
    with console.status(f"reading {source}") as status:
        return prepare(
            parse_source(source), options, folder, progress=lambda task, rows: status.update(f"{task}: {rows:,} rows")
        )


def print_refused(plan: Plan, console: Console) -> None:
    """Print the number of rows that were skipped, by reason, and the first of them."""
    if not plan.refused:
        return
    total, first = sum(plan.refused.values()), plan.refused_first
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in plan.refused.items())
    more = "" if total == len(first) else f"; the first {len(first)}"
    lines = [f"{total:,} rows refused: {reasons}{more}:", *(f"  {text}" for text in first)]
    console.print(escape("\n".join(lines)), highlight=False, soft_wrap=True)
