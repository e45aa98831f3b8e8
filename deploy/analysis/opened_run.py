"""A run opened for analysis: its summary, its tables as data frames, its metrics with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec
import pyarrow as pa
import sqlalchemy as sa

from deploy.analysis import tables
from deploy.report.intervals import Intervals, intervals
from deploy.report.summary import Summary
from deploy.runs import find, find_in
from deploy.user_error import UserError
from streams.database import schema
from streams.prequential.ranked_clicks import RankedClicks, ranked_clicks

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from streams.rescoring.rescore import OfflineResult


class Run:
    """A run, found by its --out folder, its id, or the URL of its database and, if that holds several, its id.

    Raises UserError if there is none. It holds a connection to the database: use it in a `with`, or `close` it.
    """

    def __init__(self, name: str | Path, run: str | None = None) -> None:
        self._found = find_in(str(name), run) if "://" in str(name) else find(str(name))
        self.id = self._found.settings.run
        self.source = self._found.source
        self.folder = self._found.folder
        self.settings = self._found.settings.semantic()

    def __repr__(self) -> str:
        return f"<Run {self.id} of {self.source}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection to the database."""
        self._found.engine.dispose()

    @property
    def summary(self) -> Summary:
        """The contents of `summary.json`. Raises UserError if the run is not over."""
        r = schema.runs.c
        with self._found.engine.connect() as connection:
            summary = connection.execute(sa.select(r.summary).where(r.run == self.id)).scalar_one()
        if summary is None:
            raise UserError(f"run {self.id} is not over: it has no summary yet")
        return msgspec.convert(summary, Summary)

    @property
    def tables(self) -> list[str]:
        """The names of the tables."""
        return list(schema.public_tables())

    def meanings(self, table: str) -> dict[str, str]:
        """Return the meaning of each column of a table, with its unit."""
        return tables.meanings(table)

    def arrow(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the run's rows of a table: items by name, times as timestamps, codes as words.

        Raises UserError if there is no such table or column.
        """
        with self._found.engine.connect() as connection:
            return tables.read(connection, self.id, table, columns)

    def polars(self, table: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return `arrow` as a frame of polars. Raises UserError if polars is not installed."""
        try:
            import polars as pl  # noqa: PLC0415 - an optional dependency
        except ImportError as error:
            raise UserError("frames of polars need it: pip install 'mc2sf[analysis]'") from error
        return pl.DataFrame(self.arrow(table, columns))

    def pandas(self, table: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return `arrow` as a frame of pandas. Raises UserError if pandas is not installed."""
        try:
            import pandas as pd  # noqa: F401, PLC0415 - an optional dependency, used by pyarrow
        except ImportError as error:
            raise UserError("frames of pandas need it: pip install pandas") from error
        return self.arrow(table, columns).to_pandas()

    def clicks(self) -> RankedClicks:
        """Return the ranked clicks as arrays: users, times and the rank of each variant."""
        with self._found.engine.connect() as connection:
            return ranked_clicks(connection, self.id)

    def intervals(self, subset: str = "all") -> Intervals:
        """Return the 95 % intervals of all metrics, and of the differences between variants on the same clicks."""
        clicks = self.clicks()
        if subset not in clicks.subsets:
            raise UserError(f"there is no subset {subset!r}, but {', '.join(clicks.subsets)}")
        return intervals(clicks.select(clicks.subsets[subset]))

    def evaluate(self, *, as_of: datetime | None = None, release: int | None = None) -> OfflineResult:
        """Rank every click again from the tables, up to event time `as_of`, or with another release.

        A time without a zone is UTC. Raises ReleaseError if the release is incomplete or missing.
        """
        from streams.rescoring.rescore import rescore  # noqa: PLC0415 - loads torch

        if as_of is not None and as_of.tzinfo is None:
            as_of = as_of.replace(tzinfo=UTC)
        until = None if as_of is None else round(as_of.timestamp() * 1000)
        return rescore(self._found.engine, self.id, as_of=until, release=release, processes=1)
