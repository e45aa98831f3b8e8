"""Acts on a loop: each is a context that causes a fault, and at its end does what the runbook of its alert says."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from benchmarks.faults.alert_loop import Loop
from benchmarks.faults.disks import empty, fill
from benchmarks.faults.fuzz import first_records
from benchmarks.servers.postgres import Postgres
from benchmarks.servers.prometheus import Prometheus
from models.mc2sf.checkpoint import pack
from streams.database import run_state
from streams.database.engine import connect
from streams.kafka import clients
from streams.releases import candidates
from streams.releases.candidates import WAITING, ReleaseCandidate
from streams.releases.release import Release, read_release
from streams.topics import DEVICE_EVENTS

_CYCLE_S, _RUNS_S = 0.2, 0.02  # a worker with a tenth of its CPU runs for so long in each cycle
FLOOD = 3_000  # records per second
_SEEN_S = 1.5  # in which Prometheus sees a process that has just been started

_NOT_FINITE = """
CREATE FUNCTION not_finite() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  NEW.quality := (NEW.quality::jsonb || '{"finite": false}')::json; RETURN NEW; END $$;
CREATE TRIGGER not_finite BEFORE INSERT ON proposals FOR EACH ROW EXECUTE FUNCTION not_finite()
"""
_FINITE = "DROP TRIGGER not_finite ON proposals; DROP FUNCTION not_finite()"


@dataclass(frozen=True)
class Scene:
    """A loop and its Prometheus; its PostgreSQL and the small disk of its second device worker, if they are its own."""

    loop: Loop
    prometheus: Prometheus
    database: Postgres | None = None
    disk: Path | None = None


@contextmanager
def _repeated(action: Callable[[], object]) -> Iterator[None]:
    """Repeat an action in a thread."""
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _address(loop: Loop) -> str:
    """Return the address of its PostgreSQL, for psycopg."""
    return loop.settings.database.get_secret_value().replace("+psycopg", "")


@contextmanager
def without_coordinator(scene: Scene) -> Iterator[None]:
    """Start the coordinator, without which the trial begins."""
    yield
    scene.loop.start("coordinator")


@contextmanager
def hangs(scene: Scene) -> Iterator[None]:
    """Stop a device worker with SIGSTOP; kill it and start it again."""
    worker = scene.loop["device-2"]
    assert worker.process is not None
    worker.process.send_signal(signal.SIGSTOP)
    yield
    worker.kill()
    scene.loop.start("device-2")


def gone(name: str) -> Callable[[Scene], AbstractContextManager[None]]:
    """Kill a process and let discovery forget it."""

    @contextmanager
    def act(scene: Scene) -> Iterator[None]:
        scene.loop[name].kill()
        scene.loop.hide(name)
        yield
        scene.loop.start(name)

    return act


def flaps(name: str, *, by_kill: bool) -> Callable[[Scene], AbstractContextManager[None]]:
    """Start a process again and again."""

    @contextmanager
    def act(scene: Scene) -> Iterator[None]:
        child = scene.loop[name]

        def again() -> None:
            (child.kill if by_kill else child.stop)()
            child.start()
            scene.loop.until_ready(name)
            time.sleep(_SEEN_S)

        with _repeated(again):
            yield

    return act


def connections_hang(name: str) -> Callable[[Scene], AbstractContextManager[None]]:
    """Stop the server's side of a process's connections, as behind a network that drops their packets."""

    @contextmanager
    def act(scene: Scene) -> Iterator[None]:
        child = scene.loop[name]
        assert child.process is not None
        ports = {each.laddr.port for each in psutil.Process(child.process.pid).net_connections()}
        with psycopg.connect(_address(scene.loop)) as connection:
            rows = connection.execute("SELECT pid, client_port FROM pg_stat_activity").fetchall()
        stopped = [pid for pid, port in rows if port in ports]
        assert stopped
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        yield
        child.kill()
        scene.loop.start(name)
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)

    return act


@contextmanager
def database_away(scene: Scene) -> Iterator[None]:
    """Kill PostgreSQL; start it again."""
    assert scene.database is not None
    scene.database.kill()
    yield
    scene.database.start()
    scene.database.wait()


@contextmanager
def disk_fills(scene: Scene) -> Iterator[None]:
    """Fill the disk of a device worker's local files; remove what fills it."""
    assert scene.disk is not None
    fill(scene.disk)
    yield
    empty(scene.disk)


def _valid_record(loop: Loop) -> tuple[bytes, bytes]:
    return next((key, value) for key, value in first_records(loop.settings, DEVICE_EVENTS) if key)


