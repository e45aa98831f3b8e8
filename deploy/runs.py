"""Runs on disk and in the database: find a run by id or --out folder, register it, lock and clear its folder."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
import sqlalchemy as sa

from deploy.user_error import UserError
from replay.json_file import write_json
from replay.prepare.plan import LOG, PLAN, PREPARING
from replay.sources.log_map import LogMap
from streams.database import schema
from streams.database.engine import (
    DatabaseUrlError,
    check_url,
    connect,
    connect_to_existing,
    insert_new,
    is_missing,
    parsed_url,
)
from streams.kafka import topic_admin
from streams.plugins.loaded import loaded
from streams.process.retry import retrying
from streams.settings import Settings

RUN_FILE = "run.json"
DATABASE = "mc2sf.db"  # the SQLite database in the folder of a run


class RunFailed(RuntimeError):  # noqa: N818 - the end of a run, not an error in the program
    """The run has ended, but a check of its result failed; the message says which."""


class RunFile(msgspec.Struct, frozen=True):
    """The contents of RUN_FILE, by which a run is found from its --out folder. It holds no secret."""

    run: str
    database: str  # SQLAlchemy URL, without the password; an SQLite file in the folder of the run by its name alone
    brokers: str  # HOST:PORT, separated by commas
    source: str  # as the user wrote it
    log_map: LogMap | None = None  # how the log is written, if a map says it
    partitions: int | None = None  # of the topics keyed by user; None in a file of version 0.1: see the environment


@dataclass(frozen=True)
class FoundRun:
    """A run that was found: its settings, and the engine of its database."""

    settings: Settings
    engine: sa.Engine
    folder: Path | None
    source: str


def write_run_file(folder: Path, settings: Settings, source: str, log_map: LogMap | None = None) -> None:
    """Write RUN_FILE into `folder`, without the password of the database."""
    shown = parsed_url(settings.database.get_secret_value()).set(password=None)
    if shown.get_backend_name() == "sqlite" and not shown.query and shown.database:
        path = Path(shown.database)
        if path.resolve().parent == folder.resolve():
            shown = shown.set(database=path.name)  # so that a moved or copied folder works by its own files
    record = RunFile(settings.run, shown.render_as_string(), settings.brokers, source, log_map, settings.partitions)
    write_json(folder / RUN_FILE, record)


def read_run_file(folder: Path) -> RunFile:
    """Read RUN_FILE in `folder`, with the URL of its database resolved. Raises UserError if it is damaged."""
    path = folder / RUN_FILE
    try:
        record = msgspec.json.decode(path.read_bytes(), type=RunFile)
        url = parsed_url(record.database)
    except (msgspec.DecodeError, UnicodeDecodeError, DatabaseUrlError) as error:
        raise UserError(f"{path} is damaged ({error}): move {folder} elsewhere, or write the file again") from error
    if url.get_backend_name() == "sqlite" and not url.query and url.database:
        own = folder.resolve() / Path(url.database).name
        of_version_0_1 = own.name == DATABASE and own.is_file()  # the whole path, wherever the folder was then
        if url.database == own.name or of_version_0_1:
            url = url.set(database=str(own))
    return msgspec.structs.replace(record, database=url.render_as_string(hide_password=False))


def check_run_folder(folder: Path) -> None:
    """Raise UserError unless `folder` is new, empty, or contains a run or the files of a run that did not start."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    if (folder / RUN_FILE).is_file():
        read_run_file(folder)
        return
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    of_a_run = {
        name for name in present if name in {PLAN, LOG, PREPARING, "state", "logs"} or name.startswith(DATABASE)
    }
    if present and (present.isdisjoint({PLAN, PREPARING}) or present != of_a_run):
        raise UserError(f"{folder} is not empty and holds no run (no {RUN_FILE}): name another folder, or a new one")


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold `folder` for one run. Raises UserError if another process holds it.

    The kernel holds the lock on the folder itself and releases it when the process ends, also after a crash.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"{folder} is in use by another run: name another folder with --out") from error
    else:
        yield
    finally:
        os.close(descriptor)


def check_new_folder(folder: Path) -> None:
    """Raise UserError if `folder` exists and is not an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder: name a new one")


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Make `folder` if it is missing; if the block fails and leaves it empty, it and the parents made are deleted."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not empty
            for path in missing:
                path.rmdir()
        raise


def clear_run_folder(folder: Path) -> None:
    """Delete state, logs and SQLite database of the run in `folder`; does nothing if it contains no run."""
    if not (folder / RUN_FILE).is_file():
        return
    shutil.rmtree(folder / "state", ignore_errors=True)
    shutil.rmtree(folder / "logs", ignore_errors=True)
    for path in folder.glob(f"{DATABASE}*"):
        path.unlink()


def with_password(url: str) -> str:
    """Return `url` with the password of the environment's, if that is the same database: no file holds it."""
    given = parsed_url(Settings().database.get_secret_value())
    same = given.set(password=None) == parsed_url(url)
    return given.render_as_string(hide_password=False) if same else url


