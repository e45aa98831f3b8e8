"""Pages of what a run leaves behind: the tables of the database, and summary.json."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from deploy.reference.markdown import Page, code, prose, sentence
from deploy.report import summary as types
from deploy.report.intervals import Intervals, MetricDifference, MetricInterval, VariantDifference
from replay.prepare.log_account import Account, Finding
from replay.prepare.plan import Contents, LogDescription
from streams.database import schema


def tables() -> Page:
    """Return the page of tables. A column's description is its `doc`, or else its comment."""
    page = Page.titled(
        "Tables",
        prose(schema) + " Types are those of PostgreSQL; * marks the columns of the primary key. The"
        " [tutorial](../tutorial.md) evaluates a run with queries of its own.",
    )
    for name, table in sorted((schema.public_tables() | {schema.run_numbers.name: schema.run_numbers}).items()):
        described = str(table.info.get("doc", ""))
        behind = f" A view of `{table.name}`." if name != table.name else ""
        page.section(name, sentence(described) + behind)
        if not described:
            page.missing.append(name)
        page.table(("column", "type", "meaning"), (_column(column) for column in table.columns))
    return page


def _column(column: sa.Column[object]) -> tuple[str, str, str]:
    of_view = sa.String(64) if isinstance(column.type, schema.RunNumber) else column.type
    kind = of_view.compile(dialect=postgresql.dialect()).lower()  # type: ignore[no-untyped-call]  # as SQLAlchemy has it
    null = ", null" if column.nullable else ""
    name = code(column.name) + ("*" if column.primary_key else "")
    return name, kind + null, sentence(column.doc or column.comment or "")


def summary() -> Page:
    """Return the page of summary.json."""
    page = Page.titled(
        "summary.json",
        prose(types) + " Every `mc2sf run` writes it into its `--out` folder, also if the run fails because events are"
        " missing. [summary.schema.json](../summary.schema.json) is the same as a JSON Schema.",
    )
    definitions = msgspec.json.schema(types.Summary)["$defs"]
    kinds = (types.Summary, types.Quality, types.ReleaseEntry, types.Latency, types.Bytes, types.Experiment)
    of_log = (LogDescription, Contents, Account, Finding)
    for kind in (*kinds, *of_log, Intervals, VariantDifference, MetricDifference, MetricInterval):
        definition = definitions[kind.__name__]
        page.section("Fields" if kind is types.Summary else kind.__name__, definition["description"])
        described = kind in (types.Summary, types.Bytes, types.Experiment, Intervals)
        rows = (
            (code(name), _json_type(each), each.get("description", ""))
            for name, each in definition["properties"].items()
        )
        page.table(
            ("field", "type", "meaning") if described else ("field", "type"),
            rows if described else (r[:2] for r in rows),
        )
    return page


def _json_type(definition: dict[str, object]) -> str:
    """Return a JSON type in words."""
    match definition:
        case {"$ref": str(name)}:
            words = name.rpartition("/")[2]
        case {"anyOf": list(choices)}:
            words = " or ".join(dict.fromkeys(_json_type(choice) for choice in choices))
        case {"type": "object", "additionalProperties": dict(inner)}:
            words = f"object of {_json_type(inner)}"
        case {"type": "array", "items": dict(inner)}:
            words = f"list of {_json_type(inner)}"
        case {"enum": list(values)}:
            words = " or ".join(map(str, values))
        case _:
            words = str(definition["type"])
    return words
