"""Sizes of the tables, as cheaply as the database gives them."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from streams.database import schema

_OF_POSTGRES = sa.text(
    "SELECT c.relname, coalesce(sum(greatest(p.reltuples, 0)), 0), sum(pg_total_relation_size(p.oid)) FROM pg_class c "
    "LEFT JOIN pg_inherits i ON i.inhparent = c.oid JOIN pg_class p ON p.oid = coalesce(i.inhrelid, c.oid) "
    "WHERE c.relname = ANY(:tables) AND c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) GROUP BY c.relname"
)
_OF_SQLITE = sa.text("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")
WHOLE = "all"


class TableSize(NamedTuple):
    """A table, its rows (an estimate; None if there is none) and its size with indexes, bytes."""

    table: str
    rows: int | None
    bytes: int


def table_sizes(connection: sa.Connection) -> list[TableSize]:
    """Return the size of each table, of all runs together; on SQLite only that of the file, as the table `all`."""
    if connection.dialect.name == "sqlite":
        return [TableSize(WHOLE, None, int(connection.execute(_OF_SQLITE).scalar_one()))]
    found = connection.execute(_OF_POSTGRES, {"tables": list(schema.metadata.tables)})
    names = {table.name: schema.public_name(table) for table in schema.metadata.sorted_tables}
    return [TableSize(names[str(table)], int(rows), int(size)) for table, rows, size in found]
