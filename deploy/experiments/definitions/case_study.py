"""Fig. 3: one user's last clicks beside the top of the catalogue as each side ranks it alone, and with the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from deploy.experiments.data.candidate_lists import Score, lists
from deploy.experiments.data.protocol import Phase, Protocol
from deploy.experiments.definitions.experiment import Asked
from deploy.experiments.training.models import DIN_ROW, F2S_ROW, FAST_ROW, MC2SF_ROW
from deploy.experiments.training.trainer import Bench
from models.data.catalogue import FIRST_ROW, ROW_PADDING
from models.data.interaction_log import Ints
from models.evaluation.metrics import rank

TOP = 5
COLUMNS = (("fast alone", FAST_ROW), ("slow alone (DIN)", DIN_ROW), ("S2F (MC2-SF)", MC2SF_ROW), ("F2S", F2S_ROW))


def look(asked: Asked, bench_of: Callable[[Protocol], Bench]) -> list[str]:
    """The case as lines of Markdown. The user is the first by name who has exposures and a full fast history."""
    bench = bench_of(asked.protocol)
    names = genres(asked)
    click = chosen(bench)
    data = bench.dataset
    before = bench.known()(np.array([click])).clicks[0]
    last = [row for row in before.tolist() if row != ROW_PADDING][-TOP:]
    lines = [
        f"One user, who clicked next: {_named(bench, names, data.log.keys[click])}.\n",
        "| | last clicks | " + " | ".join(name for name, _ in COLUMNS) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    tops = [top(bench, row.fit(bench, asked.recipes, 1), click) for _, row in COLUMNS]
    for place in range(TOP):
        clicked = _named(bench, names, last[place]) if place < len(last) else ""
        cells = [_named(bench, names, found[place]) if place < len(found) else "" for found, _ in tops]
        lines.append(f"| {place + 1} | {clicked} | " + " | ".join(cells) + " |")
    lines.append("| rank of what was clicked next | | " + " | ".join(str(place) for _, place in tops) + " |\n")
    return lines


def chosen(bench: Bench) -> int:
    """The place in the log of the last test click of the user who is looked at."""
    clicks = bench.lists(Phase.TEST).clicks
    known = bench.known()(clicks)
    full = (known.clicks != ROW_PADDING).all(1) & (known.exposures != ROW_PADDING).any(1)
    users = bench.dataset.log.users[clicks]
    user = users[int(np.flatnonzero(full.numpy())[0])] if full.any() else users[0]
    return int(clicks[users == user][-1])


def top(bench: Bench, score: Score, click: int) -> tuple[Ints, int]:
    """The rows ranked first among all that the user never had, and the rank of the click there."""
    of = lists(bench.dataset, np.array([click]), replace(bench.protocol, candidates="full"))
    with torch.inference_mode():
        scores = score(bench.known()(of.clicks), torch.from_numpy(of.items))[0].numpy()
    return of.items[0][np.argsort(-scores, kind="stable")[:TOP]], rank(scores, int(of.places[0])).rank


def genres(asked: Asked) -> dict[str, str]:
    """What MovieLens says of each item, where `movies.dat` stands beside the ratings; nothing elsewhere."""
    path = Path(asked.source.text.partition(":")[2]) / "movies.dat"
    if not asked.source.text.startswith("ml-1m") or not path.exists():
        return {}
    rows = (line.split("::") for line in path.read_text("latin-1").splitlines())
    return {row[0]: row[2].replace("|", "/") for row in rows}


def _named(bench: Bench, names: dict[str, str], row: int) -> str:
    item = bench.dataset.items[int(row) - FIRST_ROW]
    return names.get(item, item)
