"""A result as a figure: bars of models, or lines over what was varied."""

from __future__ import annotations

import re
import statistics
from typing import Any

from deploy.experiments.results import plots
from deploy.experiments.results.plots import Value

SHOWN = ("hr@5", "ndcg@5", "mrr")
VARIED = {"sensitivity": "value", "window": "exposures a window"}  # and what stands along the axis


def drawn(document: dict[str, Any]) -> str:
    """The figure of a result as SVG."""
    models = list(dict.fromkeys(row["model"] for row in document["rows"]))
    title = f"{document['experiment']}, {document['data']}"
    if document["experiment"] in VARIED:
        return _lines(document, models, title)
    groups = {metric: {model: value(document, model, metric) for model in models} for metric in SHOWN}
    return plots.bars(title, groups)


def value(document: dict[str, Any], model: str, metric: str) -> Value:
    """Mean over seeds, with the standard deviation as its error."""
    values = [row["metrics"][metric] for row in document["rows"] if row["model"] == model]
    return Value(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0)


def _lines(document: dict[str, Any], models: list[str], title: str) -> str:
    """NDCG@10: models called `what number` make one line a what; others are level lines to compare with."""
    lines: dict[str, list[tuple[str, Value]]] = {}
    level = {}
    for model in models:
        found = re.fullmatch(r"(.+) ([\d.e+-]+)", model)
        if found:
            lines.setdefault(found[1], []).append((found[2], value(document, model, "ndcg@10")))
        else:
            level[model] = value(document, model, "ndcg@10")
    places = dict.fromkeys(place for line in lines.values() for place, _ in line)
    lines |= {model: [(place, Value(of.mean)) for place in places] for model, of in level.items()}
    return plots.lines(f"{title}: NDCG@10", VARIED[document["experiment"]], lines)
