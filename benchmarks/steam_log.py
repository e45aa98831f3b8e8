"""A log of the shape of Steam's reviews, in the form of the public file: `python -m benchmarks.steam_log FILE`.

Every review is a line with a Python dict literal, as in steam_reviews.json.gz, gzipped if the name ends in `.gz`. The
shape is that of the public file (7,793,069 reviews, 2,567,538 users, 15,474 games): most users write once or twice, a
few games have most of the reviews, and a user's games are near each other. No row is copied from it.
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from benchmarks.popularity import popularity

USERS_PER_REVIEW, GAMES = 2_567_538 / 7_793_069, 15_474
USER_TAIL, GAME_TAIL = 1.9, 1.05  # exponents of the power laws
TASTE = 300  # games of similar popularity rank around a user's own
FIRST_DAY, DAYS = 1_287_100_800, 2_637  # 2010-10-15, to 2018-01-05
_CHUNK = 100_000


def reviews(count: int, seed: int) -> Iterator[tuple[int, int, int]]:
    """Yield (user, game, day), in the order of the days."""
    chance = np.random.default_rng(seed)
    users = max(1, round(count * USERS_PER_REVIEW))
    activity = chance.pareto(USER_TAIL, users) + 0.2
    shares = np.cumsum(activity / activity.sum())
    game_shares = popularity(GAMES, GAME_TAIL)
    taste = np.searchsorted(game_shares, chance.random(users))
    days = np.sort((chance.random(count) ** 0.4 * DAYS).astype(np.int64))  # ever more reviews per day
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        who = np.minimum(np.searchsorted(shares, chance.random(size)), users - 1)
        near = np.abs(taste[who] + chance.integers(-TASTE, TASTE, size)) % GAMES
        popular = np.searchsorted(game_shares, chance.random(size))
        games = np.where(chance.random(size) < 0.5, near, popular)
        yield from zip(who.tolist(), games.tolist(), days[start : start + size].tolist(), strict=True)


def line(number: int, user: int, game: int, day: int) -> str:
    """Return a review as a line of the public file."""
    date = time.strftime("%Y-%m-%d", time.gmtime(FIRST_DAY + 86_400 * day))
    return (
        f"{{u'username': u'player {user}', u'hours': {number % 997 / 10}, u'product_id': u'{10 * (game + 1)}', "
        f"u'page_order': {number % 10}, u'date': u'{date}', u'text': u'Good.', u'early_access': False, "
        f"u'page': {1 + number // 10}}}\n"
    )


def write(path: Path, count: int, seed: int = 1) -> None:
    """Write `count` reviews."""
    with _opened(path) as file:
        for number, review in enumerate(reviews(count, seed)):
            file.write(line(number, *review))


def _opened(path: Path) -> IO[str]:
    return gzip.open(path, "wt", 1) if path.suffix == ".gz" else path.open("w")


def main() -> None:
    """Write a log."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steam_log", description=__doc__)
    parser.add_argument("file", type=Path, help="the file to write, .json or .json.gz")
    parser.add_argument("--reviews", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    write(arguments.file, arguments.reviews, arguments.seed)


if __name__ == "__main__":
    main()
