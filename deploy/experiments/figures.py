"""A result as a figure: bars of models, or lines over what was varied."""

from __future__ import annotations

import statistics
from typing import Any

from deploy.experiments import plots
from deploy.experiments.plots import Value

SHOWN = ("hr@5", "ndcg@5", "mrr")


def drawn(document: dict[str, Any]) -> str:
    """The figure of a result as SVG."""
    models = list(dict.fromkeys(row["model"] for row in document["rows"]))
    title = f"{document['experiment']}, {document['data']}"
    if document["experiment"] == "sensitivity":
        return _lines(document, models, title)
    groups = {metric: {model: value(document, model, metric) for model in models} for metric in SHOWN}
    return plots.bars(title, groups)


def value(document: dict[str, Any], model: str, metric: str) -> Value:
    """Mean over seeds, with the standard deviation as its error."""
    values = [row["metrics"][metric] for row in document["rows"] if row["model"] == model]
    return Value(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0)


def _lines(document: dict[str, Any], models: list[str], title: str) -> str:
    """Models are called `what value`: one line a what."""
    lines: dict[str, list[tuple[str, Value]]] = {}
    for model in models:
        what, place = model.split(" ", 1)
        lines.setdefault(what, []).append((place, value(document, model, "ndcg@10")))
    return plots.lines(title, "value", lines)
