"""NDCG@10 of a release on a device with 8-bit weights and vectors, beside that with 32 bits.

`python -m benchmarks.device.quantised RUN`: the newest release that was trained before half of the ranked clicks ranks
clicks that are later than its training data, evenly spaced, by both exports under onnxruntime. The cloud's answers are
the same.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import sqlalchemy as sa
from numpy.typing import NDArray

from benchmarks.machine import described
from deploy.analysis.device_export import ITEMS, MODEL, export_device
from deploy.analysis.device_model import OUTPUTS
from deploy.runs import find
from models.evaluation.bootstrap import UserBootstrap
from models.evaluation.metrics import gains, rank
from streams.database import schema
from streams.releases.release import Release, read_release
from streams.rescoring.ranking_queries import RankingQueries, RankingQuery

RESULT = Path(__file__).with_suffix(".json")


class Device:
    """An exported release under onnxruntime, as a device runs it."""

    def __init__(self, folder: Path) -> None:
        self.bytes = {name: (folder / name).stat().st_size for name in (MODEL, ITEMS)}
        one_thread = onnxruntime.SessionOptions()  # more would wait for each other in a net this small
        one_thread.intra_op_num_threads = one_thread.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(folder / MODEL, one_thread)
        items = pl.read_parquet(folder / ITEMS)
        vectors = np.stack(items["vector"].to_list()).astype(np.float32)
        self._vectors = vectors * items["scale"].to_numpy()[:, None] if "scale" in items.columns else vectors
        weights = np.stack(items["neighbour_weights"].to_list())
        self._rows = np.stack(items["neighbour_rows"].to_list()).astype(np.int64)
        self._weights = weights.reshape(*self._rows.shape, -1).astype(np.float32)

    def ranks(self, release: Release, query: RankingQuery, r2: NDArray[np.float32]) -> list[int]:
        """Return the rank of the target by each of OUTPUTS."""
        length, rows = release.nets.config.history_short, release.catalogue.rows
        candidates = rows(query.candidates)
        slow = release.scorer.slow(rows(query.history), r2, candidates, query.item_statistics)
        near: dict[str, NDArray[Any]] = {}
        given: dict[str, NDArray[Any]] = {"items": candidates, "vectors": self._vectors[candidates]}
        for name, keys in (("clicks", query.clicks), ("exposures", query.exposures)):
            padded = np.zeros(length, np.int64)
            padded[length - len(keys[-length:]) :] = rows(keys[-length:])
            given |= {name: self._vectors[padded], f"{name}_mask": np.arange(length) >= length - len(keys)}
            if name == "clicks":
                near = {"neighbour_rows": self._rows[padded], "neighbour_weights": self._weights[padded]}
                given["click_rows"] = padded
        given |= {"r_t": slow.r_t.astype(np.float32), "r_n": slow.r_n.astype(np.float32), "f2s": slow.f2s}
        given["statistics"] = query.item_statistics.astype(np.int64)
        found = self._session.run(list(OUTPUTS), {name: each[None] for name, each in given.items()} | near)
        return [rank(scores[0], query.target_index).rank for scores in found]


def measured(run: str, clicks: int) -> dict[str, Any]:
    """Return NDCG@10 by both exports, their difference with its 95 % interval by users, and the sizes of files.

    About `clicks` clicks are ranked.
    """
    found = find(run)
    o, r = schema.outcomes.c, schema.releases.c
    with found.engine.connect() as connection, tempfile.TemporaryDirectory() as folder:
        times = (
            connection.execute(sa.select(o.time).where(o.run == found.settings.run).order_by(o.time)).scalars().all()
        )
        early = (r.run == found.settings.run) & r.published & (r.trained_until < times[len(times) // 2])
        version = int(connection.execute(sa.select(sa.func.max(r.version)).where(early)).scalar_one())
        release = read_release(connection, found.settings.run, version)
        devices = []
        for bits in (32, 8):
            export_device(found, Path(folder, str(bits)), version, eight_bits=bits == 8)
            devices.append(Device(Path(folder, str(bits))))
        later = sum(time > release.manifest.trained_until for time in times)
        every, at = max(1, later // clicks), 0
        users, ranks = [], []
        for _, chunk in RankingQueries(connection, found.settings).by_release(256):
            for outcome, query in chunk:
                if outcome.time > release.manifest.trained_until:
                    at += 1
                    if at % every:
                        continue
                    zero = np.zeros((1, found.settings.dim), np.float32)
                    (r2,) = release.scorer.encode_exposures(zero, [release.catalogue.rows(query.r2_items)])
                    users.append(outcome.user)
                    ranks.append([rank for device in devices for rank in device.ranks(release, query, r2)])
    found.engine.dispose()
    values = gains(np.array(ranks).T)["ndcg@10"].reshape(2, len(OUTPUTS), -1)
    numbers = np.unique(users, return_inverse=True)[1]
    loss = UserBootstrap(int(numbers.max()) + 1, 1).estimates(numbers, values[1] - values[0])
    return {
        "machine": described(["onnxruntime", "numpy", "torch"]),
        "source": found.source,
        "release": version,
        "clicks": len(users),
        "clicks_later": later,
        "users": int(numbers.max()) + 1,
        "bytes": {bits: device.bytes for bits, device in zip((32, 8), devices, strict=True)},
        "other_ranks": {name: int((values[0, i] != values[1, i]).sum()) for i, name in enumerate(OUTPUTS)},
        "ndcg@10": {
            name: {"32 bits": float(values[0, i].mean()), "8 bits": float(values[1, i].mean())}
            | {"difference": [round(each, 5) for each in loss[i][:3]]}
            for i, name in enumerate(OUTPUTS)
        },
    }


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run")
    parser.add_argument("--clicks", type=int, default=1000, help="about this many are ranked")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    options.out.write_text(json.dumps(measured(options.run, options.clicks), indent=1) + "\n")
    print(options.out.read_text())


if __name__ == "__main__":
    main()
