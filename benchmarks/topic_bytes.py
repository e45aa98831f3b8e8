"""Bytes of the topics per event, without processes and broker: `python -m benchmarks.topic_bytes`.

The first events of a log of Alipay's shape go through device and cloud as the tests simulate them, in epochs, a record
per impression, with envelopes, one initial release and the default settings. `topic_bytes.json` has records and bytes
(keys and values) by topic; the replies to gateways, releases and dead letters are not in it.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from benchmarks.alipay_log import ITEMS, blocks
from benchmarks.rounding import rounded
from models.data.catalogue import Catalogue
from models.mc2sf.nets import Nets
from models.mc2sf.tiled_scorer import Scorer
from streams.model_config import net_config
from streams.records import DeviceBatch, EpochBegin, EpochEnd, Kind, Versions, item_key
from streams.release_records import Manifest
from streams.releases.release import Release
from streams.settings import Settings
from tests.support.simulation import Simulation

RESULT = Path(__file__).with_name("topic_bytes.json")
EVENTS, EPOCHS, FRACTION = 20_000, 10, 0.001
KINDS = {"exposure": Kind.EXPOSURE, "click": Kind.CLICK}


def batches() -> Iterator[DeviceBatch]:
    """Yield the impressions of the log."""
    rows = next(blocks(FRACTION, 1, EVENTS)).to_pylist()
    seqs: Counter[str] = Counter()
    for impression, of_it in groupby(rows, itemgetter("impression")):
        shown = list(of_it)
        user, n = str(shown[0]["user"]), len(shown)
        times = [row["timestamp"] for row in shown]
        items = [str(row["item"]) for row in shown]
        yield DeviceBatch(user, seqs[user], items, bytes(KINDS[r["event"]] for r in shown), times, [impression] * n)
        seqs[user] += n


def main() -> None:
    """Measure and write the result."""
    settings = Settings(run="sim", partitions=1)
    keys = np.sort(np.array([item_key(str(n)) for n in range(1, ITEMS + 1)]))
    catalogue = Catalogue(keys)
    nets = Nets.initial(net_config(settings), catalogue.size, 1)
    manifest = Manifest(0, 0, "initial", Versions(), -1, 0, catalogue.size, "", {}, {}, {})
    release = Release(manifest, nets, Scorer(nets), catalogue)
    simulation = Simulation(settings, {0: release}, random.Random(1))  # noqa: S311 - draws the sizes of batches
    sent = list(batches())
    for epoch in range(EPOCHS):
        part = sent[epoch * len(sent) // EPOCHS : (epoch + 1) * len(sent) // EPOCHS]
        simulation.send_marker(EpochBegin(epoch, 0, part[0].times[0]))
        simulation.send(*part)
        simulation.send_marker(EpochEnd(epoch, part[-1].times[-1]))
        simulation.settle()
    events = sum(len(batch.items) for batch in sent)
    topics: defaultdict[str, dict[str, float]] = defaultdict(lambda: {"records": 0.0, "bytes": 0.0})
    for (topic, _), records in simulation.topics.logs.items():
        topics[topic]["records"] += len(records) / events
        topics[topic]["bytes"] += sum(len(key) + len(value) for key, value in records) / events
    row = {"events": events, "users": len({b.user for b in sent}), "epochs": EPOCHS, "per_event": rounded(dict(topics))}
    RESULT.write_text(json.dumps(row, indent=1) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
