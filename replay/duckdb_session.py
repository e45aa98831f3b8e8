"""duckdb connections with bounded memory, and the only place that writes a path into SQL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from replay.errors import SourceError

MEMORY = "512MB"


@contextmanager
def database(folder: Path, failed: str = "sorting failed") -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory duckdb that uses at most MEMORY and spills into `folder`.

    Its errors are raised as SourceError with the prefix `failed`.
    """
    with tempfile.TemporaryDirectory(prefix="spill-", dir=folder) as spill:
        connection = duckdb.connect(
            config={"memory_limit": MEMORY, "temp_directory": spill, "threads": 2, "preserve_insertion_order": True}
        )
        try:
            yield connection
        except duckdb.Error as error:
            raise SourceError(f"{failed}: {error}") from error
        finally:
            connection.close()


def integers(connection: duckdb.DuckDBPyConnection, query: str) -> list[int]:
    """Return the only row of a query over integers."""
    (row,) = connection.execute(query).fetchall()
    return [int(value) for value in row]


def quoted(path: Path | str) -> str:
    """Return the path as an SQL literal."""
    return "'" + str(path).replace("'", "''") + "'"


def parquet(path: Path, *, row_numbers: bool = False) -> str:
    """Return SQL that reads one Parquet file, with the column `file_row_number` if asked for.

    No part of the path is interpreted: by default duckdb expands `*`, `?` and `[...]`, and reads a folder named
    `user=alice` as a column. Raises SourceError for a path with a wildcard and a backslash, which duckdb would take for
    a separator.
    """
    text = str(path)
    if set("*?[") & set(text):
        if "\\" in text:
            raise SourceError(f"{text}: a path with a backslash and one of * ? [ can't be read")
        text = "".join(f"[{character}]" if character in "*?[" else character for character in text)
    return f"read_parquet({quoted(text)}, hive_partitioning = false, file_row_number = {str(row_numbers).lower()})"
