"""CPU time and quality of a stream's retrains by several versions of the code, in turn.

Run `python -m benchmarks.training.retrain_cost SOURCE --against COMMIT...` in a git checkout.

Each version makes all retrains of the log, warm, in a process of its own; they take turns, one retrain each, so that a
busy machine slows all alike. The nets after a retrain are judged on a sample of the clicks until the next one, which
they have not seen, each among the same 99 others: NDCG@10, mc2sf as served. A version's own code trains and scores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import numpy as np
import torch

from benchmarks.machine import described
from benchmarks.training.increment import SPEC, Judge, logged, means, until
from models.data.catalogue import Catalogue
from models.data.interaction_log import InteractionLog
from models.mc2sf.nets import NetConfig, Nets
from models.training.retrain import TrainConfig, retrain

RESULT = Path(__file__).with_name("retrain_cost.json")
HERE = "this"
JUDGED = 3000  # clicks after each retrain, at most
PACKAGES = ("models", "replay", "streams", "deploy")  # a version's own; the benchmark is that of this tree


def turns(log: InteractionLog, every: int, seed: int, ask: IO[str], answer: IO[str]) -> None:
    """Make the next retrain for each line of `ask`, and answer with its row as a line of JSON."""
    config, catalogue, since = NetConfig(floor=True, stacked=True), Catalogue([]), None
    nets = Nets.initial(config, catalogue.size, seed)
    for epoch, _ in zip(range(every, int(log.epochs.max()) + 1, every), ask, strict=False):
        before, began = until(log, epoch), time.process_time()
        made = retrain(nets, catalogue, before, config=TrainConfig(), spec=SPEC, seed=seed + epoch, since=since)
        seconds = time.process_time() - began
        if made.finite and made.candidate <= made.active:
            nets, catalogue, since = made.nets, made.catalogue, made.trained_until
        judge = Judge(log, made.catalogue, epoch, epoch + every, seed, JUDGED)
        row: dict[str, Any] = {"epoch": epoch, "cpu_s": round(seconds, 2), "trained": made.trained, "steps": made.steps}
        row |= {"judged": len(judge), "ndcg@10": means(judge.gains(nets.grown(made.catalogue.size, seed)))}
        print(json.dumps(row), file=answer, flush=True)


@contextmanager
def code_of(commit: str) -> Iterator[Path]:
    """Yield a folder with the code of `commit`."""
    if commit == HERE:
        yield Path.cwd()
        return
    with TemporaryDirectory() as folder:
        # our own commands, no shell
        archive = subprocess.run(  # noqa: S603
            ["git", "archive", commit, *PACKAGES],  # noqa: S607
            stdout=subprocess.PIPE,
            check=True,
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)  # noqa: S603, S607
        yield Path(folder)


def main() -> None:
    """Let the versions take turns, and write the rows after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="as for `mc2sf run`")
    parser.add_argument("--against", nargs="+", default=[], metavar="COMMIT")
    parser.add_argument("--every", type=int, default=20, help="epochs between two retrains")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--take-turns", type=Path, help=argparse.SUPPRESS)  # in a version's own process: the log
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.take_turns:
        with np.load(options.take_turns) as columns:
            turns(InteractionLog(**columns), options.every, options.seed, sys.stdin, sys.stdout)
        return
    plan, log = logged(options.source)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in [HERE, *options.against]}
    with ExitStack() as stack:
        path = Path(stack.enter_context(TemporaryDirectory())) / "log.npz"
        np.savez(path, **{f.name: getattr(log, f.name) for f in fields(log) if f.name != "before"})
        children = {}
        for name in rows:
            command = [sys.executable, __file__, "-", f"--every={options.every}", f"--seed={options.seed}"]
            path_of = f"{stack.enter_context(code_of(name))}{os.pathsep}{Path.cwd()}"
            environment = os.environ | {"PYTHONPATH": path_of, "OMP_NUM_THREADS": "1"}
            children[name] = stack.enter_context(
                subprocess.Popen(  # noqa: S603 - our own command, no shell
                    [*command, f"--take-turns={path}"],
                    env=environment,
                    text=True,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
        for epoch in range(options.every, plan.epochs, options.every):
            for name, child in children.items():
                assert child.stdin is not None
                assert child.stdout is not None
                child.stdin.write("next\n")
                child.stdin.flush()
                rows[name].append(json.loads(child.stdout.readline()))
                print(name, epoch, json.dumps(rows[name][-1]), flush=True)
            result = {"data": options.source.partition(":")[0], "epochs": plan.epochs, "every": options.every}
            result |= {"seed": options.seed, "versions": {name: _summed(of) for name, of in rows.items()}}
            options.out.write_text(json.dumps(result | {"machine": described(("torch", "numpy"))}, indent=1) + "\n")


def _summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the CPU time of all retrains, the mean quality over all judged clicks, and the rows."""
    weights = [row["judged"] for row in rows]
    of = rows[0]["ndcg@10"]
    mean = {name: round(float(np.average([row["ndcg@10"][name] for row in rows], weights=weights)), 4) for name in of}
    return {"cpu_s": round(sum(row["cpu_s"] for row in rows), 1), "ndcg@10": mean, "rows": rows}


if __name__ == "__main__":
    main()
