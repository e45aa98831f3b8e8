"""The schema, its migrations and the bulk writes: the same on SQLite and PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from streams.database import run_state, schema
from streams.database.changes import DatabaseChanges
from streams.database.engine import (
    DatabaseUrlError,
    connect,
    connect_to_existing,
    copy_new,
    cut_write_ahead_log,
    insert_new,
    migrate,
    schema_version,
    sqlite_url,
    upsert,
)
from streams.database.interaction_log import Interactions
from streams.database.table_sizes import table_sizes
from streams.rescoring.baseline_scorer import baseline_ranks
from streams.rescoring.ranking_queries import RankingQueries
from streams.settings import Settings
from tests.conftest import database_on


def interaction(user: str, seq: int, item: int = 7) -> tuple[Any, ...]:
    return ("r", 0, user, seq, item, 1, 1000 + seq, 1000 + seq, 0)


def row_of_each_type(table: sa.Table, number: int) -> dict[str, Any]:
    """Any row of `table`, different for each number."""
    values: dict[type, Any] = {
        sa.String: f"é'\"\\\t{number}",
        sa.BigInteger: 2**60 + number,
        sa.SmallInteger: number,
        sa.Integer: number,
        sa.Boolean: bool(number % 2),
        sa.Float: 0.1 + number,
        sa.LargeBinary: bytes([0, 255, 9, 10, 92, number]),
        sa.JSON: {"é": [number, 0.1, None]},
        schema.RunNumber: f"é'\"\\\t{number}",
    }
    return {column.name: values[type(column.type)] for column in table.columns}


def not_a_partition(name: str | None, kind: str, _: object) -> bool:
    return kind != "table" or not (name or "").startswith("outcomes_of_")


def test_the_migrations_lead_to_the_tables_of_the_code(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True, "include_name": not_a_partition}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []


def test_every_table_and_every_column_says_what_it_holds() -> None:
    for table in schema.metadata.sorted_tables:
        assert table.info["doc"]
        assert [column.name for column in table.columns if not column.doc] == []


def test_migrating_down_and_up_again_with_data_in_the_tables(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        for table in schema.metadata.sorted_tables:
            insert_new(connection, table, [row_of_each_type(table, n) for n in (1, 2)])
    views = [name for name, table in schema.public_tables().items() if name != table.name]
    for revision in ("0001", "head"):
        migrate(engine, revision)
        with engine.connect() as connection:
            for name in ("outcomes", "items", *views):  # which were tables
                rows = connection.exec_driver_sql(f"SELECT run FROM {name} ORDER BY run").scalars().all()
                assert rows == [row_of_each_type(schema.outcomes, n)["run"] for n in (1, 2)]
    migrate(engine, "base")
    assert set(sa.inspect(engine).get_table_names()) <= {"alembic_version"}
    with engine.connect() as connection:
        assert schema_version(connection) is None
    migrate(engine)
    assert set(schema.metadata.tables) <= set(sa.inspect(engine).get_table_names())


def test_connecting_again_changes_nothing(engine: sa.Engine, database_url: str) -> None:
    with engine.begin() as connection:
        copy_new(connection, schema.interactions, [interaction("u", 0)])
    again = connect(database_url)
    with again.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.interactions)).scalar_one() == 1
    again.dispose()


@pytest.mark.process
def test_many_processes_may_connect_to_an_empty_database_at_once(database_url: str) -> None:
    connecting = f"from streams.database.engine import connect; connect({database_url!r}).dispose()"
    processes = [subprocess.Popen([sys.executable, "-c", connecting], stderr=subprocess.PIPE) for _ in range(4)]
    errors = [process.communicate()[1].decode() for process in processes]
    assert errors == [""] * 4


def test_every_value_comes_back_as_it_was_written(engine: sa.Engine) -> None:
    for table in schema.metadata.sorted_tables:
        row = row_of_each_type(table, 3)
        with engine.begin() as connection:
            assert copy_new(connection, table, [tuple(row.values())]) == 1
        with engine.connect() as connection:
            assert dict(connection.execute(sa.select(table)).one()._mapping) == row


def test_sql_reads_the_runs_of_numbered_rows_by_name(engine: sa.Engine) -> None:
    numbered = {name: table for name, table in schema.public_tables().items() if name != table.name}
    assert set(numbered) == {"click_uploads", "interactions", "negative_memories", "user_snapshots"}
    with engine.begin() as connection:
        for name, table in numbered.items():
            rows = [row_of_each_type(table, n) for n in (1, 2)]
            assert insert_new(connection, table, rows) == 2
            asked = sa.text(f"SELECT * FROM {name} WHERE run = :run")
            assert [dict(row) for row in connection.execute(asked, {"run": rows[1]["run"]}).mappings()] == rows[1:]
            assert connection.execute(sa.delete(table).where(table.c.run == rows[0]["run"])).rowcount == 1
            assert connection.execute(sa.select(table.c.run)).scalars().all() == [rows[1]["run"]]
            with pytest.raises(sa.exc.IntegrityError), connection.begin_nested():  # nothing is stored under no run
                connection.execute(sa.insert(table).values(rows[0] | {"run": "unknown"}))


def test_the_events_of_a_user_are_found_in_all_epochs_without_reading_the_log(engine: sa.Engine) -> None:
    rows = [("r", n // 20, f"u{n % 10}", n // 10, 7, 1, n, n, 0) for n in range(200)]
    with engine.begin() as connection:
        copy_new(connection, schema.interactions, [*rows, *[("other", *row[1:]) for row in rows]])
        query = sa.select(schema.interactions.c.seq).where(run_state.events_of("r", "u3"))
        assert sorted(connection.execute(query).scalars()) == list(range(20))
        if engine.dialect.name == "sqlite":
            compiled = query.compile(engine, compile_kwargs={"literal_binds": True})
            plan = [str(row[3]) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}")]
            assert "SEARCH stored_interactions USING PRIMARY KEY (run=? AND epoch=? AND user=?)" in plan
        assert connection.execute(sa.delete(schema.interactions).where(run_state.events_of("r", "u3"))).rowcount == 20
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.interactions)).scalar_one() == 380


@pytest.mark.parametrize("write", ["copy", "insert"])
def test_rows_that_are_there_already_are_skipped_and_not_counted(engine: sa.Engine, write: str) -> None:
    def put(connection: sa.Connection, rows: list[tuple[Any, ...]]) -> int:
        if write == "copy":
            return copy_new(connection, schema.interactions, rows)
        names = [column.name for column in schema.interactions.columns]
        return insert_new(connection, schema.interactions, [dict(zip(names, row, strict=True)) for row in rows])

    with engine.begin() as connection:
        assert put(connection, []) == 0
        assert put(connection, [interaction("u", 0), interaction("u", 1)]) == 2
        again = [interaction("u", 1, item=8), interaction("u", 2), interaction("u", 2, item=9), interaction("v", 1)]
        assert put(connection, again) == 2
        i = schema.interactions.c
        items = connection.execute(sa.select(i.user, i.seq, i.item).order_by(i.user, i.seq)).all()
    assert [tuple(row) for row in items] == [("u", 0, 7), ("u", 1, 7), ("u", 2, 7), ("v", 1, 7)]


def test_a_transaction_that_fails_leaves_nothing(engine: sa.Engine) -> None:
    def fail() -> None:
        with engine.begin() as connection:
            copy_new(connection, schema.interactions, [interaction("u", 0)])
            raise RuntimeError("the process ends here")

    with pytest.raises(RuntimeError):
        fail()
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.interactions)).scalar_one() == 0


def test_many_rows_replace_those_of_their_keys(engine: sa.Engine) -> None:
    def state(user: str, epoch: int) -> tuple[object, ...]:
        return "r", "device", user, epoch, bytes([epoch])

    with engine.begin() as connection:
        for rows in ([state("u", 0), state("v", 0)], [state("u", 1), state("w", 1)]):
            assert copy_new(connection, schema.user_snapshots, rows, replace=True) == 2
        found = connection.execute(sa.select(schema.user_snapshots).order_by(schema.user_snapshots.c.user)).all()
    assert [tuple(row) for row in found] == [state("u", 1), state("v", 0), state("w", 1)]


def test_upsert_overwrites_by_primary_key(engine: sa.Engine) -> None:
    row = {"run": "r", "role": "recorder", "epoch": 1, "time": 10, "over": False}
    with engine.begin() as connection:
        upsert(connection, schema.progress, [row])
        upsert(connection, schema.progress, [row | {"epoch": 2, "over": True}])
        (found,) = connection.execute(sa.select(schema.progress)).mappings()
        unknown = dict.fromkeys(("not_ranked", "forgotten", "forgotten_users", "trimmed"))
        assert dict(found) == row | {"epoch": 2, "over": True} | unknown


def test_what_is_read_as_of_a_time_and_of_an_epoch_is_found_by_an_index(
    servers: Callable[[str], str], request: pytest.FixtureRequest
) -> None:
    url = database_on(servers("postgresql"))
    engine = connect(url)
    request.addfinalizer(engine.dispose)
    names = [f"r{n}" for n in range(10)]
    with engine.begin() as connection:
        for run in names:
            rows = [(run, n // 100, f"u{n % 97}", n, n % 31, 1, 1000 + n, 1000 + n, 0) for n in range(3000)]
            copy_new(connection, schema.interactions, rows)
            ranked = [
                row_of_each_type(schema.outcomes, 1) | {"run": run, "seq": n, "time": 1000 + n} for n in range(900)
            ]
            insert_new(connection, schema.outcomes, [r | {"epoch": n // 30} for n, r in enumerate(ranked)])
    asked: list[tuple[str, Any]] = []
    with engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
        sa.event.listen(
            engine, "before_cursor_execute", lambda _c, _k, statement, values, *_: asked.append((statement, values))
        )
        Interactions("r3").load(connection, 2)
        assert baseline_ranks(connection, Settings(run="r3"), 900) == {}
        assert RankingQueries(connection, Settings(run="r3"), 1030).count() == 31
    reads = [(q, v) for q, v in asked if "FROM stored_interactions" in q or "FROM outcomes" in q]
    assert len(reads) > 5
    with engine.connect() as connection:
        for query, values in reads:
            plan = "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {query}", values))
            assert "Seq Scan" not in plan.replace("Seq Scan on run_numbers", ""), f"{query}\n{plan}"
            assert "Append" not in plan, plan  # one partition of the outcomes


def test_the_write_ahead_log_of_sqlite_is_cut_back_once_it_is_large(tmp_path: Path) -> None:
    engine = connect(sqlite_url(tmp_path / "a.db"))
    log = tmp_path / "a.db-wal"
    reading = engine.connect()  # an open connection keeps the log from being removed
    with engine.begin() as connection:
        copy_new(connection, schema.interactions, [interaction("u", n) for n in range(1000)])
    written = log.stat().st_size
    cut_write_ahead_log(engine, above=written)
    assert log.stat().st_size == written
    cut_write_ahead_log(engine, above=written - 1)
    assert log.stat().st_size == 0
    assert reading.execute(sa.select(sa.func.count()).select_from(schema.interactions)).scalar_one() == 1000
    reading.close()
    engine.dispose()


def test_sqlite_stores_an_event_in_few_bytes(tmp_path: Path) -> None:
    engine = connect(sqlite_url(tmp_path / "a.db"))
    with engine.begin() as connection:
        run, time = "steam-20261129-170037-4da1", 1_700_000_000_000
        rows = [(run, n // 500, f"player {n % 997}", n // 997, n % 31, 1, time, time, -n) for n in range(20_000)]
        copy_new(connection, schema.interactions, rows)
        pages = connection.exec_driver_sql(
            "SELECT sum(pgsize) FROM dbstat WHERE name LIKE 'stored_interactions%'"
        ).scalar_one()
    engine.dispose()
    assert pages / len(rows) < 60


def test_changes_are_seen_once_and_those_of_other_processes_only_after_their_commit(
    engine: sa.Engine, database_url: str
) -> None:
    other = connect(database_url)
    with DatabaseChanges(engine) as changes, other.connect() as connection:
        assert changes.changed()  # whatever was there before
        assert not changes.changed()
        insert_new(connection, schema.items, [{"run": "r", "item": 1, "name": "1"}])
        begun = changes.changed()  # PostgreSQL may report a transaction that begins as well
        assert not begun or engine.dialect.name == "postgresql"
        connection.commit()
        assert changes.changed()
        assert not changes.changed()
    other.dispose()


def test_a_commit_before_a_wait_ends_it_at_once(engine: sa.Engine) -> None:
    never = threading.Event()
    with DatabaseChanges(engine) as changes:
        changes.changed()
        with engine.begin() as connection:
            insert_new(connection, schema.items, [{"run": "r", "item": 1, "name": "1"}])
        changes.wait(never, 1e-3, most_s=3600.0)


def test_looks_become_rarer_while_nothing_changes_and_frequent_again_after_a_change(engine: sa.Engine) -> None:
    class Pauses(threading.Event):
        now = 0.0
        taken: list[float] = []  # noqa: RUF012 - of this test alone

        def wait(self, timeout: float | None = None) -> bool:
            self.taken.append(timeout or 0.0)
            self.now += timeout or 0.0
            return False

    stop = Pauses()
    with DatabaseChanges(engine, lambda: stop.now) as changes:
        changes.changed()
        changes.wait(stop, 0.01, most_s=60.0)
        assert stop.taken[:2] == [0.01, 0.01]
        assert stop.taken == sorted(stop.taken)
        assert stop.taken[-1] == 0.25
        with engine.begin() as connection:
            insert_new(connection, schema.items, [{"run": "r", "item": 1, "name": "1"}])
        assert changes.changed()
        changes.wait(stop, 0.01, most_s=0.005)
        assert stop.taken[-1] == 0.01


def test_changes_are_watched_again_after_an_outage(engine: sa.Engine) -> None:
    with DatabaseChanges(engine) as changes:
        changes.changed()
        assert changes._connection is not None
        changes._connection.close()  # as a restart of the server does
        with pytest.raises(sa.exc.SQLAlchemyError):
            changes.changed()
        assert changes.changed()  # something may have been missed
        assert not changes.changed()


def test_the_size_of_tables_is_known_and_on_postgresql_that_of_each_with_its_partitions(database_url: str) -> None:
    engine = connect(database_url)
    with engine.begin() as connection:
        rows = [{"run": "a", "item": n, "name": str(n)} for n in range(100)]
        connection.execute(sa.insert(schema.items), rows)
    with engine.connect() as connection:
        sizes = {size.table: size for size in table_sizes(connection)}
    if engine.dialect.name == "sqlite":
        assert list(sizes) == ["all"]
        assert sizes["all"].bytes >= 4096
    else:
        assert set(sizes) == {*schema.public_tables(), schema.run_numbers.name}
        assert sizes["items"].bytes > 0
        assert sizes["outcomes"].bytes >= 8 * 8192, "of eight partitions"
    engine.dispose()


def test_tables_of_a_newer_version_are_refused_with_a_sentence(database_url: str) -> None:
    engine = connect(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'r9999'")
    engine.dispose()
    for opened in (connect, connect_to_existing):
        with pytest.raises(DatabaseUrlError, match=r"newer version of mc2sf, or of another program .revision r9999."):
            opened(database_url)
