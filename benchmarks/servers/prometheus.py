"""A Prometheus of its own, and rules whose durations are divided, so that minutes become seconds."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import yaml
from tenacity import retry, stop_after_delay, wait_fixed

from deploy.local import loopback
from deploy.local.broker import free_port

_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000, "y": 31_536_000_000}
# names and strings are matched as a whole, so that nothing within them (errors:ratio_rate5m, "10m") is a duration;
# the limit of an age is a number, since Prometheus before 3 knows no durations there
_TOKEN = re.compile(
    r"""(?P<age>[a-zA-Z_][\w:]*:seconds\s*[<>]=?\s*)(?P<limit>\d+)|"""
    r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[a-zA-Z_][\w:]*|"""
    r"""(?P<duration>(?:\d+(?:ms|[smhdwy]))+)|\d+(?:\.\d+)?"""
)


def divided(duration: str, factor: float) -> str:
    """Return a duration as Prometheus writes it (`1h30m`) divided by `factor`, at least a millisecond."""
    parts = re.findall(r"(\d+)(ms|[smhdwy])", duration)
    return f"{max(1, round(sum(int(number) * _MS[unit] for number, unit in parts) / factor))}ms"


def divided_expression(expression: str, factor: float) -> str:
    """Return PromQL with ranges, offsets and limits of series `...:seconds` divided by `factor`."""

    def token(found: re.Match[str]) -> str:
        if found["duration"]:
            return divided(found["duration"], factor)
        if found["limit"]:
            return f"{found['age']}{float(found['limit']) / factor}"
        return found[0]

    return _TOKEN.sub(token, expression)


def divided_rules(rules: Path, factor: float) -> str:
    """Return a file of rules with every duration divided by `factor`."""
    document = yaml.safe_load(rules.read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            rule["expr"] = divided_expression(rule["expr"], factor)
            if "for" in rule:
                rule["for"] = divided(rule["for"], factor)
    return yaml.safe_dump(document, sort_keys=False)


class Prometheus:
    """A server that scrapes the processes in `targets` (file-based discovery). A context: stopped at its end."""

    def __init__(
        self,
        folder: Path,
        targets: Path,
        rules: Sequence[Path] = (),
        *,
        factor: float = 1.0,
        scrape_ms: int = 250,
        program: str = "prometheus",
    ) -> None:
        """`folder` is made for its data and log; durations in `rules` are divided by `factor`."""
        self._folder, self._targets, self._rules, self._factor, self._program = folder, targets, rules, factor, program
        self._scrape_ms = scrape_ms
        self._address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self._address}"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        files = []
        for path in self._rules:
            files.append(self._folder / path.name)
            files[-1].write_text(divided_rules(path, self._factor))
        config = self._folder / "prometheus.yml"
        found = f"file_sd_configs: [{{files: [{self._targets}], refresh_interval: 1s}}]"
        config.write_text(
            f"global: {{scrape_interval: {self._scrape_ms}ms, scrape_timeout: {self._scrape_ms}ms, "
            "evaluation_interval: 250ms}\n"
            f"rule_files: {json.dumps([str(path) for path in files])}\n"
            f"scrape_configs:\n  - job_name: run\n    {found}\n"
        )
        command = [self._program, f"--config.file={config}", f"--storage.tsdb.path={self._folder / 'data'}"]
        with (self._folder / "log").open("wb") as log:
            process = subprocess.Popen([*command, f"--web.listen-address={self._address}"], stdout=log, stderr=log)
        with ExitStack() as started:
            started.callback(process.wait, 30)
            started.callback(process.terminate)
            retry(stop=stop_after_delay(30), wait=wait_fixed(0.1))(loopback.get)(self._address, "/-/ready", 2.0)
            self._stack = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def value(self, query: str) -> float | None:
        """Return the first value of a query; None if there is none."""
        found = self._get(f"query?query={urllib.parse.quote(query)}")["result"]
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> list[dict[str, str]]:
        """Return the labels of the alerts that fire, with their name as `alertname`."""
        return [alert["labels"] for alert in self._get("alerts")["alerts"] if alert["state"] == "firing"]

    def _get(self, path: str) -> Any:
        return json.loads(loopback.get(self._address, f"/api/v1/{path}", 30.0))["data"]
