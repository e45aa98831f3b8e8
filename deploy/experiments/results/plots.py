"""Draw results with matplotlib as SVG: models as dots with intervals, and lines over a varied setting.

The same result gives the same bytes: the ids in the SVG are fixed and it has no date.
"""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy.experiments.results.result import Interval, Result, over_seeds
from deploy.experiments.results.styles import LOOK, base, style

METRICS = {"ndcg@10": "NDCG@10", "hr@10": "HR@10", "mrr": "MRR"}
VARIED = {  # experiments that vary a number: the label of the axis of each varied name
    "sensitivity": {"d": "embedding size d", "lambda": "L2 weight λ"},
    "window": {"tumbling": "exposures per window"},
}
Line = Sequence[tuple[float, Interval]]


def draw(result: Result, title: str) -> str:
    """Return the figure of a result as SVG."""
    text = f"{title}: {result.data}"
    if result.experiment in VARIED:
        return _draw_varied(result, text)
    return dots(text, _note(result), {name: _values(result, metric) for metric, name in METRICS.items()})


def dots(title: str, note: str, panels: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Draw a panel per metric: a dot with a 95 % interval per model.

    `panels` has for each metric the values of each model, one per seed. Models are ordered by the first metric, the
    best on top; if some are variants of one model, variants stay together in the given order.
    """
    first = next(iter(panels.values()))
    models, groups = list(first), list(dict.fromkeys(map(base, first)))
    if len(groups) < len(models):
        models.sort(key=lambda model: groups.index(base(model)))
    else:
        models.sort(key=lambda model: -statistics.fmean(first[model]))
    with _figure(title, note, 9.5, 1.3 + 0.25 * len(models)) as (figure, svg):
        axes = figure.subplots(1, len(panels), sharey=True)
        for axis, (metric, values) in zip(axes, panels.items(), strict=True):
            for y, model in enumerate(models):
                point = over_seeds(values[model])
                _point(axis, point.mean, y, model, xerr=point.half_width)
            if len(groups) < len(models):
                for y in range(1, len(models)):
                    if base(models[y]) != base(models[y - 1]):
                        axis.axhline(y - 0.5, color="#888888", linewidth=0.6)
            axis.set_xlabel(metric)
        axes[0].set_yticks(range(len(models)), models)
        axes[0].set_ylim(len(models) - 0.4, -0.6)
    return svg.getvalue()


def lines(
    title: str,
    note: str,
    panels: Mapping[str, Mapping[str, Line]],
    levels: Mapping[str, Interval] | None = None,
    *,
    logarithmic: bool = False,
) -> str:
    """Draw a panel per label of the x-axis with its lines of NDCG@10, and `levels` as horizontal lines in each.

    Without `logarithmic`, the values of x are placed at equal distances.
    """
    with _figure(title, note, 4.4 * len(panels) + 2, 3.6) as (figure, svg):
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (label, of_panel) in zip(axes, panels.items(), strict=True):
            values = sorted({x for line in of_panel.values() for x, _ in line})
            place = {x: x if logarithmic else float(i) for i, x in enumerate(values)}
            for number, (name, line) in enumerate(of_panel.items()):
                shift = 0.0 if logarithmic else 0.06 * (number - (len(of_panel) - 1) / 2)  # intervals must not overlap
                places = [place[x] + shift for x, _ in line]
                axis.plot(places, [y.mean for _, y in line], color=style(name).colour, linewidth=1)
                for i, (_, y) in enumerate(line):
                    _point(axis, places[i], y.mean, name, yerr=y.half_width, label=name if i == 0 else None)
            for i, (name, level) in enumerate((levels or {}).items()):
                dashes = ("--", ":", "-.")[i % 3]
                axis.axhline(level.mean, color=style(name).colour, linestyle=dashes, linewidth=1.2, label=name)
            if logarithmic:
                axis.set_xscale("log")
            else:
                axis.set_xticks(list(place.values()), [f"{x:g}" for x in values])
            axis.set_xlabel(label)
            if len(of_panel) + len(levels or {}) > 1:
                axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        axes[0].set_ylabel("NDCG@10")
    return svg.getvalue()


def _draw_varied(result: Result, title: str) -> str:
    """Draw NDCG@10 of models called `name number` as a line per name; other models are levels to compare with."""
    values = _values(result, "ndcg@10")
    found: dict[str, list[tuple[float, Interval]]] = {}
    levels: dict[str, Interval] = {}
    for model, of_seeds in values.items():
        if match := re.fullmatch(r"(.+) ([\d.e+-]+)", model):
            found.setdefault(match[1], []).append((float(match[2]), over_seeds(of_seeds)))
        else:
            levels[model] = over_seeds(of_seeds)
    label, panels = "", dict[str, dict[str, Line]]()
    for name, line in found.items():
        label = VARIED[result.experiment].get(name, label)
        panels.setdefault(label, {})[name] = sorted(line, key=lambda point: point[0])
    return lines(title, _note(result), panels, levels)


def _values(result: Result, metric: str) -> dict[str, list[float]]:
    return {model: [row.metrics[metric] for row in result.of_model(model)] for model in result.models}


def _note(result: Result) -> str:
    seeds = len(result.settings.seeds)
    if seeds < 2:
        return "One seed: no intervals."
    return f"Mean over {seeds} seeds with the 95 % interval of the mean (Student's t)."


def _point(
    axis: Axes, x: float, y: float, name: str, *, xerr: float = 0.0, yerr: float = 0.0, label: str | None = None
) -> None:
    style(name).draw(axis, x, y, xerr=xerr or None, yerr=yerr or None, label=label)


@contextmanager
def _figure(title: str, note: str, width: float, height: float) -> Iterator[tuple[Figure, io.StringIO]]:
    """Yield a figure to draw on and the text that becomes its SVG."""
    svg = io.StringIO()
    with mpl.rc_context(LOOK):
        figure = Figure((width, height), layout="constrained")
        figure.suptitle(title, fontweight="bold", fontsize=10)
        figure.supxlabel(note, fontsize=8, color="#555555")
        yield figure, svg
        metadata = {"Title": title, "Date": None, "Creator": None}
        figure.savefig(svg, format="svg", metadata=metadata)
