"""Parts of the schema: the key by run, column types, and tables that name their run by a number.

The tables themselves: streams/database/schema.py.
"""

from __future__ import annotations

from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

T = TypeVar("T")
metadata = sa.MetaData()
BIG, INTEGER, SMALL, FLOAT, BOOL = sa.BigInteger(), sa.Integer(), sa.SmallInteger(), sa.Float(), sa.Boolean()
TEXT, NAME, WORD, BYTES, DOCUMENT = sa.String(), sa.String(32), sa.String(16), sa.LargeBinary(), sa.JSON()


def key(name: str, kind: TypeEngine[T], doc: str) -> sa.Column[T]:
    """Return a column of the primary key."""
    return sa.Column(name, kind, primary_key=True, autoincrement=False, doc=doc)


def value(name: str, kind: TypeEngine[T], doc: str) -> sa.Column[T]:
    """Return a column without nulls."""
    return sa.Column(name, kind, nullable=False, doc=doc)


def optional(name: str, kind: TypeEngine[T], doc: str) -> sa.Column[T]:
    """Return a column that may be null."""
    return sa.Column(name, kind, doc=doc)


class RunNumber(sa.types.TypeDecorator[str]):
    """A run, stored as its number in `run_numbers`: a name would be half of a row. Statements give and get the name."""

    impl = sa.Integer
    cache_ok = True

    def bind_expression(self, bindparam: sa.BindParameter[str]) -> sa.ColumnElement[str]:
        """Return the number of a run in place of its name; null if it has none."""
        return sa.type_coerce(number_of(sa.type_coerce(bindparam, sa.String())).scalar_subquery(), sa.String())

    def column_expression(self, column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
        """Return the name of a run in place of its number."""
        return sa.select(run_numbers.c.run).where(run_numbers.c.number == column).scalar_subquery()


def recorded() -> sa.Column[int]:
    """Return the column with the time of recording."""
    return value("recorded_wall", BIG, "wall clock of recording, ms")


# Explanations are `info` and `doc`: comments would be part of the schema, and each change of words a migration.
def table(name: str, doc: str, *columns: SchemaItem, rowid: bool = True) -> sa.Table:
    """Return a table keyed by run. Without `rowid` SQLite stores the rows in the tree of the key, not beside it."""
    run = key("run", sa.String(64), "name of the run")
    return sa.Table(name, metadata, run, *columns, info={"doc": doc}, sqlite_with_rowid=rowid)


def stored(view: str, doc: str, *columns: SchemaItem, rowid: bool = False) -> sa.Table:
    """Return the table behind a view, which has the same columns with the name of the run."""
    run = key("run", RunNumber(), "name of the run")
    info = {"doc": doc, "view": view}
    table = sa.Table(f"stored_{view}", metadata, run, *columns, info=info, sqlite_with_rowid=rowid)
    table.add_is_dependent_on(run_numbers)
    return table


def public_name(table: sa.Table) -> str:
    """Return the name under which a table is read by SQL: that of its view, or its own."""
    return str(table.info.get("view", table.name))


def public_tables() -> dict[str, sa.Table]:
    """Return what holds the data of runs by public name: all tables but `run_numbers`."""
    tables = {public_name(table): table for table in metadata.sorted_tables if table is not run_numbers}
    return dict(sorted(tables.items()))


run_numbers = sa.Table(
    "run_numbers",
    metadata,
    sa.Column("number", INTEGER, primary_key=True, doc="number of the run in the `stored_` tables"),
    sa.Column("run", sa.String(64), unique=True, nullable=False, doc="name of the run"),
    info={"doc": "The number of each run in this database."},
)


def number_of(run: sa.ColumnElement[str]) -> sa.Select[int]:
    """Return the query for the number of a run, given by name."""
    return sa.select(run_numbers.c.number).where(run_numbers.c.run == run)
