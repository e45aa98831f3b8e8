"""report.html: a run on one page, from its summary and its tables. Style, script and pictures are inside the file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import jinja2
import sqlalchemy as sa

from deploy.report import timeline
from deploy.report.figures import figures
from deploy.report.summary import METRICS, Summary
from deploy.report.variants import ordered
from streams.database import schema

_PAGES = Path(__file__).parent / "pages"


def write(summary: Summary, engine: sa.Engine, run: str, out: Path) -> Path:
    """Write the report of `run` to `out` and return it. Raises LookupError if the run is not in the tables."""
    with engine.connect() as connection:
        row = connection.execute(sa.select(schema.runs).where(schema.runs.c.run == run)).one_or_none()
        if row is None:
            raise LookupError(f"no run {run!r} in these tables")
        line = timeline.epochs(connection, run)
        axis = timeline.axis(connection, run, line)
        context: dict[str, object] = {
            "summary": summary,
            "run": run,
            "source": row.source,
            "created": moment(row.created_wall),
            "settings": {**row.settings, **summary.settings},
            "versions": summary.versions,
            "figures": figures(connection, run, line, axis),
            "releases": timeline.releases(connection, run),
            "decisions": timeline.decisions(connection, run),
            "drifts": timeline.drifts(connection, run),
            "slates": timeline.slates(connection, run),
            "click_uploads": timeline.count(connection, run, schema.click_uploads),
            "interactions": timeline.count(connection, run, schema.interactions),
            "variants": ordered(summary.online),
            "metrics": METRICS,
            "first": moment(axis.first) if line else "",
            "last": moment(axis.last) if line else "",
        }
    out.write_text(_environment().get_template("report.html.j2").render(context), encoding="utf-8")
    return out


def moment(ms: int) -> str:
    """Return a time in ms as a date and time in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _size(value: float | None) -> str:
    if value is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if abs(value) < 1000:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"


def _number(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": _number, "size": _size, "moment": moment, "score": _score, "signed": _signed}
    return environment
