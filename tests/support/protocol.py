"""Small logs for the experiment as a stream, in the forms that differ: ratings, single events, impressions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.experiments import write_log


def ratings_log(folder: Path) -> str:
    """Write a small log in ML-100K's form: a third of the ratings are exposures without an impression."""
    chance = np.random.default_rng(2)
    lines = [
        f"{user}\t{item}\t{chance.integers(2, 6)}\t{1_600_000_000 + 7 * user + 50 * i}"
        for user in range(1, 21)
        for i, item in enumerate(chance.choice(150, 60, replace=False).tolist())
    ]
    (folder / "u.data").write_text("\n".join(lines) + "\n")
    return f"ml-100k:{folder}"


def single_events_log(folder: Path) -> str:
    write_log(folder / "log.csv")
    return f"log:{folder / 'log.csv'}"


def impressions_log(folder: Path) -> str:
    """Write a log of impressions with exposures around the click."""
    chance, lines = np.random.default_rng(3), ["user,item,timestamp,event,impression"]
    for user in range(15):
        for i, items in enumerate(chance.choice(150, (30, 4)).tolist()):
            kinds = ("exposure", "exposure", "click", "exposure")
            time = 1_600_000_000 + 40 * i + user
            lines += [
                f"u{user},{item},{time + k},{kind},{i}" for k, (item, kind) in enumerate(zip(items, kinds, strict=True))
            ]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    return f"log:{folder / 'log.csv'}"
