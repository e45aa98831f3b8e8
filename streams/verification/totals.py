"""Comparison of a whole run's counts and metrics with the totals over its users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy import Connection

from streams.database import schema
from streams.verification import reference_ranking
from streams.verification.differences import require_equal


def check_counts(connection: Connection, run: str, outcomes: int, memories: int, uploads: int, not_ranked: int) -> None:
    """Check the number of rows, so that no user outside the log has any, and the number of clicks not ranked."""
    for table, count in (
        (schema.outcomes, outcomes),
        (schema.negative_memories, memories),
        (schema.click_uploads, uploads),
    ):
        query = sa.select(sa.func.count()).select_from(table).where(table.c.run == run)
        require_equal("", "all", f"rows of {table.name}", connection.execute(query).scalar_one(), count)
    p = schema.progress.c
    recorded = connection.execute(sa.select(p.not_ranked).where(p.run == run)).scalar_one()
    require_equal("", "all", "clicks not ranked", recorded or 0, not_ranked)


def check_metrics(connection: Connection, run: str, ranks: Mapping[str, Sequence[int]]) -> dict[str, dict[str, float]]:
    """Return the means of the recomputed ranks by variant. Raises DifferenceFound if the last points differ."""
    p, means = schema.metric_points.c, {}
    last = sa.select(sa.func.max(p.epoch)).where(p.run == run).scalar_subquery()
    where = (p.run == run) & (p.epoch == last) & (p.subset == "all") & (p.form == "cumulative")
    for row in connection.execute(sa.select(schema.metric_points).where(where)):
        means[row.variant] = reference_ranking.means(ranks[row.variant])
        for name, value in means[row.variant].items():
            require_equal("", row.variant, name, getattr(row, name.replace("@", "_")), value)
    return means
