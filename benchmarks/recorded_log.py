"""A long recorded log, written into tables and read again: `python -m benchmarks.recorded_log FILE...`.

FILE is a log that `alipay:` reads, such as one by `benchmarks.alipay_log`. Its events are written in 200 epochs, as the
recorder does, into SQLite and into a PostgreSQL of its own, and read from SQLite by what holds more than an epoch:
rescoring (`mc2sf run` at its end, `mc2sf evaluate`) all of them, retrain and learner the newest 2,000,000.
`recorded_log.json` has CPU time and bytes per event, and the growth of the memory of a process that does just this.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise, repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa
from pydantic import SecretStr

from benchmarks.machine import described
from benchmarks.rounding import rounded
from benchmarks.servers.postgres import Postgres
from deploy.runs import register_run
from replay.prepare.plan import Options, Plan
from replay.prepare.prepare import prepare
from replay.sources.source import parse
from streams.database import schema
from streams.database.engine import connect, copy_new, cut_write_ahead_log, sqlite_url
from streams.database.interaction_log import Interactions
from streams.records import item_key
from streams.rescoring.ranking_queries import RankingQueries
from streams.settings import Settings

RESULT = Path(__file__).with_name("recorded_log.json")

Step = Callable[[Plan, Settings], None]


def rows_by_epoch(plan: Plan, run: str) -> Iterator[list[tuple[object, ...]]]:
    """Yield the rows of `interactions`, epoch by epoch."""
    log = pl.scan_parquet(plan.path)
    for epoch, (first, after) in enumerate(pairwise((0, *plan.ends))):
        part = log.slice(first, after - first).sort("user", "seq").collect()
        times = part["time"].to_list()  # an impression of these logs has one time
        keys = map(item_key, part["item"].to_list())
        columns = (part[name].to_list() for name in ("user", "seq", "kind", "impression"))
        users, seqs, kinds, impressions = columns
        yield list(zip(repeat(run), repeat(epoch), users, seqs, keys, kinds, times, times, impressions, strict=False))


def prepare_again(plan: Plan, settings: Settings) -> None:
    """Read and sort the log, as every run does first."""
    prepare(parse(plan.source), Options(), settings.state_dir / "again")


def write(plan: Plan, settings: Settings) -> None:
    """Write the log, a transaction per epoch."""
    engine = connect(settings.database.get_secret_value())
    register_run(settings, engine, plan.source)
    for rows in rows_by_epoch(plan, settings.run):
        with engine.begin() as connection:
            copy_new(connection, schema.interactions, rows)
        cut_write_ahead_log(engine)


def rescoring(_: Plan, settings: Settings) -> None:
    """Read what every ranking query is made from."""
    with connect(settings.database.get_secret_value()).connect() as connection:
        RankingQueries(connection, settings)


def training(_: Plan, settings: Settings) -> None:
    """Read what a retrain is made from, all at once."""
    with connect(settings.database.get_secret_value()).connect() as connection:
        interactions = Interactions(settings.run, settings.retrain_events)
        interactions.load(connection)
        interactions.log()


STEPS: tuple[Step, ...] = (prepare_again, write, training, rescoring)


def _in_this_process(step: Step, plan: Plan, settings: Settings) -> tuple[float, float]:
    """Return the CPU seconds of a step, and the MB by which it raised the peak of the memory."""
    seconds, memory = time.process_time(), _peak_mb()
    step(plan, settings)
    return time.process_time() - seconds, _peak_mb() - memory


def _peak_mb() -> float:
    """Return the peak of this process's memory. That of `getrusage` is the parent's if it was higher."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _measure(step: Step, plan: Plan, settings: Settings) -> dict[str, float]:
    """Execute a step in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        seconds, memory = pool.submit(_in_this_process, step, plan, settings).result()
    return {"cpu_us_per_event": 1e6 * seconds / plan.contents.rows, "memory_mb": memory}


def measured(source: str) -> dict[str, Any]:
    """Return the row of a log."""
    with tempfile.TemporaryDirectory(prefix="recorded-") as name:
        folder = Path(name)
        plan = prepare(parse(source), Options(), folder)
        database = folder / "log.db"
        settings = Settings(run="log", database=SecretStr(sqlite_url(database)), state_dir=folder)
        steps = {step.__name__: _measure(step, plan, settings) for step in STEPS}
        sizes = {"sqlite": database.stat().st_size}
        (folder / "postgres").mkdir()
        with Postgres(folder / "postgres") as server:
            on_server = settings.model_copy(update={"database": SecretStr(server.url)})
            steps["write to PostgreSQL"] = _measure(write, plan, on_server)
            with connect(server.url).connect() as connection:
                size = sa.func.pg_total_relation_size(schema.interactions.name)
                sizes["postgresql"] = connection.execute(sa.select(size)).scalar_one()
        events = plan.contents.rows
        return {
            "log": Path(source).name,
            "events": events,
            "users": plan.contents.users,
            "table_bytes_per_event": {name: size / events for name, size in sizes.items()},
            "steps": steps,
        }


def main() -> None:
    """Measure logs and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recorded_log", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE")
    files = parser.parse_args().files
    rows = [rounded(measured(f"alipay:{file}")) for file in files]
    machine = described(("numpy", "polars", "sqlalchemy"))
    RESULT.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
