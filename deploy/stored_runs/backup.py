"""Backup and restore of a run: its rows, from one database to another. Kafka's topics are not part of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from deploy.runs import DATABASE, FoundRun, check_new_folder, write_run_file
from deploy.user_error import UserError
from streams.database import schema
from streams.database.engine import connect, copy_new, sqlite_url

_AT_ONCE = 1000
Progress = Callable[[str, int], None]  # table, rows so far


def backup(found: FoundRun, folder: Path, progress: Progress) -> int:
    """Copy a run into an SQLite database in a new `folder`, which becomes a run's folder. Return the number of rows.

    The run may be running: the copy is a consistent snapshot. Raises UserError if the folder is not empty.
    """
    check_new_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    url = sqlite_url((folder / DATABASE).resolve())
    rows = _copy(found.engine, url, found.settings.run, progress)
    settings = found.settings.model_copy(update={"database": type(found.settings.database)(url)})
    write_run_file(folder, settings, found.source)
    return rows


def restore(found: FoundRun, url: str, progress: Progress) -> int:
    """Copy a run into the database `url`. Return the rows. Raises UserError if a run of this name is there."""
    return _copy(found.engine, url, found.settings.run, progress)


def _copy(source: sa.Engine, url: str, run: str, progress: Progress) -> int:
    target = connect(url)
    total = 0
    try:
        if source.dialect.name == "postgresql":  # all tables as of one moment; in SQLite a transaction is that anyway
            source = source.execution_options(isolation_level="REPEATABLE READ")
        with source.connect() as reading, target.begin() as writing:
            r = schema.runs.c
            if writing.execute(sa.select(r.run).where(r.run == run)).first():
                raise UserError(f"run {run} is in {target.url.render_as_string()} already: delete it there first")
            for name, table in schema.public_tables().items():
                query = sa.select(table).where(table.c.run == run)
                streamed = reading.execution_options(yield_per=_AT_ONCE).execute(query)
                for rows in streamed.partitions():
                    total += copy_new(writing, table, [tuple(row) for row in rows])
                    progress(name, total)
    finally:
        target.dispose()
    return total
