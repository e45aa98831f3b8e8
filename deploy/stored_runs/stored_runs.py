"""Find the stored runs, and delete a run from its database and its folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import sqlalchemy as sa

from deploy.runs import DATABASE, RUN_FILE, lock_folder, read_run_file, with_password
from deploy.user_error import UserError
from streams.database import schema
from streams.database.engine import DatabaseUrlError, NoTablesError, connect, connect_to_existing, parsed_url
from streams.settings import Settings

UNREADABLE = "unreadable"


class StoredRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run as its row in the database describes it."""

    run: str
    folder: str | None
    database: str  # URL without the password
    source: str
    status: str
    created_wall: int  # ms since 1970
    bytes: int  # of the folder; 0 without one
    problem: str = ""  # why its row can't be read: its status is UNREADABLE then


def stored_runs(parent: Path) -> list[StoredRun]:
    """Return the runs in the folders under `parent` and in the database of the environment, oldest first.

    A folder whose run never began, and so has no row in its database, is left out. A damaged one is UNREADABLE.
    """
    found: dict[tuple[str, str], StoredRun] = {}
    for folder in sorted(path.parent for path in parent.glob(f"*/{RUN_FILE}")):
        for stored in _in_folder(folder):
            found[stored.database, stored.run] = stored
    for stored in _in_database(Settings().database.get_secret_value(), None, None):
        found.setdefault((stored.database, stored.run), stored)
    return sorted(found.values(), key=lambda stored: (stored.created_wall, stored.run))


def delete(stored: StoredRun) -> int:
    """Delete the rows of a run, then its folder. Return the number of rows. Raises UserError if the run is in use.

    The whole folder is removed: `mc2sf run` has created it, and refuses a folder with other files.
    """
    if stored.folder is None:
        return _delete_rows(stored)
    folder = Path(stored.folder)
    with lock_folder(folder):
        own = (folder / DATABASE).is_file()  # a database of its own goes with its folder
        rows = 0 if own else _delete_rows(stored)
        shutil.rmtree(folder)
    return rows


def _in_folder(folder: Path) -> Iterator[StoredRun]:
    """Yield the run of a folder; another folder's run is not hidden by one that is damaged."""
    try:
        record = read_run_file(folder)
        yield from _in_database(record.database, record.run, folder)
    except (UserError, DatabaseUrlError, sa.exc.DatabaseError) as error:
        problem = str(error.orig if isinstance(error, sa.exc.DatabaseError) else error)
        yield StoredRun(
            run=folder.name,
            folder=str(folder),
            database=str(folder / DATABASE),
            source="",
            status=UNREADABLE,
            created_wall=0,
            bytes=_size(folder),
            problem=" ".join(problem.split()),
        )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _in_database(url: str, run: str | None, folder: Path | None) -> Iterator[StoredRun]:
    url = with_password(url)
    try:
        engine = connect_to_existing(url)
    except NoTablesError:
        return
    try:
        with engine.connect() as connection:
            rows = connection.execute(sa.select(schema.runs)).all()
    finally:
        engine.dispose()
    for row in rows:
        if run in (None, row.run):
            yield StoredRun(
                run=row.run,
                folder=None if folder is None else str(folder),
                database=parsed_url(url).set(password=None).render_as_string(),
                source=row.source,
                status=row.status,
                created_wall=row.created_wall,
                bytes=0 if folder is None else _size(folder),
            )


def _delete_rows(stored: StoredRun) -> int:
    engine = connect(with_password(stored.database))
    try:
        with engine.begin() as connection:
            tables = reversed(schema.metadata.sorted_tables)
            return sum(connection.execute(sa.delete(t).where(t.c.run == stored.run)).rowcount for t in tables)
    finally:
        engine.dispose()


def chosen(runs: list[StoredRun], name: str) -> StoredRun:
    """Return the run with this id or folder. Raises UserError if there is none, or more than one."""
    same = [stored for stored in runs if name == stored.run or (stored.folder and Path(stored.folder) == Path(name))]
    if len(same) != 1:
        found = "no run" if not same else f"{len(same)} runs are called"
        raise UserError(f"{found} {name!r}: `mc2sf runs list` shows all; give the folder of one")
    return same[0]
