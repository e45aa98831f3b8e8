"""Every alert of deploy/alerts.yml on a real loop: `python -m benchmarks.faults.alerts` causes its fault, and mends it.

A free-running loop of separate processes runs on an Apache Kafka and a PostgreSQL. A Prometheus watches it with the
rules as they are, but every duration is divided by 60 (by 360 for the alerts that take a day), so that a minute is a
second. Times inside the processes are not divided: a session of Kafka (6 s), a stuck process (20 s), a lease (10 s).
For each fault a row per alert is written to `alerts.json`: seconds until it fires and until it is resolved after what
its runbook says was done, and what else fired. A fault with a row is not tried again. Needs root, for a small disk.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults.alert_acts import Scene
from benchmarks.faults.alert_faults import FACTOR, FAULTS, FIRST, Fault
from benchmarks.faults.alert_loop import PROCESSES, SPEED, Loop
from benchmarks.faults.disks import small_disk
from benchmarks.faults.whole_run import kafka_home
from benchmarks.machine import described
from benchmarks.servers.kafka import Cluster
from benchmarks.servers.postgres import Postgres
from benchmarks.servers.prometheus import Prometheus
from benchmarks.servers.worker import wait_for

RESULT = Path(__file__).with_name("alerts.json")
RULES = [Path(__file__).parents[2] / "deploy" / name for name in ("recording.yml", "alerts.yml")]
# events wait wherever a process is away: the objectives miss them in every fault, and on a machine that is too busy
ALWAYS = frozenset({"ErrorBudgetFast", "ErrorBudgetSlow"})
_LIMIT_S = 420.0
_CALM_S = 180.0
_LOOK_S = 0.1
_LEARNS_S = 900.0
_DISK_MB = 16
_SCRAPE_MS = 1_000  # the processes share two cores with others
_LABELS = ("role", "job", "slo")  # of which an alert has at most one, or two that are equal

Row = dict[str, Any]


class _Watch:
    """The alerts that fire, with labels of what they name: now, and at any look since the watch began."""

    def __init__(self, prometheus: Prometheus) -> None:
        self._prometheus = prometheus
        self.firing: set[tuple[str, str]] = set()
        self.seen: set[tuple[str, str]] = set()

    def until(self, condition: Callable[[], bool], limit_s: float = _LIMIT_S) -> float | None:
        """Look until a condition holds; return when it did, None if it did not within the limit."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            self.firing = {
                (labels["alertname"], next((labels[name] for name in _LABELS if name in labels), ""))
                for labels in self._prometheus.firing()
            }
            self.seen |= self.firing
            if condition():
                return time.monotonic()
            time.sleep(_LOOK_S)
        return None

    def fires(self, alert: str, named: str = "") -> bool:
        """Return whether an alert fires; if `named` is not empty, for that."""
        return any(alert == each and named in (label, "") for each, label in self.firing)

    def is_over(self, alert: str, named: str = "") -> bool:
        """Return whether it does not."""
        return not self.fires(alert, named)


def tried(fault: Fault, scene: Scene, calm_s: float = _CALM_S) -> list[Row]:
    """Cause a fault, wait for its alerts, mend it, wait until they are resolved. Return their rows.

    What still fires when `calm_s` has passed before the fault is not unexpected.
    A row without `fired_s` or `resolved_s` is of an alert that did not fire or was not resolved in time.
    """
    before = _Watch(scene.prometheus)
    before.until(lambda: {alert for alert, _ in before.firing} <= ALWAYS, calm_s)
    watch = _Watch(scene.prometheus)
    fired, resolved = {}, {}
    began = time.monotonic()
    with fault.act(scene):
        for alert, named in fault.alerts.items():
            fired[alert] = watch.until(partial(watch.fires, alert, named))
        mended = time.monotonic()
    for alert, named in fault.alerts.items():
        resolved[alert] = watch.until(partial(watch.is_over, alert, named))
    others = {alert for alert, _ in watch.seen} - set(fault.alerts)
    known = fault.companions | ALWAYS | {alert for alert, _ in before.firing}
    return [
        {
            "alert": alert,
            "named": named,
            "fault": fault.what,
            "done": fault.done,
            "factor": fault.factor,
            "fired_s": _since(began, fired[alert]),
            "resolved_s": _since(mended, resolved[alert]),
            "companions": sorted(others),
            "unexpected": sorted(others - known),
        }
        for alert, named in fault.alerts.items()
    ]


