"""duckdb connections with bounded memory, and paths as SQL literals."""

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


def quoted(path: Path) -> str:
    """Return the path as an SQL literal."""
    return "'" + str(path).replace("'", "''") + "'"
