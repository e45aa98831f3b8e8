"""The style of all figures, with a distinct colour and a marker for each model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import RcKeyType

Error = float | Sequence[Sequence[float]] | None  # half the width of an interval, or ([below], [above])


class Style(NamedTuple):
    """A colour, a marker of matplotlib, and whether the marker is filled."""

    colour: str
    marker: str
    filled: bool = True

    def draw(
        self, axes: Axes, x: float, y: float, *, xerr: Error = None, yerr: Error = None, label: str | None = None
    ) -> None:
        """Draw a point with its intervals."""
        axes.errorbar(
            x,
            y,
            xerr=xerr,
            yerr=yerr,
            marker=self.marker,
            markersize=9 if self.marker == "*" else 6,
            color=self.colour,
            markerfacecolor=self.colour if self.filled else "white",
            capsize=2,
            linestyle="none",
            label=label,
        )


STYLES = {
    "popularity": Style("#7f7f7f", "X"),
    "item2vec": Style("#8c6d31", "p"),
    "FM": Style("#c49c00", "v"),
    "NeuMF": Style("#6b8e23", ">"),
    "GRU4Rec": Style("#cc79a7", "o"),
    "GRU4Rec, fine-tuned": Style("#8f3f6d", "o", filled=False),
    "minGRU": Style("#e7298a", "h"),
    "SASRec": Style("#332288", "d"),
    "Caser": Style("#117733", "8"),
    "HSTU": Style("#882255", "H"),
    "DIN": Style("#0072b2", "s"),
    "DIN w/ F2S": Style("#56b4e9", "D"),
    "DIN w/ F2S, served": Style("#2a7ba8", "D", filled=False),
    "DIN+FM": Style("#7a5901", "v", filled=False),
    "DIN+NeuMF": Style("#4b5d16", ">", filled=False),
    "DIN+GRU4Rec": Style("#6a3d9a", "P"),
    "FedAvg": Style("#999933", "<"),
    "DCCL": Style("#44aa99", "d", filled=False),
    "fast alone": Style("#009e73", "^"),
    "fast alone, fine-tuned": Style("#00634a", "^", filled=False),
    "MC2-SF": Style("#d55e00", "*"),
    "MC2-SF, served": Style("#a34700", "*", filled=False),
}
_FORMS = {  # the collaboration experiment calls its models by their form of collaboration
    "a cloud only (DIN)": "DIN",
    "b device only (fast alone)": "fast alone",
    "c slow-centralised (FedAvg of GRU4Rec)": "FedAvg",
    "d fast-centralised (DCCL-style patches on GRU4Rec)": "DCCL",
    "e bidirectional (MC2-SF)": "MC2-SF",
}
LINES = {  # lines of figures with an axis of numbers
    "d": STYLES["MC2-SF"],
    "lambda": STYLES["MC2-SF"],
    "tumbling": STYLES["DIN w/ F2S, served"],
    "carried": Style("#444444", "s"),
    "every exposure uploaded": STYLES["DIN w/ F2S"],
    "warm": Style("#b2182b", "o"),
    "whole rate": Style("#4d4d4d", "s", filled=False),
    "scratch": Style("#2166ac", "^"),
}

LOOK: dict[RcKeyType, object] = {
    "svg.hashsalt": "mc2sf",
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
}


def base(model: str) -> str:
    """Return the model that `model` is a variant of: `DIN` for `DIN, softmax`; itself if it is none."""
    name = _FORMS.get(model, model)
    while name not in STYLES and "," in name:
        name = name.rpartition(",")[0]
    return name if name in STYLES else model


def style(model: str) -> Style:
    """Return the style of a model or of a line; black dots for a name that has none."""
    return LINES.get(model) or STYLES.get(base(model), Style("#000000", "o"))