@contextmanager
def damaged_record(scene: Scene) -> Iterator[None]:
    """Send half a record; send the whole one in its place, as `mc2sf dead-letters` does."""
    run, topic = scene.loop.settings.run, DEVICE_EVENTS.full(scene.loop.settings)
    key, value = _valid_record(scene.loop)
    producer = clients.producer(scene.loop.settings, "alerts")
    producer.produce(topic, key=key, value=value[: len(value) // 2], partition=0)
    producer.flush(30)
    yield
    listed = scene.loop.command("dead-letters", "list", run)
    position = next(word for word in listed.split() if word.startswith(f"{DEVICE_EVENTS.name}/"))
    with tempfile.NamedTemporaryFile() as repaired:
        repaired.write(value)
        repaired.flush()
        scene.loop.command("dead-letters", "replay", run, position, "--value", repaired.name)


@contextmanager
def no_cloud(scene: Scene) -> Iterator[None]:
    """Kill the only cloud worker; start it again."""
    scene.loop["cloud-1"].kill()
    yield
    scene.loop.start("cloud-1")


@contextmanager
def rankings_refused(scene: Scene) -> Iterator[None]:
    """Stop both device workers with SIGSTOP while rankings are requested; kill them and start them again."""
    loop, names = scene.loop, ("device-1", "device-2")
    request = urllib.request.Request(
        f"http://127.0.0.1:{loop.gateway_port}/v1/users/ada/rankings", headers={"Authorization": f"Bearer {loop.token}"}
    )

    def ask() -> None:
        with suppress(OSError), urllib.request.urlopen(request, timeout=30):  # noqa: S310 - the same
            pass

    with _repeated(ask), _repeated(ask):
        for name in names:
            if (process := loop[name].process) is not None:
                process.send_signal(signal.SIGSTOP)
        yield
        for name in names:
            loop[name].kill()
        loop.start(*names)
        loop.until_ready(*names)


@contextmanager
def too_fast(scene: Scene) -> Iterator[None]:
    """Send a record again and again to a worker that has a tenth of its CPU."""
    loop = scene.loop
    key, value = _valid_record(loop)
    topic, producer = DEVICE_EVENTS.full(loop.settings), clients.producer(loop.settings, "alerts")
    workers = [process for name in ("device-1", "device-2") if (process := loop[name].process)]

    def throttle() -> None:
        for which, seconds in ((signal.SIGSTOP, _CYCLE_S - _RUNS_S), (signal.SIGCONT, _RUNS_S)):
            for worker in workers:
                worker.send_signal(which)
            time.sleep(seconds)

    def flood() -> None:
        began = time.monotonic()
        for _ in range(FLOOD // 10):
            clients.produce_waiting(producer, topic, key=key, value=value, partition=0)
        producer.flush(30)
        time.sleep(max(0.0, began + 0.1 - time.monotonic()))

    with _repeated(throttle), _repeated(flood):
        yield


@contextmanager
def worse_release(scene: Scene) -> Iterator[None]:
    """Have a release accepted that stacks with the wrong sign, and no retrain after it; roll back to that before.

    The untrained release would not do: it ranks nearly as popularity does.
    """
    loop, run = scene.loop, scene.loop.settings.run
    loop["retrain"].stop()
    loop.hide("retrain")
    engine = connect(loop.settings.database.get_secret_value())
    with engine.begin() as connection:
        good, recorded = run_state.active_release(connection, run), run_state.recorded(connection, run)
        assert good is not None
        assert recorded is not None
        candidates.write(connection, run, _upside_down(read_release(connection, run, good), recorded[0]))
    engine.dispose()
    yield
    loop.command("releases", "rollback", run, f"{good}")
    loop.start("retrain")


def _upside_down(release: Release, epoch: int) -> ReleaseCandidate:
    """Return a retrain's candidate whose mc2sf ranks in the opposite order, and whose gate is not told so."""
    nets, keys = release.nets, release.catalogue.keys.astype("<i8").tobytes()
    nets.fast.stack.neg_()
    entries = pack(nets) | {"E": nets.encoder.E.detach().numpy().astype("<f4").tobytes(), "keys": keys}
    quality: dict[str, float | None] = {"active": 1.0, "candidate": 0.5, "n": 1000, "finite": True}
    until, parent = release.manifest.trained_until, release.manifest.version
    return ReleaseCandidate(epoch, "retrain", WAITING, parent, candidates.pack(entries), {}, quality, until)


@contextmanager
def two_databases(scene: Scene) -> Iterator[None]:
    """Start a second coordinator of the run on a database of its own; stop it."""
    loop, url = scene.loop, scene.loop.settings.database.get_secret_value()
    with psycopg.connect(_address(loop), autocommit=True) as connection:
        connection.execute("CREATE DATABASE other")
    second = loop.add("coordinator-2", ["coordinator"], database=f"{url.rpartition('/')[0]}/other")
    yield
    second.stop()
    loop.hide("coordinator-2")


@contextmanager
def refused(scene: Scene) -> Iterator[None]:
    """Mark each release candidate as not finite when it is written, as a training that diverges does."""
    with psycopg.connect(_address(scene.loop), autocommit=True) as connection:
        connection.execute(_NOT_FINITE)
        yield
        connection.execute(_FINITE)
