"""The guard against lost speed, part of `make check`: `python -m benchmarks.guard`.

Small forms of three benchmarks, each a ratio of CPU times in this process, so that it says the same on a slow or a busy
machine: what the project does, over the least that must be done. The guard fails if a ratio is 30 % above the one in
`guard.json` in each of three attempts. `--write` replaces the file: to be done with a change that makes a ratio better,
or with one that makes it worse for a reason that its commit gives.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

import msgspec
import torch

from benchmarks import import_log, inspect_log
from benchmarks.device.memory import InMemory
from benchmarks.device.records import Workload
from benchmarks.tiles import Requests, seconds
from streams.settings import Settings

RESULT = Path(__file__).with_name("guard.json")
ALLOWED = 1.3  # a ratio over the committed one
ATTEMPTS, REPEATS = 3, 7
_ROWS = 60_000  # of the log that is inspected

Pair = tuple[Callable[[], object], Callable[[], object]]  # what the project does, and the least that must be done


def pairs(folder: Path) -> Iterator[tuple[str, Pair]]:
    """Yield each ratio's name and its two works."""
    requests = Requests(100)
    yield "cloud: answers / the same nets called plainly", (requests.priors, requests.plain_priors)
    settings = Settings(run="guard", state_dir=folder, lockstep=False, evaluate=0.0)
    workload = Workload(15_000)
    texts = [json.dumps(msgspec.to_builtins(batch)) for batch in workload.batches(3)]
    device = InMemory(settings, workload, 3)
    yield "device: batches / json.loads of their records, ten times", (device.whole, lambda: _parse(texts))
    log = folder / "log.csv"
    import_log.generate(log, _ROWS, "numbers.csv")
    readers = inspect_log.READERS
    yield "data inspect / polars reading the file", (lambda: readers["mc2sf"](log), lambda: readers["polars"](log))


def _parse(texts: list[str]) -> None:
    for _ in range(10):
        for text in texts:
            json.loads(text)


def ratio(pair: Pair) -> float:
    """Return the median ratio of the CPU times, which are taken in turns."""
    for work in pair:
        work()  # imports, and memory that stays
    taken = [(seconds(pair[0]), seconds(pair[1])) for _ in range(REPEATS)]
    return median(ours / least for ours, least in taken)


def slower(pair: Pair, committed: float, measure: Callable[[Pair], float] = ratio) -> list[float]:
    """Return the ratios if all attempts are above what is allowed, else nothing."""
    found: list[float] = []
    while len(found) < ATTEMPTS:
        found.append(measure(pair))
        if found[-1] <= ALLOWED * committed:
            return []
    return found


def main() -> None:
    """Measure; exit code 1 if a ratio is worse than it was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write guard.json")
    write = parser.parse_args().write
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if write:
            measured = {name: round(ratio(pair), 3) for name, pair in pairs(Path(folder))}
            RESULT.write_text(json.dumps(measured, indent=1) + "\n")
            print(json.dumps(measured, indent=1))
            gc.unfreeze()
            return
        committed: Mapping[str, float] = json.loads(RESULT.read_text())
        worse = {name: found for name, pair in pairs(Path(folder)) if (found := slower(pair, committed[name]))}
    gc.unfreeze()  # what the device's measurement froze
    for name, found in worse.items():
        print(f"slower: {name} is {', '.join(f'{each:.2f}' for each in found)}, was {committed[name]:.2f}")
    print(f"speed: {len(committed) - len(worse)} of {len(committed)} ratios are as they were")
    sys.exit(bool(worse))


if __name__ == "__main__":
    main()
