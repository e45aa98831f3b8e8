"""A log of the shape of Alipay's, as a CSV that `alipay:FILE` reads: `python -m benchmarks.alipay_log FILE`.

The log of the paper is not public. Published are its size (1,031,268 users, 13,932 items, 228,412,772 interactions) and
that each user has at least 20. The rest is assumed here: seven days, impressions of six items, one click in some thirty
shown items, a few very active users, a few very popular items.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from benchmarks.popularity import popularity

USERS, ITEMS, EVENTS = 1_031_268, 13_932, 228_412_772
LEAST = 20  # events of a user
ACTIVITY, ITEM_TAIL = 1.0, 0.8  # sigma of the log-normal number of events, exponent of the items' power law
SHOWN = 6  # items of an impression; a user's last one may have fewer
THEMES, CLICKED, CLICKED_OF_THEME = 20, 0.02, 0.3  # shares of clicks; each user has one theme
FIRST_MS, SPAN_MS = 1_622_505_600_000, 7 * 86_400_000  # 2021-06-01, and a week
_KINDS = pa.array(["exposure", "click"])


def blocks(fraction: float, seed: int, block: int) -> Iterator[pa.Table]:
    """Yield the rows in order of time, about `block` at once. Memory grows with the users only."""
    counts = events_by_user(fraction, seed)
    impressions = -(-counts // SHOWN)
    phase = np.random.default_rng((seed, 1)).random(len(counts))
    shares = popularity(ITEMS - SHOWN + 1, ITEM_TAIL)
    spans = -(-int(counts.sum()) // block)
    done, number = np.zeros(len(counts), np.int64), 1  # 0 is no impression
    for span in range(spans):
        until = np.minimum((impressions * ((span + 1) / spans) + phase).astype(np.int64), impressions)
        new = until - done
        user = np.repeat(np.arange(len(counts)), new)
        index = np.arange(len(user)) + np.repeat(until - np.cumsum(new), new)  # of the user's impressions
        size = np.minimum(SHOWN, counts[user] - SHOWN * index)
        chance = np.random.default_rng((seed, 2, span))
        time = FIRST_MS + ((span + np.sort(chance.random(len(user)))) / spans * SPAN_MS).astype(np.int64)
        order = chance.permutation(len(user))
        yield _rows(chance, shares, user[order], size[order], time, number)
        done, number = until, number + len(user)


def events_by_user(fraction: float, seed: int) -> NDArray[np.int64]:
    """Return the number of events of each user, of which the sum is exact."""
    users, events = max(1, round(USERS * fraction)), max(LEAST, round(EVENTS * fraction))
    weight = np.cumsum(np.random.default_rng((seed, 0)).lognormal(0, ACTIVITY, users))
    ends = np.rint(weight / weight[-1] * (events - LEAST * users)).astype(np.int64)
    counts: NDArray[np.int64] = LEAST + np.diff(ends, prepend=0)
    return counts


def _rows(
    chance: np.random.Generator,
    shares: NDArray[np.float64],
    user: NDArray[np.int64],
    size: NDArray[np.int64],
    time: NDArray[np.int64],
    number: int,
) -> pa.Table:
    """Return the rows of impressions, one per shown item."""
    places = np.arange(SHOWN)
    item = np.sort(np.searchsorted(shares, chance.random((len(user), SHOWN)))) + places  # adding makes them distinct
    share = np.where(item % THEMES == user[:, None] % THEMES, CLICKED_OF_THEME, CLICKED)
    clicked = chance.random(item.shape) < share
    shown = places < size[:, None]
    return pa.table(
        {
            "user": np.repeat(user + 1, size),
            "item": item[shown] + 1,
            "timestamp": np.repeat(time, size),
            "event": _KINDS.take(pa.array(clicked[shown].astype(np.int8))),
            "impression": np.repeat(np.arange(number, number + len(user)), size),
        }
    )


def write(path: Path, fraction: float, seed: int = 1, block: int = 500_000) -> None:
    """Write a log, compressed if the name ends in `.gz`."""
    tables = blocks(fraction, seed, block)
    first = next(tables)
    form = csv.WriteOptions(quoting_style="none")
    with pa.output_stream(path) as file, csv.CSVWriter(file, first.schema, write_options=form) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def main() -> None:
    """Write a log."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alipay_log", description=__doc__)
    parser.add_argument("file", type=Path, help="the file to write, .csv or .csv.gz")
    parser.add_argument("--fraction", type=float, default=0.001, help="share of the users and of the events")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    write(arguments.file, arguments.fraction, arguments.seed)


if __name__ == "__main__":
    main()
