"""The Grafana dashboards as data: which questions they put to Prometheus."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

FOLDER = Path(__file__).parents[1] / "grafana" / "dashboards"
_METRIC = re.compile(r"(?<![\w:\"$@])(?:mc2sf|process)_[a-z0-9_]+")


@dataclass(frozen=True)
class Query:
    """A PromQL expression of a panel, its variables filled in."""

    dashboard: str
    panel: str
    expression: str

    def metrics(self) -> set[str]:
        """The names of the metrics that it reads."""
        return set(_METRIC.findall(self.expression))


def dashboards(folder: Path = FOLDER) -> Iterator[dict[str, Any]]:
    """Read the dashboards of a folder."""
    for path in sorted(folder.glob("*.json")):
        yield json.loads(path.read_text())


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Go over the panels of a dashboard that ask something; rows are opened."""
    for panel in dashboard["panels"]:
        yield from panels(panel) if panel["type"] == "row" else (panel,)


def queries(folder: Path = FOLDER, rate_interval: str = "1m") -> list[Query]:
    """Return every query of every panel, once for each choice of the variables of its dashboard."""
    found: dict[Query, None] = {}  # the same question of two panels' choices is asked once
    for dashboard in dashboards(folder):
        variables = {v["name"]: [option["value"] for option in v["options"]] for v in dashboard["templating"]["list"]}
        for panel in panels(dashboard):
            for target in panel["targets"]:
                for choice in itertools.product(*variables.values()):
                    filled = dict(zip(variables, choice, strict=True)) | {"__rate_interval": rate_interval}
                    expression = Template(target["expr"]).substitute(filled)
                    found[Query(dashboard["title"], panel["title"], expression)] = None
    return list(found)
