"""The results page: every result of a folder, our numbers beside the paper's and published ones, with figures.

In: the JSON results. Out: README.md and one SVG a figure, all in the same folder. Nothing on it is written by hand.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.experiments.definitions.catalogue import EXPERIMENTS
from deploy.experiments.results import figures, published
from models.evaluation.metrics import METRICS

Document = dict[str, Any]
FIRST = """# The paper's experiments

Made by `mc2sf experiment`; each section says by which command. The paper's candidate sets, its exposures on logs that
have none, its number of negatives and its tie rule are not published, and its HR@1 is far above what 99 uniform
negatives give anywhere else: compare orderings and relative gains with the paper, and absolute values with results
whose protocol is known. Every choice (epoch, recipe) was made on validation clicks, never on test clicks.
Cells: mean over seeds (standard deviation, where there are several). A difference holds where its 95 % interval
(paired bootstrap over users, of these fits: how seeds differ is not in it) leaves out zero.
Epochs with a + : a fit of that row was ended by its limit of epochs, not by its validation score.
[docs/experiments.md](../../docs/experiments.md) says what came out, and why it differs from the paper.
"""
_PATIENCE = 3  # epochs without a better score that end a fit, at least


def write(folder: Path) -> Path:
    """Write README.md and the figures from all results in `folder`."""
    order = [experiment.name for experiment in EXPERIMENTS]
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*_*.json"))]
    documents = [d for d in found if d.get("experiment") in order]
    documents.sort(key=lambda d: (order.index(d["experiment"]), d["data"]))
    parts = [FIRST]
    for document in documents:
        name = f"{document['experiment']}_{document['data']}.svg"
        drawn = figures.drawn(document)
        if drawn:
            (folder / name).write_text(drawn, encoding="utf-8")
        parts += section(document, name if drawn else None)
    for path in sorted(folder.glob("tuning_*.json")):
        parts += tried(json.loads(path.read_text()))
    page = folder / "README.md"
    page.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")
    return page


def section(document: Document, figure: str | None) -> Iterator[str]:
    """One result as Markdown."""
    settings = document["settings"]
    title = next(e.title for e in EXPERIMENTS if e.name == document["experiment"])
    seeds = len(settings["seeds"])
    yield f"## {title}: {document['data']}\n"
    cells = settings["cells"]
    run = f"{cells['done']} of {cells['wanted']} cells, {seeds} seed{'s' if seeds > 1 else ''} run so far"
    yield f"`{settings['command']}`; {run}.\n"
    counts = ", ".join(f"{value:,} {name}" for name, value in settings["counts"].items())
    protocol = ", ".join(f"{name} {value}" for name, value in document["protocol"].items())
    yield f"{counts}. Protocol: {protocol}.\n"
    yield from _table(document)
    if figure:
        yield f"![{title}]({figure})\n"
    yield from _order(document)
    yield from _costs(document)
    yield from _slices(document)
    yield from _differences(document)
    yield from document.get("cases", [])


def _table(document: Document) -> Iterator[str]:
    yield "| model | " + " | ".join(METRICS) + " | seconds | epochs |"
    yield "|---|" + "---|" * (len(METRICS) + 2)
    chance = document["settings"]["chance"]
    yield "| chance | " + " | ".join(f"{chance[metric]:.4f}" for metric in METRICS) + " | | |"
    models = list(dict.fromkeys(row["model"] for row in document["rows"]))
    best = {metric: max(models, key=lambda m: _mean(document, m, metric)) for metric in METRICS}
    for model in models:
        rows = [row for row in document["rows"] if row["model"] == model]
        cells = []
        for metric in METRICS:
            text = _shown([row["metrics"][metric] for row in rows])
            cells.append(f"**{text}**" if best[metric] == model else text)
        spent = [f"{statistics.mean(row[name] for row in rows):.0f}" for name in ("seconds", "epochs")]
        spent[1] += "+" if any(map(_limited, rows)) else ""
        yield f"| {model} | " + " | ".join([*cells, *spent]) + " |"
        paper = published.paper(document["experiment"], document["data"], model)
        if paper:
            yield f"| *{model}, paper* | " + " | ".join(_or_dash(paper.get(m)) for m in METRICS) + " | | |"
        is_published = (document["experiment"], document["data"]) == ("reference", "ml-1m")
        other = published.LEAVE_ONE_OUT.get(model) if is_published else None
        if other:
            yield f"| *{model}, published* | " + " | ".join(_or_dash(other.get(m)) for m in METRICS) + " | | |"
    yield ""


def _limited(row: dict[str, Any]) -> bool:
    """Whether a fit ended while a better score was still near; that of the item table is not looked at."""
    curves = [curve for name, curve in row.get("validation", {}).items() if name != "item2vec"]
    return any(len(curve) - curve.index(max(curve)) <= _PATIENCE for curve in curves)


def _order(document: Document) -> Iterator[str]:
    """Our order and the paper's, of the models that it has, by a metric that it gives in all tables."""
    models = dict.fromkeys(row["model"] for row in document["rows"])
    theirs = {model: published.paper(document["experiment"], document["data"], model).get("ndcg@5") for model in models}
    numbers = {model: number for model, number in theirs.items() if number is not None}
    if len(numbers) < 2:
        return
    ours = sorted(numbers, key=lambda model: _mean(document, model, "ndcg@5"))
    paper = sorted(numbers, key=lambda model: numbers[model])
    yield f"Order by NDCG@5, the worst first. Ours: {' < '.join(ours)}. The paper's: {' < '.join(paper)}.\n"


