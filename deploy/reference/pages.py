"""Every generated page, by its path below docs."""

from __future__ import annotations

from deploy.reference.commands import commands
from deploy.reference.markdown import Page
from deploy.reference.process import metrics, settings
from deploy.reference.results import summary, tables
from deploy.reference.stream import records, topics
from deploy.report.summary import json_schema


def generate() -> dict[str, Page]:
    """Return all pages."""
    return {
        "reference/topics.md": topics(),
        "reference/records.md": records(),
        "reference/tables.md": tables(),
        "reference/metrics.md": metrics(),
        "reference/settings.md": settings(),
        "reference/commands.md": commands(),
        "reference/summary.md": summary(),
        "summary.schema.json": Page(json_schema().decode()),
    }
