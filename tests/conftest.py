"""Marks, and servers for tests: started once, on free ports, in temporary folders; a test gets a run id of its own.

A fixture imports what it needs: the process that only gives tests to others, and a test alone, begin at once.
"""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.support import process_guard
from tests.support.command import Command, CommandResult

if TYPE_CHECKING:
    import sqlalchemy as sa
    from selenium import webdriver

    from benchmarks.servers.prometheus import Prometheus
    from streams.settings import Settings

IN_CI = os.environ.get("CI") == "true"

# How long an example takes is the machine's matter. In CI the examples are the same each time, so that a change is red
# only by its own doing; elsewhere they are new ones each time.
hypothesis.settings.register_profile(
    "any machine", deadline=None, derandomize=IN_CI, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

# pytest's own processes share the cores: threads that wait for each other by spinning would starve them all
os.environ["OMP_NUM_THREADS"] = "1"

KAFKA_HOME = os.environ.get("KAFKA_HOME")
# fixtures that start processes, and the marks of a test that uses one of them
STARTERS = {"servers": ["process"], "tool": ["process"], "undisturbed": ["process"], "kafka_home": ["process", "kafka"]}

TYPICAL_S = {"proof": 60.0, "slow": 12.0, "process": 2.0, None: 0.2}  # of a test with this mark


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a fixture that starts processes; run the files that are likely to take longest first.

    Then the workers of pytest-xdist end at about the same time: each takes the next file when it has done one.
    """
    for item in items:
        for fixture in set(STARTERS).intersection(getattr(item, "fixturenames", ())):
            for mark in STARTERS[fixture]:
                item.add_marker(mark)
    seconds = Counter[Path]()
    for item in items:
        seconds[item.path] += max(s for mark, s in TYPICAL_S.items() if mark is None or item.get_closest_marker(mark))
    items.sort(key=lambda item: -seconds[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Refuse processes and listening sockets to the fixtures of a test without the mark `process`."""
    with process_guard.refused(unless=item.get_closest_marker("process") is not None):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Refuse them to the test itself."""
    with process_guard.refused(unless=item.get_closest_marker("process") is not None):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure in CI, where everything that a test needs is installed but an accelerator."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail") and "accelerator" not in report.keywords:
        report.outcome = "failed"
    return report


@pytest.fixture(scope="session")
def kafka_home() -> Path:
    """The folder of an Apache Kafka."""
    if KAFKA_HOME is None:
        pytest.skip("KAFKA_HOME is not set: no Apache Kafka to test on")
    return Path(KAFKA_HOME)


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Start a server by name at its first use, and stop all of them at the end."""
    from benchmarks.servers.embedded import embedded_broker
    from benchmarks.servers.kafka import Cluster
    from benchmarks.servers.postgres import POSTGRES, Postgres

    running: dict[str, str] = {}
    with ExitStack() as stack:

        def address(name: str) -> str:
            if name not in running:
                folder = tmp_path_factory.mktemp(name)
                if name == "embedded":
                    running[name] = stack.enter_context(embedded_broker(folder / "log"))
                elif name == "kafka":
                    home: Path = request.getfixturevalue("kafka_home")
                    running[name] = stack.enter_context(Cluster(home, folder)).addresses
                else:
                    if not POSTGRES.is_dir():
                        pytest.skip(f"no PostgreSQL in {POSTGRES}")
                    # not below pytest's folders: each of its sessions closes them to the user postgres
                    folder = Path(stack.enter_context(TemporaryDirectory(prefix="mc2sf-"))) / "postgresql"
                    folder.mkdir()
                    running[name] = stack.enter_context(Postgres(folder)).url
            return running[name]

        yield address


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest, servers: Callable[[str], str]) -> str:
    """The address of a broker: a test runs once on the embedded one and once on Apache Kafka."""
    return servers(request.param)


@pytest.fixture
def kafka(servers: Callable[[str], str], kafka_home: Path) -> str:  # noqa: ARG001 - marks the test as one on Kafka
    """The address of Apache Kafka."""
    return servers("kafka")


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the newest schema and no rows, to be copied: migrating takes ten times as long."""
    from streams.database.engine import connect

    path = tmp_path_factory.mktemp("schema") / "empty.db"
    connect(f"sqlite:///{path}").dispose()
    return path


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.process)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without rows: a test runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{shutil.copy(request.getfixturevalue('migrated'), tmp_path / 'test.db')}"
    return database_on(request.getfixturevalue("servers")("postgresql"))


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """An engine of a database without rows."""
    from streams.database.engine import connect

    connected = connect(database_url)
    yield connected
    connected.dispose()


def database_on(url: str) -> str:
    """Make an empty database on the server of `url`; its URL."""
    import psycopg

    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return url.rsplit("/", 1)[0] + f"/{name}"


@pytest.fixture
def settings(tmp_path: Path, migrated: Path) -> Settings:
    """Settings of a run of its own, with SQLite and no broker; decisions apply at once."""
    from streams.settings import Settings

    return Settings(
        run=f"t-{uuid.uuid4().hex[:10]}",
        database=f"sqlite:///{shutil.copy(migrated, tmp_path / 'run.db')}",
        state_dir=tmp_path / "state",
        retrain_delay=0,
        learner_delay=0,
    )


@pytest.fixture
def broker_settings(settings: Settings, broker: str) -> Settings:
    """Settings of a run of its own on a broker."""
    return settings.model_copy(update={"brokers": broker})


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run, to look at or to compare with: one for all workers of pytest-xdist."""
    from tests.support.whole_run import shared_run

    folder = tmp_path_factory.getbasetemp()
    return shared_run(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Find a program, beside this Python or on the PATH."""

    def find(name: str) -> str:
        path = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        if path is None:
            pytest.skip(f"{name} is not installed")
        return path or ""

    return find


@pytest.fixture(scope="session")
def browser(tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Chromium, started at its first use."""
    from tests.support.browser import chromium

    driver = chromium(tool("chromium"), tool("chromedriver"), tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture
def prometheus(tool: Callable[[str], str], tmp_path: Path) -> Iterator[Callable[..., Prometheus]]:
    """Start Prometheus on the processes that a file of targets names (a run's `logs/targets.json`)."""
    from benchmarks.servers.prometheus import Prometheus

    with ExitStack() as stack:

        def start(
            targets: Path, rules: Sequence[Path] = (), factor: float = 1.0, *, scrape_ms: int = 250
        ) -> Prometheus:
            folder, program = tmp_path / "prometheus", tool("prometheus")
            server = Prometheus(folder, targets, rules, factor=factor, scrape_ms=scrape_ms, program=program)
            return stack.enter_context(server)

        yield start


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of small logs as people have them."""
    folder = Path(os.environ.get("MC2SF_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")).parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"no small logs in {folder}: set MC2SF_TEST_DATA to the folder beside it")
    return folder


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real logs."""
    folder = Path(os.environ.get("MC2SF_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real logs in {folder}: set MC2SF_TEST_DATA")
    return folder


@pytest.fixture
def mc2sf(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The `mc2sf` command, in this process: `mc2sf("doctor", MC2SF_BROKERS="...")`."""
    from deploy.cli.main import main

    def call(*arguments: str, **environment: str) -> CommandResult:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main(list(arguments))
        said = capsys.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return CommandResult(code, said.out, said.err)

    return call
