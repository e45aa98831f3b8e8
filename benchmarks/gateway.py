"""The gateway under load: requests per second held, and what becomes of accepted events when parts of a run are away.

Run: `python -m benchmarks.gateway [--kafka] [--quick]`, about five minutes if it is idle. Broker, device, cloud,
recorder and one gateway share this machine with the load. Open loop: requests leave at their times whether or not
others were answered, and latency counts from then. A rate is held if none fails, none is degraded, and p99 is at most
200 ms. Rates double until one is not held.

Then, while events come in steadily, the device worker is killed and started again, the cloud is gone, and the broker
stops answering. Each event is sent with its idempotency key until it is accepted. At the end the tables must have each
accepted event once. `gateway.json` has the results and the load of the machine: on a busy one they say little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import sqlalchemy as sa

from benchmarks.machine import described
from benchmarks.servers.kafka import Cluster
from benchmarks.servers.releases import publish, release
from benchmarks.servers.worker import Process, wait_for
from deploy.gateway.api.tokens import add
from deploy.local.broker import await_broker, broker_command, free_port
from streams.database import schema
from streams.database.engine import connect
from streams.settings import Settings

RESULT = Path(__file__).with_name("gateway.json")
USERS, ITEMS, CANDIDATES = 200, 2000, 100
P99_S = 0.2
Send = Callable[[aiohttp.ClientSession, int], Awaitable[Counter[str]]]


class Run:
    """A run with one worker of each side, a recorder and a gateway, on the embedded broker or the Kafka in `kafka`."""

    def __init__(self, folder: Path, stack: ExitStack, kafka: Path | None) -> None:
        self.folder, self.stack, self.port = folder, stack, free_port()
        if kafka is None:
            address = self.start_embedded_broker()
        else:
            cluster = stack.enter_context(Cluster(kafka, folder / "kafka"))
            address, node = cluster.addresses, cluster.nodes[0].process
            assert node is not None
            self.broker = node
        self.settings = Settings(
            run="load",
            brokers=address,
            database=f"sqlite:///{folder / 'mc2sf.db'}",
            state_dir=folder / "state",
            lockstep=False,
            partitions=2,
            evaluate=0.0,
            take_within_s=0.005,
        )
        await_broker(self.settings.brokers)
        publish(self.settings, [release(self.settings, 0, ITEMS)])
        self.device, self.cloud = self.worker("device"), self.worker("cloud")
        self.token = add(folder / "tokens.json", "load", ("admin",), None)
        self.command("recorder")
        self.command(
            *("gateway", "serve", "--tokens", str(folder / "tokens.json"), "--port", str(self.port)),
            *("--epoch", "2s", "--rate", "100000"),
        )
        for each in (self.device, self.cloud):
            each.until_ready()
        asyncio.run(self.answers())

    def start_embedded_broker(self) -> str:
        """Start the embedded broker and return its address."""
        port = free_port()
        log = self.stack.enter_context((self.folder / "broker.log").open("wb"))
        self.broker = subprocess.Popen(broker_command(port), stdout=log, stderr=log)  # noqa: S603 - no shell
        self.stack.callback(self.broker.kill)
        return f"127.0.0.1:{port}"

    def worker(self, role: str) -> Process:
        """Start a worker."""
        return self.stack.enter_context(Process(self.settings, role))

    def command(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a process of the run."""
        log = self.stack.enter_context((self.folder / f"{words[0]}.log").open("wb"))
        environment = {**os.environ, **self.settings.environment(), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            [sys.executable, "-m", "deploy.cli", *words], env=environment, stdout=log, stderr=log
        )
        self.stack.callback(process.kill)
        return process

    def session(self) -> aiohttp.ClientSession:
        """Return a client of the gateway."""
        return aiohttp.ClientSession(
            f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {self.token}"},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(30),
        )

    async def answers(self) -> None:
        """Wait until the gateway ranks with the cloud."""
        until = time.monotonic() + 120
        async with self.session() as session:
            while True:
                try:
                    if await rank(session, 0) == Counter(done=1):
                        return
                except aiohttp.ClientError:
                    pass
                assert time.monotonic() < until, "the gateway does not answer"
                await asyncio.sleep(0.2)


async def rank(session: aiohttp.ClientSession, n: int) -> Counter[str]:
    """Ask for a ranking of CANDIDATES candidates."""
    candidates = [str(1 + (n * 37 + i) % ITEMS) for i in range(CANDIDATES)]
    async with session.post(f"/v1/users/u{n % USERS}/rankings", json={"candidates": candidates, "k": 10}) as answer:
        found = await answer.json()
    return Counter({"degraded" if found.get("degraded") else "done" if answer.status == 200 else "failed": 1})


async def click(session: aiohttp.ClientSession, n: int) -> Counter[str]:
    """Send a click."""
    body = {"events": [{"item": str(1 + n % ITEMS), "kind": "click"}]}
    async with session.post(f"/v1/users/u{n % USERS}/events", json=body) as answer:
        await answer.read()
    return Counter({"done" if answer.status == 202 else "failed": 1})


