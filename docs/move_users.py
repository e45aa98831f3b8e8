"""Send the recorded events of one run to the gateway of another: python move_users.py EXPORT URL, its token in TOKEN.

EXPORT is a folder that `mc2sf export RUN EXPORT` wrote. Events keep their sequence numbers: devices go on where they
were, and if this program is repeated, nothing is applied twice.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from os import environ
from pathlib import Path
from sys import argv

import pyarrow.parquet as pq

from deploy.gateway.client import Client

MAX_EVENTS = 500  # events of a request
COLUMNS = ["user", "seq", "item", "kind", "time", "impression"]
Row = dict[str, object]


def rows(export: Path) -> Iterator[Row]:
    """Yield the events, user by user, in the order in which they were applied."""
    for batch in pq.ParquetFile(export / "interactions.parquet").iter_batches(columns=COLUMNS):
        yield from batch.to_pylist()


def requests(events: Iterable[Row]) -> Iterator[list[Row]]:
    """Divide a user's events: times do not go backwards within a request, and no impression is divided."""
    request: list[Row] = []
    for _, group in groupby(events, lambda row: row["impression"] or -row["seq"] - 1):
        shown = list(group)
        if request and (len(request) + len(shown) > MAX_EVENTS or shown[0]["time"] < request[-1]["time"]):
            yield request
            request = []
        request += shown
    yield request


def sent(row: Row) -> Row:
    """Return an event as the gateway takes it. Impressions from 2^53 up were rankings of the old run.

    Candidates, which came with a click of a Metarank client on a list, are exposures: sequence numbers have no gaps.
    """
    kind = "click" if row["kind"] in ("click", "past_click") else "exposure"
    time = int(row["time"].timestamp() * 1000)
    return {"item": row["item"], "kind": kind, "time": time, "impression": abs(row["impression"]) % 2**53}


if __name__ == "__main__":
    with Client(argv[2], environ["TOKEN"]) as gateway:
        for user, events in groupby(rows(Path(argv[1])), lambda row: row["user"]):
            for request in requests(events):
                gateway.events(user, [sent(row) for row in request], seq=request[0]["seq"])
