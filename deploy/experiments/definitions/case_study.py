"""Fig. 3: one user's last clicks and the top of the catalogue by each side alone and with the other side's input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from deploy.experiments.data.candidate_lists import Score, draw_candidates
from deploy.experiments.data.protocol import Phase, Protocol
from deploy.experiments.definitions.experiment import Request
from deploy.experiments.training.models import DIN_MODEL, F2S_MODEL, FAST_MODEL, MC2SF_MODEL
from deploy.experiments.training.trainer import Trainer
from models.data.catalogue import FIRST_ROW, ROW_PADDING
from models.data.interaction_log import Ints
from models.evaluation.metrics import rank

TOP = 5
COLUMNS = (
    ("fast alone", FAST_MODEL),
    ("slow alone (DIN)", DIN_MODEL),
    ("S2F (MC2-SF)", MC2SF_MODEL),
    ("F2S", F2S_MODEL),
)


def render(request: Request, trainer_of: Callable[[Protocol], Trainer]) -> list[str]:
    """Return the case as lines of Markdown. The user is the first by id with exposures and a full short history."""
    trainer = trainer_of(request.protocol)
    genres = genres_of(request)
    click = chosen_click(trainer)
    data = trainer.dataset
    before = trainer.known_history().queries(np.array([click])).clicks[0]
    last = [row for row in before.tolist() if row != ROW_PADDING][-TOP:]
    lines = [
        f"One user, who clicked next: {_label(trainer, genres, data.log.keys[click])}.\n",
        "| | last clicks | " + " | ".join(name for name, _ in COLUMNS) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    tops = [top(trainer, model.fit(trainer, request.hyperparameters, 1), click) for _, model in COLUMNS]
    for i in range(TOP):
        clicked = _label(trainer, genres, last[i]) if i < len(last) else ""
        cells = [_label(trainer, genres, rows[i]) if i < len(rows) else "" for rows, _ in tops]
        lines.append(f"| {i + 1} | {clicked} | " + " | ".join(cells) + " |")
    lines.append("| rank of the next click | | " + " | ".join(str(place) for _, place in tops) + " |\n")
    return lines


def chosen_click(trainer: Trainer) -> int:
    """Return the index in the log of the last test click of the chosen user."""
    clicks = trainer.candidate_lists(Phase.TEST).clicks
    known = trainer.known_history().queries(clicks)
    full = (known.clicks != ROW_PADDING).all(1) & (known.exposures != ROW_PADDING).any(1)
    users = trainer.dataset.log.users[clicks]
    user = users[int(np.flatnonzero(full.numpy())[0])] if full.any() else users[0]
    return int(clicks[users == user][-1])


def top(trainer: Trainer, score: Score, click: int) -> tuple[Ints, int]:
    """Return the rows of the best items among all that are new to the user, and the rank of the click among them."""
    full = replace(trainer.protocol, candidates="full")
    lists = draw_candidates(trainer.dataset, np.array([click]), full)
    with torch.inference_mode():
        scores = score(trainer.known_history().queries(lists.clicks), torch.from_numpy(lists.items))[0].numpy()
    return lists.items[0][np.argsort(-scores, kind="stable")[:TOP]], rank(scores, int(lists.target_index[0])).rank


def genres_of(request: Request) -> dict[str, str]:
    """Return MovieLens's genres of each item, from `movies.dat` in the source's folder; nothing for other sources."""
    path = Path(request.source.text.partition(":")[2]) / "movies.dat"
    if not request.source.text.startswith("ml-1m") or not path.exists():
        return {}
    rows = (line.split("::") for line in path.read_text("latin-1").splitlines())
    return {row[0]: row[2].replace("|", "/") for row in rows}


def _label(trainer: Trainer, genres: dict[str, str], row: int) -> str:
    item = trainer.dataset.items[int(row) - FIRST_ROW]
    return genres.get(item, item)
