"""Figures as SVG, drawn by hand: grouped bars with error bars, and lines. Colours are told apart in grey as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 300, 56, 46, 30
COLOURS = ("#1b4f72", "#e67e22", "#2e9e6b", "#8e44ad", "#c0392b", "#7f8c8d", "#d4ac0d", "#16a085")


@dataclass(frozen=True)
class Value:
    """A mean and how far it may be off on either side."""

    mean: float
    error: float = 0.0


def bars(title: str, groups: Mapping[str, Mapping[str, Value]]) -> str:
    """Groups of bars (a metric each) of the same series (a model each)."""
    names = list(dict.fromkeys(name for series in groups.values() for name in series))
    values = [value for series in groups.values() for value in series.values()]
    axis = _Axis.over([v.mean - v.error for v in values] + [v.mean + v.error for v in values])
    wide = (WIDTH - LEFT - 10) / max(len(groups), 1)
    parts = axis.drawn()
    for g, (group, series) in enumerate(groups.items()):
        parts.append(_text(LEFT + wide * (g + 0.5), HEIGHT - BOTTOM + 16, group, "middle"))
        bar = wide * 0.8 / max(len(names), 1)
        for i, name in enumerate(names):
            if name not in series:
                continue
            value, x = series[name], LEFT + wide * (g + 0.1) + bar * i
            y, zero = axis.y(value.mean), axis.y(axis.low)
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar * 0.9:.1f}" height="{max(zero - y, 0):.1f}" '
                f'fill="{COLOURS[i % len(COLOURS)]}"><title>{escape(name)} {value.mean:.4f}</title></rect>'
            )
            if value.error:
                middle = x + bar * 0.45
                ends = axis.y(value.mean - value.error), axis.y(value.mean + value.error)
                parts.append(_path([(middle, ends[0]), (middle, ends[1])], "#222", 1.2))
    return _figure(title, parts, names)


def lines(title: str, across: str, series: Mapping[str, Sequence[tuple[str, Value]]]) -> str:
    """Lines over the same places, whose names stand along the axis called `across`."""
    places = list(dict.fromkeys(place for line in series.values() for place, _ in line))
    values = [value for line in series.values() for _, value in line]
    axis = _Axis.over([v.mean - v.error for v in values] + [v.mean + v.error for v in values])
    step = (WIDTH - LEFT - 40) / max(len(places) - 1, 1)
    x = {place: LEFT + 15 + step * i for i, place in enumerate(places)}
    parts = axis.drawn()
    parts += [_text(x[place], HEIGHT - BOTTOM + 16, place, "middle") for place in places]
    parts.append(_text((LEFT + WIDTH) / 2, HEIGHT - BOTTOM + 32, across, "middle"))
    for i, line in enumerate(series.values()):
        colour = COLOURS[i % len(COLOURS)]
        points = [(x[place], axis.y(value.mean)) for place, value in line]
        parts.append(_path(points, colour, 2))
        for (cx, cy), (place, value) in zip(points, line, strict=True):
            title_ = f"<title>{escape(place)}: {value.mean:.4f}</title>"
            parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="3.5" fill="{colour}">{title_}</circle>')
            if value.error:
                ends = axis.y(value.mean - value.error), axis.y(value.mean + value.error)
                parts.append(_path([(cx, ends[0]), (cx, ends[1])], colour, 1))
    return _figure(title, parts, list(series))


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    @classmethod
    def over(cls, values: Sequence[float]) -> _Axis:
        """From a little below the smallest to a little above the largest."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        room = max((high - low) * 0.15, 0.005)
        return cls(max(low - room, 0.0), high + room)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    def drawn(self) -> list[str]:
        parts = []
        for i in range(5):
            value = self.low + (self.high - self.low) * i / 4
            parts.append(_path([(LEFT, self.y(value)), (WIDTH - 10, self.y(value))], "#ddd", 1))
            parts.append(_text(LEFT - 6, self.y(value) + 4, f"{value:.3f}", "end"))
        return parts


def _figure(title: str, parts: Sequence[str], names: Sequence[str]) -> str:
    legend, x = [], LEFT
    rows = 0
    for i, name in enumerate(names):
        length = 24 + 7 * len(name)
        if x + length > WIDTH:
            x, rows = LEFT, rows + 1
        y = HEIGHT + 4 + 18 * rows
        legend.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{COLOURS[i % len(COLOURS)]}"/>')
        legend.append(_text(x + 16, y + 10, name, "start"))
        x += length
    height = HEIGHT + 26 + 18 * rows
    body = "\n".join([_text(LEFT, 18, title, "start", bold=True), *parts, *legend])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="sans-serif" font-size="12"><title>{escape(title)}</title>\n'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight} fill="#222">{escape(text)}</text>'


def _path(points: Sequence[tuple[float, float]], colour: str, width: float) -> str:
    d = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="{d}" stroke="{colour}" stroke-width="{width}" fill="none"/>'
