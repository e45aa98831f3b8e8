"""Retrains on a day's increment, warm and from scratch, at several budgets.

Run `python -m benchmarks.training.increment SOURCE`.

The log is cut at two epochs. The base nets are trained from scratch on the log before the first cut, with two passes.
Then all get the log up to the second cut. `warm` continues from the base nets on the new clicks and a sample of the old
ones, as a retrain of the stream does; `whole rate` does the same without the smaller learning rate for a part of the
log; `scratch` trains new nets on the whole log. The points differ in the number of clicks trained on. The nets are
evaluated on the clicks of the next increment, which no net was trained on: NDCG@10 of the click among 99 items drawn
for it, the same for all points. CPU seconds are those of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from benchmarks.machine import described
from deploy.experiments.results.plots import lines
from deploy.experiments.results.result import Interval
from models.data.catalogue import Catalogue
from models.data.event_kinds import CLICK
from models.data.interaction_log import InteractionLog, Ints, click_states
from models.data.ranges import Ranges
from models.data.views import ViewSpec
from models.evaluation.metrics import gains
from models.mc2sf.nets import Logits, NetConfig, Nets
from models.training.minibatches import ClickSource
from models.training.retrain import TrainConfig, retrain
from replay.prepare.plan import Options, Plan
from replay.prepare.prepare import prepare
from replay.sources.source import parse

RESULT = Path(__file__).with_name("increment.json")
WARM = (2_500, 5_000, 10_000, 20_000, 40_000)
SCRATCH = (10_000, 40_000, 160_000, 640_000)
SPEC = ViewSpec()
BATCH = 256


def logged(source: str) -> tuple[Plan, InteractionLog]:
    """Return the plan of `source`, and its log."""
    with TemporaryDirectory() as folder:
        plan = prepare(parse(source), Options(), Path(folder))
        return plan, read(plan)


def read(plan: Plan) -> InteractionLog:
    """Return the whole log with the plan's epochs. Items are numbered from 1."""
    table = pq.read_table(plan.path, columns=["user", "item", "kind", "time", "impression"])
    epochs = np.searchsorted(np.asarray(plan.ends), np.arange(len(table)), side="right")
    user, item = (pc.index_in(table[c], pc.unique(table[c])).to_numpy().astype(np.int64) for c in ("user", "item"))
    order = np.argsort(user, kind="stable")
    kinds, times, impressions = (table[c].to_numpy().astype(np.int64)[order] for c in ("kind", "time", "impression"))
    offsets = np.searchsorted(user[order], np.arange(int(user.max()) + 2))
    return InteractionLog(offsets, item[order] + 1, kinds, times, impressions, epochs[order])


def until(log: InteractionLog, epoch: int) -> InteractionLog:
    """Return the events before `epoch`."""
    kept = log.epochs < epoch
    offsets = np.concatenate([[0], np.cumsum(kept)])[log.offsets]
    keys, kinds, times = log.keys[kept], log.kinds[kept], log.times[kept]
    return InteractionLog(offsets, keys, kinds, times, log.impressions[kept], log.epochs[kept])


class Judge:
    """Rank the clicks of some epochs, or a sample of `most`, each among the same 99 others."""

    def __init__(
        self, log: InteractionLog, catalogue: Catalogue, first: int, last: int, seed: int, most: int | None = None
    ) -> None:
        folded = click_states(until(log, last), SPEC)
        self._clicks: Ints = np.flatnonzero(folded.log.epochs[folded.event] >= first)
        self._clicks = np.sort(np.random.default_rng(seed).permutation(self._clicks)[:most])
        none = np.zeros(len(folded), np.int64)  # no slates: the 99 others come from the catalogue for every click
        self._source = replace(ClickSource.from_states(folded, catalogue), slate=Ranges(none, none))
        self._seed = seed

    def __len__(self) -> int:
        return len(self._clicks)

    @torch.inference_mode()
    def gains(self, nets: Nets) -> dict[str, np.ndarray]:
        """Return NDCG@10 of each click by each variant: [V]."""
        generator = np.random.default_rng(self._seed)
        ranks = []
        for start in range(0, len(self._clicks), BATCH):
            batch = self._source.batch(self._clicks[start : start + BATCH], generator, n=99)
            scores = nets(batch.inputs(nets, nets.encoder.E[batch.rows]))
            logits = torch.stack(nets.stacked(scores, batch.rows[batch.clicks], batch.rows[batch.items]))
            # ties count half, as the click is always the first item
            ahead, level = logits > logits[..., :1], logits == logits[..., :1]
            ranks.append(1 + ahead.sum(-1) + (level.sum(-1) - 1) / 2)
        return dict(zip(Logits._fields, (gains(r)["ndcg@10"] for r in torch.cat(ranks, 1).numpy()), strict=True))