def _since(began: float, at: float | None) -> float | None:
    return None if at is None else round(at - began, 1)


def good(row: Row) -> bool:
    """Return whether an alert fired and was resolved, without an unexpected one."""
    return row["fired_s"] is not None and row["resolved_s"] is not None and not row["unexpected"]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as the table of docs/faults.md."""
    lines = [
        "| alert | fault | fires after | what was done | resolved after | fired with it |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        fired, resolved = (_seconds(row[name]) for name in ("fired_s", "resolved_s"))
        others = ", ".join(row["companions"])
        lines.append(f"| {row['alert']} | {row['fault']} | {fired} | {row['done']} | {resolved} | {others} |")
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.0f} s"


def _started(scene: Scene) -> None:
    """Begin the replay once all processes are ready; wait until mc2sf ranks better than popularity."""
    scene.loop.until_ready(*PROCESSES)
    scene.loop.start_replay()
    scene.loop.replay_at(5 * SPEED)
    better = "mc2sf:ndcg10:ratio_to_popularity > 1.1"
    wait_for(lambda: scene.prometheus.value(better), "mc2sf to rank better than popularity", _LEARNS_S)
    scene.loop.replay_at(SPEED)


def trials(home: Path, wanted: Sequence[Fault], folder: Path) -> Iterator[list[Row]]:
    """Run the loop, try the faults in turn and yield their rows."""
    (folder / "postgresql").mkdir(parents=True)
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(folder / "state" / "device-2", _DISK_MB))
        cluster = stack.enter_context(Cluster(home, folder / "kafka"))
        database = stack.enter_context(Postgres(folder / "postgresql"))
        loop = stack.enter_context(Loop(folder, cluster.addresses, database.url))
        watching = {
            factor: stack.enter_context(
                Prometheus(
                    folder / f"prometheus-{factor:.0f}", loop.targets, RULES, factor=factor, scrape_ms=_SCRAPE_MS
                )
            )
            for factor in sorted({FACTOR} | {fault.factor for fault in wanted})
        }
        scenes = {factor: Scene(loop, prometheus, database, disk) for factor, prometheus in watching.items()}
        loop.start(*(name for name in PROCESSES if name != "coordinator"))
        if FIRST in wanted:
            yield tried(FIRST, scenes[FIRST.factor], calm_s=0.0)  # it fires already
        else:
            loop.start("coordinator")
        rest = [fault for fault in wanted if fault is not FIRST]
        if rest:
            _started(scenes[FACTOR])
        for fault in rest:
            yield tried(fault, scenes[fault.factor])


def main() -> None:
    """Try the faults without a row; exit code 1 if any row is bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="ALERT", help="faults that fire one of these [default: all]")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--folder", type=Path, help="keeps the logs [default: a temporary one]")
    options = parser.parse_args()
    home = kafka_home(parser)
    rows = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
    done = {row["fault"] for row in rows}
    wanted = [fault for fault in (FIRST, *FAULTS) if fault.what not in done]
    if options.only is not None:
        wanted = [fault for fault in wanted if set(fault.alerts) & set(options.only)]
    with tempfile.TemporaryDirectory(prefix="alerts-") as temporary:
        for found in trials(home, wanted, options.folder or Path(temporary)) if wanted else ():
            rows += found
            result = {"rows": rows, "machine": described(("faust-streaming", "confluent-kafka"))}
            options.out.write_text(json.dumps(result, indent=1) + "\n")
            print(*(json.dumps(row) for row in found), sep="\n", flush=True)
    print(table(rows))
    bad = [row["alert"] for row in rows if not good(row)]
    print(f"{len(rows)} alerts, {len(bad)} bad: {', '.join(bad)}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