COSTS = {
    "uploads_per_user": "uploads a user",
    "bytes_up_per_user": "bytes up a user",
    "bytes_down_per_request": "bytes down a request",
    "share_with_r2": "share with r2",
    "stale_exposures": "exposures that r2 lacks",
    "stale_hours_median": "hours since its last one (median)",
}


def _costs(document: Document) -> Iterator[str]:
    rows = [row for row in document["rows"] if row["seed"] == 1 and "uploads_per_user" in row]
    if not rows:
        return
    yield "| r2 goes up | ndcg@10 | " + " | ".join(COSTS.values()) + " |"
    yield "|---|---|" + "---|" * len(COSTS)
    for row in rows:
        costs = " | ".join(str(row.get(name, "-")) for name in COSTS)
        yield f"| {row['model']} | {_mean(document, row['model'], 'ndcg@10'):.4f} | {costs} |"
    yield ""


def _slices(document: Document) -> Iterator[str]:
    slices = document.get("slices", [])
    if not slices:
        return
    least = [piece["least"] for piece in slices]
    names = [_from_to(first, after) for first, after in zip(least, [*least[1:], None], strict=True)]
    yield "NDCG@10 by how many clicks of the slow phase, of all users, are on the item of the test click:\n"
    yield "| model | " + " | ".join(names) + " |"
    yield "|---|" + "---|" * len(slices)
    yield "| *test clicks* | " + " | ".join(f"{piece['clicks']:,}" for piece in slices) + " |"
    for model in dict.fromkeys(row["model"] for row in document["rows"]):
        yield f"| {model} | " + " | ".join(f"{piece['ndcg@10'][model]:.4f}" for piece in slices) + " |"
    yield ""


def _from_to(first: int, after: int | None) -> str:
    if after is None:
        return f"{first} and more"
    return str(first) if after == first + 1 else f"{first} to {after - 1}"


def tried(document: Document) -> Iterator[str]:
    """Everything that was tried in tuning."""
    yield f"## What was tried: {document['data']}\n"
    yield f"`{document['settings']['command']}`; judged on {document['settings']['judged_on']}, never on test clicks.\n"
    yield "| net | tried | validation | epochs |"
    yield "|---|---|---|---|"
    for trial in document["trials"]:
        values = ", ".join(f"{name} {value:g}" for name, value in trial["tried"].items())
        yield f"| {trial['net']} | {values} | {trial['validation']:.4f} | {trial['epochs']} |"
    yield ""


def _differences(document: Document) -> Iterator[str]:
    if not document["tests"]:
        return
    yield "| a - b | metric | difference | relative | 95 % interval | p | the paper's |"
    yield "|---|---|---|---|---|---|---|"
    for test in document["tests"]:
        if test["metric"] not in ("hr@1", "ndcg@10", "mrr"):
            continue
        of_b = _mean(document, test["b"], test["metric"])
        numbers = [
            published.paper(document["experiment"], document["data"], test[side]).get(test["metric"]) for side in "ab"
        ]
        gain = f"{numbers[0] / numbers[1] - 1:+.2%}" if numbers[0] and numbers[1] else ""
        relative = f"{test['difference'] / of_b:+.2%}" if of_b else "-"
        found = f"{test['difference']:+.4f} | {relative}"
        interval = f"{test['low']:+.4f} to {test['high']:+.4f} | {test['p']:.4f}"
        yield f"| {test['a']} - {test['b']} | {test['metric']} | {found} | {interval} | {gain} |"
    yield ""


def _mean(document: Document, model: str, metric: str) -> float:
    return statistics.fmean(row["metrics"][metric] for row in document["rows"] if row["model"] == model)


def _shown(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ({statistics.stdev(values):.4f})" if len(values) > 1 else mean


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
