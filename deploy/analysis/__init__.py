"""The Python interface: inspect and run logs, read runs as frames, compare and draw them. See docs/python.md."""

from __future__ import annotations

from pathlib import Path

from deploy.analysis import comparison
from deploy.analysis.commands import inspect, run
from deploy.analysis.comparison import Comparison
from deploy.analysis.opened_run import Run
from deploy.analysis.reading import read_clicks

__all__ = ["Comparison", "Run", "compare", "inspect", "run"]


def compare(*runs: Run | str | Path) -> Comparison:
    """Compare runs with the first one: opened ones, or named as for `mc2sf compare`."""
    clicks = [each.clicks() if isinstance(each, Run) else read_clicks(str(each)) for each in runs]
    names = [each.id if isinstance(each, Run) else Path(each).name or str(each) for each in runs]
    return comparison.compare([*zip(comparison.distinct_names(names), clicks, strict=True)])
