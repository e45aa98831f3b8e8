"""The database engine, migrations of the schema, and bulk writes, which SQLite and PostgreSQL do differently."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, URL, Connection, Engine, Table, bindparam, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError

from streams.database.columns import RunNumber, number_of, run_numbers

_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x6D633273  # any number: PostgreSQL's advisory lock that is held during a migration
_BUSY_MS = 60_000
_AT_ONCE = 200  # rows per INSERT
WAL_BYTES = 32 << 20  # SQLite's write-ahead log is cut back to this size at most
_CACHE_KB = 32_768  # pages that a connection keeps, at most: with SQLite's 2 MB it reads most pages anew for each row
_CUT_MS = 5_000  # the longest wait for readers to let it be cut
# options of PostgreSQL's client: an unreachable server is an error after seconds, not an endless wait
_TIMEOUTS = {"connect_timeout": 10, "tcp_user_timeout": 30_000, "keepalives_idle": 10, "keepalives_interval": 10}
_DRIVERS = {"sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg"}
_FORMS = "write sqlite:////PATH or postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME"
_NUMBER = number_of(bindparam("name"))
_one_thread = threading.Lock()  # Alembic keeps its state in globals


class DatabaseUrlError(ValueError):
    """A URL names no database that can be used: no wait would help. The message holds no password."""


class NoTablesError(DatabaseUrlError):
    """A database is missing, or has no tables of a run."""


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite database. No character of the path is taken for a part of the URL."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def parsed_url(url: str) -> URL:
    """Parse a URL. Raises DatabaseUrlError for one that can't be parsed, or is that of another database."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:  # neither is shown: they may hold the password
        raise DatabaseUrlError(f"the database URL can't be parsed: {_FORMS}") from error
    if parsed.drivername not in _DRIVERS:
        raise DatabaseUrlError(f"{parsed.drivername} is no database that can be used: {_FORMS}")
    return parsed


def check_url(url: str) -> None:
    """Raise DatabaseUrlError for a URL that can't be parsed, another database, or an SQLite file in no folder."""
    parsed = parsed_url(url)
    is_file = parsed.database not in (None, "", ":memory:") and "uri" not in parsed.query  # else SQLite's own URI
    if parsed.get_backend_name() == "sqlite" and (is_file or parsed.host):
        if parsed.host:
            raise DatabaseUrlError(f"{url} names no file: {_FORMS}")
        path = Path(parsed.database or "")
        if path.is_dir():
            raise DatabaseUrlError(f"unable to open {path}: it is a folder")
        if not path.parent.is_dir():
            raise DatabaseUrlError(f"unable to open {path}: there is no folder {path.parent}")


def connect(url: str) -> Engine:
    """Return an engine on `url` with the newest schema. SQLite waits for other writers and uses a write-ahead log.

    Raises DatabaseUrlError.
    """
    return _migrated(unmigrated(url))


def connect_to_existing(url: str) -> Engine:
    """Connect to a database that has tables of a run. Raises NoTablesError if it has none; nothing is created."""
    parsed = parsed_url(url)
    if is_missing(parsed):
        raise NoTablesError(f"there is no database {parsed.database}")
    return _migrated(unmigrated(url), existing=True)


def _migrated(engine: Engine, *, existing: bool = False) -> Engine:
    """Migrate and return `engine`, or dispose of it. Raises NoTablesError without tables that must be `existing`."""
    try:
        if existing:
            _require_tables(engine)
        migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _require_tables(engine: Engine) -> None:
    with engine.connect() as connection:
        if schema_version(connection) is None:
            raise NoTablesError(f"{engine.url.render_as_string()} has no tables of a run")


def is_missing(url: URL) -> bool:
    """Return True if `url` is that of a SQLite file that does not exist; connecting would create it."""
    return url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file()


