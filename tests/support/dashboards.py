"""The Grafana dashboards and the PromQL queries of their panels."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"
_METRIC = re.compile(r"(?<![\w:\"$@])(?:mc2sf|process)_[a-z0-9_]+")


@dataclass(frozen=True)
class Query:
    """A PromQL expression of a panel, its variables filled in."""

    dashboard: str
    panel: str
    expression: str

    def metrics(self) -> set[str]:
        """Return the names of the metrics that it reads."""
        return set(_METRIC.findall(self.expression))


def dashboards(folder: Path = FOLDER) -> Iterator[dict[str, Any]]:
    """Read the dashboards of a folder."""
    for path in sorted(folder.glob("*.json")):
        yield json.loads(path.read_text())


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the panels of a dashboard that have queries, those inside of rows included."""
    for panel in dashboard["panels"]:
        yield from panels(panel) if panel["type"] == "row" else (panel,)


def queries(folder: Path = FOLDER, rate_interval: str = "1m") -> list[Query]:
    """Return the queries of all panels, one per choice of the variables of the dashboard."""
    found: dict[Query, None] = {}  # without repetitions, in order
    for dashboard in dashboards(folder):
        variables = {v["name"]: [option["value"] for option in v["options"]] for v in dashboard["templating"]["list"]}
        variables["run"] = [".*"]  # Grafana asks Prometheus for its values
        variables.pop("datasource", None)  # it is in no expression
        for panel in panels(dashboard):
            for target in panel["targets"]:
                for choice in itertools.product(*variables.values()):
                    filled = dict(zip(variables, choice, strict=True)) | {"__rate_interval": rate_interval}
                    expression = Template(target["expr"]).substitute(filled)
                    found[Query(dashboard["title"], panel["title"], expression)] = None
    return list(found)