def measured(
    log: InteractionLog,
    base: int,
    size: int,
    config: TrainConfig,
    seed: int,
    told: Callable[[dict[str, Any]], None],
    warm: Sequence[int] = WARM,
    scratch: Sequence[int] = SCRATCH,
) -> list[dict[str, Any]]:
    """A row for each point. `base` is the epoch that begins the increment, `size` how many epochs it has.

    `warm` and `scratch` are the numbers of clicks shown, going on from the release in force and from scratch.
    """
    before, known = until(log, base), until(log, base + size)
    catalogue = Catalogue(np.unique(known.keys))
    judge = Judge(log, catalogue, base + size, base + 2 * size, seed)
    rows: list[dict[str, Any]] = []

    def train(
        how: str, nets: Nets, known: InteractionLog, since: int | None, most: int, pace: float = config.pace
    ) -> tuple[Nets, int]:
        shows = 2 * most if since else most  # after a warm start a retrain shows half
        limits = replace(config, max_clicks=shows, table_max_clicks=2 * most, pace=pace)
        begun = time.process_time()
        result = retrain(nets, catalogue, known, config=limits, spec=SPEC, seed=seed, since=since)
        seconds = time.process_time() - begun
        shown = min(result.steps * config.batch, config.passes * result.trained)
        rows.append(_row(how, shown, seconds, judge.gains(result.nets)))
        told(rows[-1])
        return result.nets, result.trained_until

    def new() -> Nets:
        return Nets.initial(NetConfig(), catalogue.size, seed)

    nets, trained_until = train("base", new(), before, None, config.passes * len(before.keys))
    for most in warm:
        train("warm", nets, known, trained_until, most)
        train("whole rate", nets, known, trained_until, most, pace=0.0)
    for most in scratch:
        train("scratch", new(), known, None, most)
    return rows


def means(of: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the mean over clicks by variant."""
    return {name: round(float(values.mean()), 4) for name, values in of.items()}


def _row(how: str, shown: int, seconds: float, of: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        "how": how,
        "clicks_shown": shown,
        "cpu_seconds": round(seconds, 1),
        "ndcg@10": means(of),
        "error": round(float(of["mc2sf"].std() / np.sqrt(len(of["mc2sf"]))), 4),
    }


def main() -> None:
    """Measure, and write the rows and the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="as for `mc2sf run`")
    parser.add_argument("--base", type=int, default=-20, help="the increment's first epoch; from the end if negative")
    parser.add_argument("--size", type=int, default=5, help="epochs of the increment, and of the one that is judged")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan, log = logged(options.source)
    base = options.base % plan.epochs
    if base + 2 * options.size > plan.epochs:
        parser.error(f"the log has {plan.epochs} epochs: none are left to judge by")
    config = TrainConfig()
    rows = measured(log, base, options.size, config, options.seed, lambda row: print(json.dumps(row), flush=True))
    result = {
        "data": options.source.partition(":")[0],
        "epochs": {"all": plan.epochs, "base": base, "increment": options.size},
        "clicks": {"base": _clicks(log, 0, base), "increment": _clicks(log, base, base + options.size)}
        | {"judged": _clicks(log, base + options.size, base + 2 * options.size)},
        "seed": options.seed,
        "rows": rows,
        "machine": described(("torch", "numpy")),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    options.out.with_suffix(".svg").write_text(draw(rows), encoding="utf-8")


def draw(rows: list[dict[str, Any]]) -> str:
    """Return the figure as SVG: NDCG@10 of MC2-SF over the number of clicks trained on."""
    some = sorted(rows, key=lambda row: int(row["clicks_shown"]))
    found = {
        how: [
            (float(row["clicks_shown"]), Interval(row["ndcg@10"]["mc2sf"], 1.96 * row["error"]))
            for row in some
            if row["how"] == how
        ]
        for how in ("warm", "whole rate", "scratch")
    }
    base = next(row for row in rows if row["how"] == "base")
    levels = {"base, not retrained": Interval(base["ndcg@10"]["mc2sf"])}
    note = "95 % intervals over the clicks of the next increment (the same clicks for all points); one seed."
    title = "MC2-SF on the day after an increment, by budget of the retrain"
    return lines(title, note, {"clicks trained on": found}, levels, logarithmic=True)


def _clicks(log: InteractionLog, first: int, last: int) -> int:
    return int(((log.kinds == CLICK) & (log.epochs >= first) & (log.epochs < last)).sum())


if __name__ == "__main__":
    main()