def unmigrated(url: str) -> Engine:
    """Return an engine on `url` with the schema that it has. Raises DatabaseUrlError."""
    check_url(url)
    timeouts = _TIMEOUTS if url.startswith("postgresql") else {}
    engine = create_engine(url, pool_pre_ping=True, connect_args=timeouts)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _pragmas(connection: DBAPIConnection, _: object) -> None:
            cursor = connection.cursor()
            pragmas = f"busy_timeout={_BUSY_MS}", "journal_mode=WAL", "synchronous=NORMAL", f"cache_size=-{_CACHE_KB}"
            for pragma in (*pragmas, f"journal_size_limit={WAL_BYTES}"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

    return engine


def cut_write_ahead_log(engine: Engine, above: int = WAL_BYTES) -> None:
    """Empty SQLite's write-ahead log if it is larger than `above` bytes, waiting a moment for the readers of its rows.

    SQLite itself starts it anew only at a commit at which nobody reads: with several readers it grows on.
    """
    if engine.dialect.name != "sqlite" or engine.url.database is None:
        return
    log = Path(f"{engine.url.database}-wal")
    if log.exists() and log.stat().st_size > above:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={_CUT_MS}")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all()
            connection.exec_driver_sql(f"PRAGMA busy_timeout={_BUSY_MS}")


def migrate(engine: Engine, revision: str = "head") -> None:
    """Migrate the schema up or down to `revision` ("base": no tables). Processes take turns.

    Raises DatabaseUrlError if the schema is that of a newer version, or of another program that uses Alembic.
    """
    config = alembic_config()
    if revision == "head":
        scripts = ScriptDirectory.from_config(config)
        with engine.connect() as connection:
            current = schema_version(connection)
        if current == scripts.get_current_head():
            return
        if current not in (None, *(script.revision for script in scripts.walk_revisions())):
            raise DatabaseUrlError(
                f"{engine.url.render_as_string()} has tables of a newer version of mc2sf, or of another program "
                f"(revision {current}): use that version, or another database"
            )
    with _one_thread, _alone(engine) as connection:
        config.attributes["connection"] = connection
        if revision == "head" or schema_version(connection) is None:
            command.upgrade(config, revision)
        else:
            command.downgrade(config, revision)


def alembic_config(migrations: Path = _MIGRATIONS) -> Config:
    """Return the configuration of Alembic for a folder of revisions. A `%` in its path is a character."""
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    return config


def schema_version(connection: Connection) -> str | None:
    """Return the revision of the schema; None for an empty database."""
    return MigrationContext.configure(connection).get_current_revision()


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that excludes other migrations; it is committed at the end."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        yield connection
        connection.commit()


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> int:
    """Insert `rows` except those whose primary key exists. Return the number of inserted rows."""
    if _is_numbered(table):
        for run in {str(row["run"]) for row in rows}:
            run_number(connection, run)
    new = 0
    for start in range(0, len(rows), _AT_ONCE):  # one statement each: only then every driver tells the number of rows
        some = list(rows[start : start + _AT_ONCE])
        statement = _insert(connection, table).values(some).on_conflict_do_nothing()
        new += connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount
    return new


def upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert `rows`; replace those whose primary key exists."""
    if not rows:
        return
    statement = _insert(connection, table)
    keys = {column.name for column in table.primary_key}
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=sorted(keys), set_=changed), list(rows))


def copy_new(connection: Connection, table: Table, rows: Sequence[tuple[object, ...]], *, replace: bool = False) -> int:
    """Insert like `insert_new`, for many rows: tuples in the order of the table's columns.

    With `replace` rows replace those whose primary key exists; the rows themselves must differ in it.

    PostgreSQL gets them by COPY into a temporary table, SQLite by one prepared statement.
    """
    if not rows:
        return 0
    rows = _with_json_as_text(table, rows)
    if _is_numbered(table):
        numbers = {run: run_number(connection, str(run)) for run in {row[0] for row in rows}}
        rows = [(numbers[row[0]], *row[1:]) for row in rows]
    quote = connection.dialect.identifier_preparer.quote
    name, columns = quote(table.name), ", ".join(quote(column.name) for column in table.columns)
    conflict = "DO NOTHING"
    if replace:
        keys = {column.name for column in table.primary_key}
        others = (quote(column.name) for column in table.columns if column.name not in keys)
        found = ", ".join(f"{other} = excluded.{other}" for other in others)
        conflict = f"({', '.join(map(quote, sorted(keys)))}) DO UPDATE SET {found}"
    if connection.dialect.name == "sqlite":
        holes = ", ".join("?" * len(table.columns))
        insert = f"INSERT INTO {name} ({columns}) VALUES ({holes}) ON CONFLICT {conflict}"  # noqa: S608 - our own names
        return max(connection.exec_driver_sql(insert, list(rows)).rowcount, 0)
    import psycopg  # noqa: PLC0415 - not needed on SQLite

    incoming = quote(f"incoming_{table.name}")
    connection.exec_driver_sql(f"CREATE TEMP TABLE {incoming} (LIKE {name}) ON COMMIT DROP")
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with driver.cursor() as cursor, cursor.copy(f"COPY {incoming} ({columns}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
    insert = f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {incoming} ON CONFLICT {conflict}"  # noqa: S608 - our own names
    new = connection.exec_driver_sql(insert).rowcount
    connection.exec_driver_sql(f"DROP TABLE {incoming}")
    return new


def run_number(connection: Connection, run: str) -> int:
    """Return the number of a run; it is given one if it has none."""
    found = connection.execute(_NUMBER, {"name": run}).scalar()
    if found is None:
        connection.execute(_insert(connection, run_numbers).values(run=run).on_conflict_do_nothing())
        found = connection.execute(_NUMBER, {"name": run}).scalar_one()
    return int(found)


def _insert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return the INSERT of this database, which can have an ON CONFLICT."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def _is_numbered(table: Table) -> bool:
    return isinstance(table.columns[0].type, RunNumber)


def _with_json_as_text(table: Table, rows: Sequence[tuple[object, ...]]) -> Sequence[tuple[object, ...]]:
    documents = {i for i, column in enumerate(table.columns) if isinstance(column.type, JSON)}
    if not documents:
        return rows
    return [tuple(json.dumps(v) if i in documents else v for i, v in enumerate(row)) for row in rows]