def find(name: str) -> FoundRun:
    """Find the run `name`: an --out folder, or an id under ./runs or in the database of the environment.

    Raises UserError or DatabaseUrlError if there is none, or more than one with this id under ./runs.
    """
    environment = Settings()
    given = parsed_url(environment.database.get_secret_value())
    if (Path(name) / RUN_FILE).is_file():
        return _in_folder(Path(name), environment)
    same, damaged = list[Path](), list[UserError]()
    for folder in sorted(path.parent for path in Path("runs").glob(f"*/{RUN_FILE}")):
        try:
            same += [folder] if read_run_file(folder).run == name else []
        except UserError as error:
            damaged.append(error)
    if len(same) > 1:
        raise UserError(f"{len(same)} runs are called {name!r}: give the folder of one: {', '.join(map(str, same))}")
    if same:
        return _in_folder(same[0], environment)
    if not is_missing(given):
        shown = given.render_as_string(hide_password=False)
        return _load(name, shown, environment.brokers, None, environment)
    if damaged:  # it may be the run
        raise damaged[0]
    raise UserError(f"no run {name!r}: give the --out folder of a run, or its id with MC2SF_DATABASE set")


def _in_folder(folder: Path, environment: Settings) -> FoundRun:
    record = read_run_file(folder)
    if record.partitions is not None:
        environment = environment.model_copy(update={"partitions": record.partitions})
    return _load(record.run, with_password(record.database), record.brokers, folder, environment)


def find_in(url: str, run: str | None) -> FoundRun:
    """Find a run in the database `url`; `run` may be None if it holds one only. Raises UserError."""
    environment = Settings()
    if run is None:
        engine = connect_to_existing(url)
        with engine.connect() as connection:
            runs = connection.execute(sa.select(schema.runs.c.run).order_by(schema.runs.c.run)).scalars().all()
        engine.dispose()
        if len(runs) != 1:
            raise UserError(f"{engine.url.render_as_string()} holds {len(runs)} runs: name one of them")
        run = runs[0]
    return _load(run, url, environment.brokers, None, environment)


def _load(run: str, url: str, brokers: str, folder: Path | None, environment: Settings) -> FoundRun:
    engine = connect_to_existing(url)
    with engine.connect() as connection:
        row = connection.execute(sa.select(schema.runs).where(schema.runs.c.run == run)).one_or_none()
    if row is None:
        raise UserError(f"no run {run!r} in {engine.url.render_as_string()}")
    merged = environment.model_dump() | row.settings | {"run": run, "database": url, "brokers": brokers}
    return FoundRun(Settings.model_validate(merged), engine, folder, row.source)


def register_run(settings: Settings, engine: sa.Engine, source: str, *, fresh: bool = False) -> None:
    """Insert the row of the run, or compare the settings with the row of an earlier process.

    Raises UserError if settings that decide results differ, or if `fresh` and the run exists.
    """
    semantic = settings.semantic()
    row: dict[str, object] = {
        "run": settings.run,
        "created_wall": int(time.time() * 1000),
        "source": source,
        "settings": semantic,
        "versions": software(),
        "status": "running",
        "summary": None,
    }
    with engine.begin() as connection:
        if insert_new(connection, schema.runs, [row]):
            return
        query = sa.select(schema.runs.c.settings).where(schema.runs.c.run == settings.run)
        begun = connection.execute(query).scalar_one()
    if fresh:
        raise UserError(f"run {settings.run} is in the database already: continue it with --resume")
    if changed := sorted(name for name, value in semantic.items() if begun.get(name) != value):
        raise UserError(f"run {settings.run} was begun with other settings: {', '.join(changed)}")


def join_run() -> Settings:
    """Return this process's settings from the environment, after checking topics and settings against the run.

    Waits for broker and database. Raises TopicsError, UserError, DatabaseUrlError, or PluginError if a plugin's file
    has changed.
    """
    settings = Settings()
    check_url(settings.database.get_secret_value())  # before the broker is waited for
    loaded(settings.plugins)
    retrying(settings.patience_s)(_check, settings)
    return settings


def _check(settings: Settings) -> None:
    topic_admin.require(settings)
    engine = connect(settings.database.get_secret_value())
    register_run(settings, engine, "parts")
    engine.dispose()


@sa.event.listens_for(sa.Engine, "handle_error")
def _name_database(context: sa.engine.ExceptionContext) -> None:
    """Add the URL of the database, without its password, to its errors."""
    if context.sqlalchemy_exception is not None and context.engine is not None:
        context.sqlalchemy_exception.add_note(context.engine.url.render_as_string())


def software() -> dict[str, str]:
    """Return the versions and the CPU on which a digest depends."""
    packages = ("mc2sf", "torch", "numpy", "faust-streaming", "confluent-kafka", "river", "sqlalchemy", "msgspec")
    return {"python": platform.python_version(), "cpu": _cpu()} | {name: version(name) for name in packages}


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
