"""Line charts over event time as inline SVG. Colours come from the style of the page; nothing is loaded."""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from deploy.report.time_axis import TimeAxis

WIDTH, HEIGHT = 720, 300
# margins and gap have room for the larger text of a narrow screen: see report.css
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 122, 18, 40
_PLOT_W, _PLOT_H = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
_NAME_GAP = 18  # between two names at the ends of lines


@dataclass(frozen=True)
class Series:
    """One line: a value per point of the axis, None for a gap. `colour` is the number of a colour of the page."""

    name: str
    values: Sequence[float | None]
    colour: int
    dashed: bool = False
    strong: bool = False


@dataclass(frozen=True)
class Mark:
    """An occurrence at point number `at`: a line over the whole height with a label, or a small tick."""

    at: int
    label: str
    small: bool = False


@dataclass(frozen=True)
class Chart:
    """A line chart. `show` formats a value, `tick` a value on the vertical axis."""

    title: str
    description: str
    axis: TimeAxis
    series: Sequence[Series]
    marks: Sequence[Mark] = field(default=())
    show: Callable[[float], str] = "{:.3f}".format
    tick: Callable[[float], str] = "{:.3f}".format
    from_zero: bool = False

    @property
    def labels(self) -> list[str]:
        """The event time of each point as text."""
        return [self.axis.label(time) for time in self.axis.times]

    def svg(self) -> Markup:
        """Return the picture, with title and description for screen readers."""
        return _svg(self)

    def points(self) -> str:
        """Return positions, labels and formatted values of all points as JSON, for the script of the page."""
        rows = {s.name: [None if v is None else self.show(v) for v in s.values] for s in self.series}
        at = [round(_x(self.axis.share(time)), 1) for time in self.axis.times]
        return json.dumps({"labels": self.labels, "at": at, "series": rows})


def ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers, from below `low` to above `high`."""
    if high <= low:
        high = low + 1
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return `wanted` with distances of at least `gap`, in the same order, within `low` and `high` if possible."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed = list(wanted)
    for before, here in itertools.pairwise(order):
        placed[here] = max(placed[here], placed[before] + gap)
    excess = placed[order[-1]] - high if order else 0.0
    if excess > 0:
        placed[order[-1]] = high
        for here, before in itertools.pairwise(reversed(order)):
            placed[before] = max(low, min(placed[before], placed[here] - gap))
    return placed


def _x(share: float) -> float:
    return _LEFT + _PLOT_W * share


def _svg(chart: Chart) -> Markup:
    seen = [v for s in chart.series for v in s.values if v is not None and math.isfinite(v)] or [0.0, 1.0]
    grid = ticks(0.0 if chart.from_zero else min(seen), max(seen))
    span = grid[-1] - grid[0]

    def x(point: int) -> float:
        return _x(chart.axis.share(chart.axis.times[point]))

    def y(value: float) -> float:
        return _TOP + _PLOT_H * (1 - (value - grid[0]) / span)

    number = f"{zlib.crc32(chart.title.encode()):x}"  # the same each time: a page sees if a chart has changed
    out = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="t{number} d{number}">',
        f'<title id="t{number}">{escape(chart.title)}</title><desc id="d{number}">{escape(chart.description)}</desc>',
    ]
    out += [_grid_line(chart.tick(value), y(value)) for value in grid]
    out += [
        f'<text class="tick middle" x="{_x(share):.1f}" y="{_TOP + _PLOT_H + 24}">{escape(label)}</text>'
        for share, label in chart.axis.ticks()
    ]
    out += [_mark(mark, x(mark.at)) for mark in chart.marks]
    ends = []
    for series in chart.series:
        out.append(_path(series, x, y))
        last = next((v for v in reversed(series.values) if v is not None), None)
        ends.append((series, _TOP if last is None else y(last)))
    heights = spread([end for _, end in ends], _NAME_GAP, _TOP + 4, _TOP + _PLOT_H)
    for (series, _), height in zip(ends, heights, strict=True):
        weight = " strong" if series.strong else ""
        out.append(
            f'<text class="name c{series.colour}{weight}" x="{_LEFT + _PLOT_W + 8}" y="{height + 4:.1f}">'
            f"{escape(series.name)}</text>"
        )
    out.append(f'<line class="rule" x1="0" x2="0" y1="{_TOP}" y2="{_TOP + _PLOT_H}" visibility="hidden"/></svg>')
    return Markup("".join(out))  # noqa: S704 - every text above is escaped or a number


def _grid_line(label: str, y: float) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _PLOT_W}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick end" x="{_LEFT - 7}" y="{y + 4:.1f}">{escape(label)}</text>'
    )


def _mark(mark: Mark, x: float) -> str:
    title = f"<title>{escape(mark.label)}</title>"
    bottom = _TOP + _PLOT_H
    if mark.small:
        return f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom - 5}" y2="{bottom}">{title}</line>'
    left = x > _LEFT + 0.8 * _PLOT_W  # a label at the right end is written on the left of its line
    return (
        f'<line class="mark long" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}">{title}</line>'
        f'<text class="mark{" end" if left else ""}" x="{x + (-3 if left else 3):.1f}" y="{_TOP - 4}">'
        f"{escape(mark.label)}</text>"
    )


def _path(series: Series, x: Callable[[int], float], y: Callable[[float], float]) -> str:
    steps, pen_down = [], False
    for position, value in enumerate(series.values):
        if value is None or not math.isfinite(value):
            pen_down = False
            continue
        steps.append(f"{'L' if pen_down else 'M'}{x(position):.1f} {y(value):.1f}")
        pen_down = True
    look = (" dashed" if series.dashed else "") + (" strong" if series.strong else "")
    alone = sum(step[0] == "M" for step in steps) == len(steps)  # isolated points only: show them as dots
    shape = "".join(f"{step}h0.01" for step in steps) if alone else "".join(steps)
    dots = " dots" if alone else ""
    return f'<path class="line c{series.colour}{look}{dots}" d="{shape}"/>'