async def load(run: Run, send: Send, rate: float, seconds: float) -> dict[str, Any]:
    """Send at `rate` per second; return what came of it, and latencies in ms."""
    latencies: list[float] = []
    counts: Counter[str] = Counter()
    async with run.session() as session:
        began = time.perf_counter()

        async def one(n: int) -> None:
            due = began + n / rate
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            try:
                counts.update(await send(session, n))
            except (aiohttp.ClientError, TimeoutError):
                counts["failed"] += 1
            latencies.append(time.perf_counter() - due)

        await asyncio.gather(*(one(n) for n in range(int(rate * seconds))))
    p50, p99 = np.quantile(latencies, [0.5, 0.99])
    held = counts["done"] == len(latencies) and p99 <= P99_S
    return {"rate": rate, "held": bool(held), **counts, "p50_ms": round(p50 * 1e3), "p99_ms": round(p99 * 1e3)}


def held(run: Run, send: Send, seconds: float) -> list[dict[str, Any]]:
    """Double the rate until it is not held; return all steps. A step has 100 requests or more: fewer have no p99."""
    asyncio.run(load(run, send, 5, 2))  # warm
    steps: list[dict[str, Any]] = []
    rate = 10.0
    while not steps or steps[-1]["held"]:
        steps.append(asyncio.run(load(run, send, rate, max(seconds, 100 / rate))))
        print(steps[-1], flush=True)
        rate *= 2
    return steps


async def through(
    run: Run, what: str, begin: Callable[[], None], end: Callable[[], None], away_s: float
) -> dict[str, Any]:
    """Send events and ask for rankings while something is away; every event until it is accepted."""
    rate, after_s, counts = 20.0, 15.0, Counter[str]()
    recovered: list[float] = []
    async with run.session() as session:
        began = time.perf_counter()

        async def event(n: int) -> None:
            await asyncio.sleep(max(began + n / rate - time.perf_counter(), 0))
            key, body = f"{what} {n}", {"events": [{"item": f"{what} {n}", "kind": "click"}]}
            while True:
                try:
                    path, headers = f"/v1/users/{what}-{n % 20}/events", {"Idempotency-Key": key}
                    async with session.post(path, json=body, headers=headers) as answer:
                        await answer.read()
                        if answer.status == 202:
                            counts["accepted"] += 1
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass
                counts["repeated"] += 1
                await asyncio.sleep(0.5)

        async def rankings() -> None:
            while time.perf_counter() < began + away_s + after_s or not recovered:
                try:
                    (found,) = await rank(session, int(time.monotonic() * 10))
                except (aiohttp.ClientError, TimeoutError):
                    found = "failed"
                counts[f"rankings {found}"] += 1
                back = time.perf_counter() - began - 5 - away_s
                if found == "done" and back > 0 and not recovered:
                    recovered.append(back)
                assert back < 180, f"{what}: rankings do not come back"
                await asyncio.sleep(0.1)

        async def fault() -> None:
            await asyncio.sleep(5)
            await asyncio.to_thread(begin)
            await asyncio.sleep(away_s)
            await asyncio.to_thread(end)

        sent = int(rate * (away_s + after_s))
        await asyncio.gather(fault(), rankings(), *(event(n) for n in range(sent)))
    return {"away_s": away_s, "sent": sent, **counts, "whole_rankings_after_s": round(recovered[0], 1)}


def recorded(run: Run, what: str) -> tuple[int, int]:
    """Return how many events the tables have, and how many different ones."""
    engine = connect(run.settings.database.get_secret_value())
    i = schema.interactions.c
    with engine.connect() as connection:
        query = sa.select(sa.func.count(), sa.func.count(i.item.distinct()))
        events, different = connection.execute(query.where(i.run == run.settings.run, i.user.like(f"{what}-%"))).one()
    engine.dispose()
    return events, different


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short steps and outages, for a try")
    parser.add_argument("--kafka", action="store_true", help="the Apache Kafka in KAFKA_HOME, not the embedded broker")
    parser.add_argument("--out", type=Path, help="default: gateway.json, with --kafka gateway_kafka.json")
    options = parser.parse_args()
    out = options.out or (RESULT.with_name("gateway_kafka.json") if options.kafka else RESULT)
    kafka = Path(os.environ["KAFKA_HOME"]) if options.kafka else None
    seconds, away_s = (3.0, 5.0) if options.quick else (6.0, 30.0)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        run = Run(Path(folder), stack, kafka)
        result: dict[str, Any] = {
            "machine": described(("mc2sf", "starlette", "uvicorn", "aiohttp", "torch")),
            "load_average_before": os.getloadavg()[0],
            "rankings": held(run, rank, seconds),
            "events": held(run, click, seconds),
            "faults": {},
        }

        def restart(role: str) -> Callable[[], None]:
            def start() -> None:
                setattr(run, role, run.worker(role))
                getattr(run, role).until_ready()

            return start

        faults: dict[str, tuple[Callable[[], None], Callable[[], None], float]] = {
            "worker": (lambda: run.device.send(signal.SIGKILL), restart("device"), 1.0),
            "cloud": (lambda: run.cloud.send(signal.SIGKILL), restart("cloud"), away_s / 2),
            "broker": (
                lambda: run.broker.send_signal(signal.SIGSTOP),
                lambda: run.broker.send_signal(signal.SIGCONT),
                away_s,
            ),
        }
        for what, (begin, end, away) in faults.items():
            found = asyncio.run(through(run, what, begin, end, away))
            sent = found["sent"]
            wait_for(lambda what=what, sent=sent: recorded(run, what)[1] >= sent, f"{what}: the tables", 180)  # type: ignore[misc]
            events, different = recorded(run, what)
            result["faults"][what] = found | {"lost": sent - different, "doubled": events - different}
            print(what, result["faults"][what], flush=True)
        result["load_average_after"] = os.getloadavg()[0]
        result["quick"] = options.quick
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
