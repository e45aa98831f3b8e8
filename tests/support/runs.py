"""A fabricated finished run in a folder, for tests of readers of such folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import sqlalchemy as sa
from pydantic import SecretStr

from deploy.report.summary import Summary
from deploy.runs import write_run_file
from streams.database import schema
from streams.database.engine import connect, sqlite_url
from streams.settings import Settings
from tests.support.report import put

CLICKS = 8  # per user
LIST = np.arange(100).tobytes()  # a candidate list


def outcomes(run: str, *, seed: int = 1, users: int = 60, best: int = 20) -> list[dict[str, Any]]:
    """Return clicks on which `mc2sf` ranks no lower than `best`, and the other variants at random."""
    draw = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        for seq in range(CLICKS):
            ranks = {name: int(draw.integers(1, 101)) for name in ("fast", "din", "popularity", "random")}
            ranks["mc2sf"] = int(draw.integers(1, best + 1))
            row = {"run": run, "user": f"u{user}", "seq": seq, "time": 10 * seq + user, "target": seq, "ranks": ranks}
            rows.append(row | {"candidates": LIST, "slate": "sampled"})
    return rows


def finished(folder: Path, summary: Summary, rows: list[dict[str, Any]], status: str = "finished") -> Path:
    """Write a run into `folder` as `mc2sf run` does."""
    folder.mkdir(parents=True)
    settings = Settings(run=summary.run, database=SecretStr(sqlite_url(folder / "mc2sf.db")))
    write_run_file(folder, settings, summary.source)
    engine = connect(settings.database.get_secret_value())
    row = {"run": summary.run, "source": summary.source, "settings": settings.semantic(), "status": status}
    with engine.begin() as connection:
        connection.execute(
            sa.insert(schema.runs).values(**row, created_wall=1, versions={}, summary=msgspec.to_builtins(summary))
        )
        if rows:
            put(connection, schema.outcomes, rows)
    engine.dispose()
    return folder
