"""Finding a run again, by its id or by its --out folder, and making room in that folder for the next one."""

from __future__ import annotations

import platform
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from replay.json_file import write_json
from replay.prepare.plan import LOG, PLAN
from streams.database import schema
from streams.database.engine import connect, insert_new
from streams.settings import Settings

RUN_FILE = "run.json"


class UserError(ValueError):
    """Something that the user asked for can't be done; the message says why and what would help."""


class RunFailed(RuntimeError):  # noqa: N818 - the end of a run, not an error in the program
    """The run came to an end, but what was sent is not accounted for; the message says what differs."""


class RunFile(msgspec.Struct, frozen=True):
    """What a run leaves in its --out folder so that it can be found again. It holds no secret."""

    run: str
    database: str
    brokers: str
    source: str


@dataclass(frozen=True)
class Found:
    """A run that was found: settings with which it ran, and the engine of its database."""

    settings: Settings
    engine: sa.Engine
    folder: Path | None
    source: str


def write_run_file(folder: Path, settings: Settings, source: str) -> None:
    """Leave RUN_FILE in `folder`; the database's password stays out of it."""
    shown = sa.make_url(settings.database.get_secret_value()).set(password=None)
    record = RunFile(settings.run, shown.render_as_string(), settings.brokers, source)
    write_json(folder / RUN_FILE, record)


def read_run_file(folder: Path) -> RunFile:
    """Return what RUN_FILE in `folder` says. Raises UserError where it is damaged."""
    path = folder / RUN_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunFile)
    except msgspec.DecodeError as error:
        raise UserError(f"{path} is damaged ({error}): move {folder} away, or write the file again") from error


def refuse_foreign(folder: Path) -> None:
    """Raise UserError where `folder` holds something, and neither a run nor what one that never began left there."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    if (folder / RUN_FILE).is_file():
        read_run_file(folder)
        return
    held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    of_a_run = {name for name in held if name in {PLAN, LOG, "state", "logs"} or name.startswith("mc2sf.db")}
    if held and (PLAN not in held or held != of_a_run):
        raise UserError(f"{folder} is not empty and holds no run (no {RUN_FILE}): name another folder, or a new one")


def give_way(folder: Path) -> None:
    """Delete the state, the logs and the SQLite database of the run in `folder`; nothing where there is none."""
    if not (folder / RUN_FILE).is_file():
        return
    shutil.rmtree(folder / "state", ignore_errors=True)
    shutil.rmtree(folder / "logs", ignore_errors=True)
    for path in folder.glob("mc2sf.db*"):
        path.unlink()


def find(name: str) -> Found:
    """Find the run called `name`: an --out folder, or an id under ./runs or in the database of the environment.

    Raises UserError where there is none.
    """
    environment = Settings()
    given = sa.make_url(environment.database.get_secret_value())
    folders = [Path(name), *sorted(Path("runs").glob("*"))]
    for folder in folders:
        if not (folder / RUN_FILE).is_file():
            continue
        record = read_run_file(folder)
        if folder == Path(name) or record.run == name:
            url = sa.make_url(record.database)
            if given.set(password=None) == url:  # the password is only in the environment
                url = given
            return _load(record.run, url.render_as_string(hide_password=False), record.brokers, folder, environment)
    if given.get_backend_name() != "sqlite" or Path(given.database or "").is_file():
        shown = given.render_as_string(hide_password=False)
        return _load(name, shown, environment.brokers, None, environment)
    raise UserError(f"no run {name!r}: give the --out folder of a run, or its id with MC2SF_DATABASE set")


def _load(run: str, url: str, brokers: str, folder: Path | None, environment: Settings) -> Found:
    engine = connect(url)
    with engine.connect() as connection:
        row = connection.execute(sa.select(schema.runs).where(schema.runs.c.run == run)).one_or_none()
    if row is None:
        raise UserError(f"no run {run!r} in {engine.url.render_as_string()}")
    merged = environment.model_dump() | row.settings | {"run": run, "database": url, "brokers": brokers}
    return Found(Settings.model_validate(merged), engine, folder, row.source)


def agree(settings: Settings, engine: sa.Engine, source: str, *, fresh: bool = False) -> None:
    """Write the run's row where there is none yet; raise UserError where it was begun with other settings.

    `fresh`: raise it also where the run is there already.
    """
    row: dict[str, Any] = {
        "run": settings.run,
        "created_wall": int(time.time() * 1000),
        "source": source,
        "settings": settings.semantic(),
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
    if changed := sorted(name for name, value in row["settings"].items() if begun.get(name) != value):
        raise UserError(f"run {settings.run} was begun with other settings: {', '.join(changed)}")


def software() -> dict[str, str]:
    """Return the versions on which a digest depends, and the CPU that it holds for."""
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
