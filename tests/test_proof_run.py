"""The whole loop as a user starts it: `mc2sf run` on a small log."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.faults.fuzz import MutantSender, first_records
from benchmarks.faults.mutants import READ, STATES
from benchmarks.faults.whole_run import ARGUMENTS
from benchmarks.servers.worker import wait_for
from deploy.runs import find
from replay.send.clock_file import ClockFile, ReplayChange
from streams.kafka import clients
from streams.kafka.partitioner import partition_of_row
from streams.settings import Settings
from streams.topics import MODEL_WEIGHTS, RANKINGS, TOPICS, Topic
from tests.support.command import Command
from tests.support.whole_run import PATIENCE_S, command, run, summary

pytestmark = pytest.mark.process


Begin = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts processes, none of which outlives a test that fails."""
    begun: list[subprocess.Popen[bytes]] = []

    def call(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        begun.append(subprocess.Popen(*arguments, **options))
        return begun[-1]

    yield call
    for process in begun:
        if process.poll() is None:
            process.terminate()
        if process.stdout is not None:
            process.stdout.close()
        process.wait(PATIENCE_S)


@pytest.fixture
def finished_run(undisturbed: Path) -> tuple[Path, dict[str, Any]]:
    """One run on the embedded broker and SQLite, for the tests that only look at it."""
    return undisturbed, summary(undisturbed)


@pytest.mark.slow
def test_a_run_accounts_for_everything_and_offline_equals_online(finished_run: tuple[Path, dict[str, Any]]) -> None:
    out, summary = finished_run
    assert summary["events_applied"] == summary["events_sent"] == summary["log"]["account"]["sent"] > 2900
    assert summary["dead_letters"] == summary["expired"] == summary["offline_differences"] == 0
    assert summary["outcomes"] == summary["rank_requests"] > 300
    assert summary["online"] == summary["offline"]
    assert set(summary["online"]) == {"random", "popularity", "river", "din", "f2s", "fast", "mc2sf", "served"}
    kinds = [entry["kind"] for entry in summary["releases"]]
    assert kinds[0] == "initial"
    assert "retrain" in kinds
    assert kinds.count("retrain") + kinds.count("rejected") >= 3  # so small a log: the gate may refuse some
    gates = [entry["gate"] for entry in summary["releases"] if entry["kind"] == "retrain"]
    assert any(gate["candidate"] < gate["active"] for gate in gates), "a release learnt: else hindsight has no effect"
    assert summary["r2_uploads"] > 0
    for latency in ("freshness_ms", "answer_ms"):
        assert 0 < summary[latency]["p50"] <= summary[latency]["p99"]
    assert (out / "report.html").stat().st_size > 10_000
    with sqlite3.connect(out / "mc2sf.db") as database:
        assert database.execute("SELECT max(partition) FROM consumer_offsets").fetchone() == (0,)  # one worker of each
        where = {"collaborative": "NOT cold AND history > 0 AND window > 0", "cold": "cold", "known": "NOT cold"}
        for subset, some in where.items():
            (n,) = database.execute(f"SELECT count(*) FROM outcomes WHERE {some}").fetchone()
            assert {row["n"] for row in summary[f"online_{subset}"].values()} == {n}
            assert 0 < n < summary["outcomes"]


def send_garbage(settings: Settings) -> dict[tuple[str, int, int], bytes]:
    """Put garbage on every topic: topic, partition and offset of each record, and its value."""
    producer, sent = clients.producer(settings, "test-garbage"), {}
    for topic in TOPICS:
        keys = [b"garbage", *([b"fast/0"] if topic is MODEL_WEIGHTS else [])]
        for n, (key, value) in enumerate(product(keys, (b"\xff\xfe", b"", b"\x01\x90", bytes(range(200))))):

            def on_delivery(error: Any, message: Any, topic: Topic = topic, value: bytes = value) -> None:
                assert error is None
                sent[topic.name, message.partition(), message.offset()] = value

            partition = n % topic.partitions(settings)
            producer.produce(topic.full(settings), key=key, value=value, partition=partition, on_delivery=on_delivery)
    assert not producer.flush(30)
    return sent


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.timeout(1800)  # whole runs
def test_garbage_on_every_topic_ends_in_dead_letters_and_changes_nothing_else(
    finished_run: tuple[Path, dict[str, Any]], servers: Callable[[str], str], begin: Begin, tmp_path: Path
) -> None:
    """Nor do two workers of each kind: the same log gives the same digest."""
    out, log = tmp_path / "run", tmp_path / "output"
    more = ("--workers", "2", "--brokers", servers("embedded"))
    with log.open("wb") as output:
        process = begin(command(out, *more), stdout=output, stderr=output)

    def recorded() -> bool:
        with suppress(sqlite3.OperationalError), sqlite3.connect(out / "mc2sf.db") as database:
            found = database.execute("SELECT epoch FROM progress WHERE role = 'recorder'").fetchone()
            return found is not None and found[0] >= 1
        assert process.poll() is None, log.read_text()
        return False

    wait_for(recorded, "the first epochs")
    clock = ClockFile(out / "state" / "replay")
    clock.change(ReplayChange(paused=True))  # else the run may end before all records are sent
    settings = find(str(out)).settings
    sent = send_garbage(settings)
    sender = MutantSender(settings, {topic: first_records(settings, topic) for topic in READ}, seed=1)
    sender.send(50 * len(READ))
    clock.change(ReplayChange(paused=False))
    assert process.wait(PATIENCE_S) == 0, log.read_text()
    found = summary(out)
    assert found["events_applied"] == found["events_sent"] == finished_run[1]["events_sent"]
    assert found["online"] == found["offline"]
    assert found["digest"] == finished_run[1]["digest"]
    with sqlite3.connect(out / "mc2sf.db") as database:
        rows = database.execute('SELECT topic, partition, "offset", value, reason FROM dead_letters').fetchall()
    kept = {(topic, partition, offset): value for topic, partition, offset, value, _ in rows}
    assert set(TOPICS) - set(READ) == {RANKINGS}, "only a gateway reads it, and a run of a log has none"
    unread = {position for position in sent if position[0] == RANKINGS.name}
    assert len(unread) == 4
    own = partition_of_row(b"garbage", settings.partitions)
    forgotten = {
        position
        for position, value in sent.items()
        if position[0] in {t.name for t in STATES} and position[1] == own and not value
    }
    assert len(forgotten) in (0, len(STATES)), (
        "a tombstone in its user's own partition is no garbage: it forgets the user"
    )
    expected = {position: None if position in unread | forgotten else value for position, value in sent.items()}
    assert {position: kept.pop(position, None) for position in sent} == expected
    assert {position: zlib.crc32(value) for position, value in kept.items()} == sender.sent
    assert len(kept) == 50 * len(READ)
    assert all(reason for *_, reason in rows)
    assert found["dead_letters"] == len(rows)


FAULTS = "offline=0.1,reordered=0.2,skew=0.2,lost=0.05,duplicates=0.2,old=0.3,hostile=2"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of a fleet with every fault, on the embedded broker and SQLite."""
    out = tmp_path_factory.mktemp("faulty") / "run"
    run(out, "--faults", FAULTS)
    return out


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.timeout(1800)  # whole runs
def test_what_a_run_recorded_replayed_into_more_partitions_has_its_digest(
    finished_run: tuple[Path, dict[str, Any]], mc2sf: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, first = finished_run
    assert mc2sf("export", str(folder), str(tmp_path / "export")).returncode == 0
    monkeypatch.setenv("MC2SF_PARTITIONS", "13")
    recorded = (f"log:{tmp_path / 'export' / 'interactions.parquet'}", "--columns", "timestamp=time,event=kind")
    done = mc2sf("run", *recorded, *ARGUMENTS, "--out", str(tmp_path / "moved"))
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.delenv("MC2SF_PARTITIONS")
    assert find(str(tmp_path / "moved")).settings.partitions == 13 != find(str(folder)).settings.partitions
    assert summary(tmp_path / "moved")["digest"] == first["digest"]


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.timeout(1800)  # whole runs
def test_a_fleet_with_every_fault_is_accounted_for(
    finished_run: tuple[Path, dict[str, Any]], faulty: Path, mc2sf: Command
) -> None:
    found = summary(faulty)
    effects = found["faults"]
    assert found["settings"]["faults"] == FAULTS
    assert found["events_sent"] == finished_run[1]["events_sent"] - effects["lost"]
    assert found["events_applied"] == found["events_sent"]
    assert found["events_duplicate"] == effects["duplicates"] > 0
    assert found["dead_letters"] == 2 * effects["hostile"] > 0, "refused by the devices and by the recorder"
    assert found["restarts"] == {}
    assert found["online"] == found["offline"] != finished_run[1]["online"]
    assert found["outcomes"] > 200
    assert all(effects[fault] > 0 for fault in ("offline", "reordered", "skew", "late_clicks", "old"))
    verified = mc2sf("verify", str(faulty))
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.timeout(1800)  # whole runs
def test_two_runs_beside_each_other_on_kafka_and_postgresql_have_the_digests_of_the_embedded_defaults(
    finished_run: tuple[Path, dict[str, Any]], faulty: Path, kafka: str, servers: Callable[[str], str], tmp_path: Path
) -> None:
    """The second has two workers and the faults of a fleet: they are repeatable."""
    where = ("--brokers", kafka, "--database", servers("postgresql"))
    first = run(tmp_path / "first", *where)
    assert first["digest"] == finished_run[1]["digest"]
    second, expected = run(tmp_path / "second", *where, "--faults", FAULTS, "--workers", "2"), summary(faulty)
    assert second["run"] != first["run"]
    assert (second["digest"], second["faults"]) == (expected["digest"], expected["faults"])


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_free_run_under_kill_9_loses_nothing_and_every_rank_comes_out_again(
    mc2sf: Command, begin: Begin, tmp_path: Path
) -> None:
    out = tmp_path / "free"
    process = begin(
        command(out, "--free", "--speed", "150/s", "--workers", "2"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )

    def found(query: str) -> int:
        with suppress(sqlite3.OperationalError), sqlite3.connect(out / "mc2sf.db") as database:
            return int(database.execute(query).fetchone()[0])
        return 0

    def sent_epoch() -> int:
        sent = out / "state" / "replay" / "progress.json"
        return int(json.loads(sent.read_text())["epoch"]) if sent.exists() else 0

    def restarted() -> int:
        return sum(log.read_text().count("restarted") for log in (out / "logs").glob("*.log"))

    retrains = "SELECT count(*) FROM proposals WHERE kind = 'retrain'"
    wait_for(lambda: sent_epoch() >= 3, "three epochs sent", PATIENCE_S)
    replay = child(process.pid, "replay")
    replay.send_signal(signal.SIGUSR1)  # pause: a busy machine must not run out of events before it has learnt
    wait_for(lambda: found(retrains), "a retrain", PATIENCE_S)
    for restarts, (role, pause_at) in enumerate((("device", 5), ("cloud", 7), ("device", None)), 1):
        child(process.pid, "worker", role).kill()
        wait_for(lambda restarts=restarts: restarted() >= restarts, "the process started again", PATIENCE_S)
        replay.send_signal(signal.SIGUSR1)  # the run must not be over before a process is started again
        if pause_at is not None:
            wait_for(lambda epoch=pause_at: sent_epoch() >= epoch, f"epoch {pause_at} sent", PATIENCE_S)
            replay.send_signal(signal.SIGUSR1)
    told = process.communicate(timeout=PATIENCE_S)[0].decode()
    assert process.returncode == 0, told
    end = summary(out)
    assert sum(end["restarts"].values()) == 3
    assert end["events_applied"] == end["events_sent"] > 2900
    assert end["outcomes"] > 300
    assert end["offline_differences"] == end["dead_letters"] == 0
    assert end["online"] == end["offline"]
    verified = mc2sf("verify", str(out))
    assert verified.returncode == 0, verified.stdout + verified.stderr


def child(run: int, *command: str) -> psutil.Process:
    for each in psutil.Process(run).children():
        with suppress(psutil.Error):  # it has ended
            if set(command) <= set(each.cmdline()):
                return each
    raise AssertionError(f"no process {command} is running")


@pytest.mark.slow
def test_ctrl_c_stops_every_process_and_another_run_in_the_same_folder_works(
    finished_run: tuple[Path, dict[str, Any]], begin: Begin, tmp_path: Path
) -> None:
    process = begin(command(tmp_path, "--speed", "1000"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "logs" / "device-1.log"
    wait_for(log.exists, "the processes")
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) > 3
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130
    wait_for(
        lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in children), "no process"
    )
    other = run(tmp_path, "--seed", "2", "--limit", "1200")
    assert other["events_applied"] == other["events_sent"] > 0
    assert other["digest"] != finished_run[1]["digest"], "another seed draws other clicks to rank"


@pytest.mark.slow
def test_evaluate_and_recommend_work_from_the_tables_of_a_finished_run(
    finished_run: tuple[Path, dict[str, Any]], mc2sf: Command
) -> None:
    out, summary = finished_run
    again = mc2sf("evaluate", str(out), "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout[: again.stdout.rindex("}") + 1]) == summary["online"]
    newest = max(release["version"] for release in summary["releases"] if release["kind"] == "retrain")
    with_newest = mc2sf("evaluate", str(out), "--release", str(newest))
    assert "on the same clicks" in with_newest.stdout
    assert f"release {newest} minus the releases in force" in with_newest.stdout
    for variant, metrics in summary["online_intervals"]["metrics"].items():
        for name, interval in metrics.items():
            assert interval["value"] == pytest.approx(summary["online"][variant][name], abs=1e-6)
            assert interval["low"] <= interval["value"] <= interval["high"]
    listed = mc2sf("releases", "list", str(out))
    assert "retrain" in listed.stdout
    with closing(sqlite3.connect(out / "mc2sf.db")) as database:
        user = database.execute("SELECT user FROM interactions LIMIT 1").fetchone()[0]
    suggested = mc2sf("recommend", user, "--run", str(out), "-k", "5")
    assert suggested.returncode == 0, suggested.stderr
    unknown = mc2sf("recommend", "nobody", "--run", str(out))
    assert unknown.returncode == 2
    assert "nobody" in unknown.stderr
