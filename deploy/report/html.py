"""report.html: a run on one page, from its summary and its tables. Style, script and pictures are inside the file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import jinja2
import sqlalchemy as sa

from deploy.report import timeline
from deploy.report.figures import figures
from deploy.report.flow import Edge, Flow
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
            "flow": _flow(summary, connection, run, row.source),
            "variants": ordered(summary.online),
            "metrics": METRICS,
            "first": moment(axis.first) if line else "",
            "last": moment(axis.last) if line else "",
        }
    out.write_text(environment().get_template("report.html.j2").render(context), encoding="utf-8")
    return out


def _flow(summary: Summary, connection: sa.Connection, run: str, source: str) -> Flow:
    requests, expired = summary.rank_requests, summary.expired
    releases = timeline.count(connection, run, schema.releases)
    uploads = number(timeline.count(connection, run, schema.click_uploads))
    sent, applied, r2, outcomes = map(
        number, (summary.events_sent, summary.events_applied, summary.r2_uploads, summary.outcomes)
    )
    return Flow(
        f"{sent} events sent by replay, {applied} applied by the device, {r2} negative memories and {number(requests)} "
        f"requests sent to the cloud, {outcomes} outcomes recorded, {releases} releases.",
        {
            "replay": source.partition(":")[0],
            "device": "short histories, r2",
            "cloud": "delayed histories",
            "recorder": f"{number(summary.dead_letters)} dead letters",
            "retrain": "encoder and slow part",
            "coordinator": f"{releases} releases",
            "learner": "fast part, online",
        },
        Edge(sent, "events"),
        Edge(f"{r2} r2 · {uploads} click uploads · {number(requests)} requests", f"{size(summary.bytes.up)} up"),
        Edge(f"{number(None if requests is None else requests - expired)} answers", f"{size(summary.bytes.down)} down"),
        Edge(outcomes, "outcomes"),
        Edge(number(summary.outcomes - expired), "examples"),
        Edge(number(timeline.count(connection, run, schema.interactions)), "rows of events"),
        Edge(f"{releases} releases", "to device and cloud"),
    )


def moment(ms: int) -> str:
    """Return a time in ms as a date and time in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def score(value: float | None) -> str:
    """Return a metric from 0 to 1 as text."""
    return "-" if value is None else f"{value:.4f}"


def signed(value: float | None) -> str:
    """Return a difference as text with its sign."""
    return "-" if value is None else f"{value:+.4f}"


def size(value: float | None) -> str:
    """Return a number of bytes as text."""
    if value is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if abs(value) < 1000:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"


def number(value: object) -> str:
    """Return a number as text with at most four digits after its first, other values as they are."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def environment(*folders: Path) -> jinja2.Environment:
    """Return an environment of the report's templates, and of those in `folders`, which escapes every value."""
    loader = jinja2.FileSystemLoader([*folders, _PAGES])
    made = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    made.filters |= {"number": number, "size": size, "moment": moment, "score": score, "signed": signed}
    return made
