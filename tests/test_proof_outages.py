"""The short form of `make outages`: broker, database, disk away for seconds, and workers that come and go."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from benchmarks.faults.disks import empty, fill, small_disk
from benchmarks.faults.outage_acts import OUTAGES, Outage, Scene
from benchmarks.faults.outages import outages
from benchmarks.faults.whole_run import good
from benchmarks.servers.postgres import POSTGRES, Postgres
from benchmarks.servers.worker import wait_for
from streams.database import schema
from streams.database.engine import connect
from streams.kafka import topic_admin
from streams.settings import Settings

SECONDS = 5.0


@pytest.fixture
def disk(tmp_path: Path) -> None:
    """Skip where no small disk can be mounted."""
    try:
        with small_disk(tmp_path / "tried", 1):
            pass
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no small disk can be mounted here: {error.stderr.decode()}")


@pytest.fixture
def postgresql() -> None:
    """Skip where PostgreSQL is not installed."""
    if not POSTGRES.is_dir():
        pytest.skip(f"no PostgreSQL in {POSTGRES}")


def together(*names: str) -> Callable[[Scene], None]:
    """One outage upon the other."""

    def act(scene: Scene) -> None:
        for name in names:
            OUTAGES[name].act(scene)

    return act


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.timeout(1200)  # a run with its outages; how long it takes is the machine's matter
@pytest.mark.usefixtures("postgresql")
def test_broker_and_database_away_and_workers_that_come_and_go_change_nothing(
    kafka_home: Path, undisturbed: Path, tmp_path: Path
) -> None:
    act = together("workers 1, 3, 2", "broker stopped", "postgresql killed", "broker killed", "postgresql stopped")
    (row,) = outages(kafka_home, {"one after the other": Outage(act)}, SECONDS, tmp_path, undisturbed)
    assert good(row), row


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("disk")
def test_a_full_disk_under_tables_progress_and_logs_changes_nothing(
    kafka_home: Path, undisturbed: Path, tmp_path: Path
) -> None:
    name = "disk of sqlite full"
    (row,) = outages(kafka_home, {name: OUTAGES[name]}, SECONDS, tmp_path, undisturbed)
    assert good(row), row


@pytest.mark.process
@pytest.mark.usefixtures("disk")
def test_a_small_disk_is_filled_to_the_last_byte_and_emptied(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as small:
        for _ in range(2):
            fill(small)
            assert os.statvfs(small).f_bavail == 0
            with pytest.raises(OSError) as refused:  # noqa: PT011 - its number is looked at
                (small / "more").write_bytes(b"x" * 10_000)
            assert refused.value.errno == errno.ENOSPC
        empty(small)
        (small / "more").write_bytes(b"x" * 10_000)
    assert not list((tmp_path / "disk").iterdir())


@pytest.mark.usefixtures("postgresql")
def test_a_process_that_is_started_while_the_database_is_away_waits_for_it(
    settings: Settings, servers: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "postgresql").mkdir()
    with Postgres(tmp_path / "postgresql") as server:
        where = {"brokers": servers("embedded"), "database": SecretStr(server.url)}
        settings = settings.model_copy(update=where)
        topic_admin.create(settings)
        server.kill()
        said = tmp_path / "said"
        with said.open("wb") as log:
            command = [sys.executable, "-m", "deploy.cli", "recorder"]
            recorder = subprocess.Popen(command, env=os.environ | settings.environment(), stdout=log, stderr=log)
        try:
            wait_for(lambda: said.read_text().count("trying again for at most") > 2, "the recorder to wait")
            server.start()
            server.wait()
            engine = connect(server.url)

            def recording() -> bool:
                with engine.connect() as connection:
                    return connection.execute(sa.select(schema.progress.c.run)).scalar() == settings.run

            wait_for(recording, "the recorder to begin")
            engine.dispose()
        finally:
            recorder.terminate()
            assert recorder.wait(30) == 0
