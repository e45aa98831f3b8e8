"""The table of small logs as people have them, in docs/log-cases.md: each row is a command and what it gives."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.support.command import Command

PAGE = Path(__file__).parents[2] / "docs" / "log-cases.md"
BEGIN = "| log | situation | result |\n|---|---|---|\n"  # the last table of the page


@dataclass(frozen=True)
class Case:
    """A row of the table: SOURCE with its options, as code; what is special in it; and what it gives."""

    command: str
    situation: str
    result: str

    @property
    def file(self) -> str:
        """Name of the file or folder."""
        return shlex.split(self.command)[0].partition(":")[2].partition("/")[0]

    def line(self, result: str | None = None) -> str:
        """The row as Markdown, with another result if one is given."""
        return f"| `{self.command}` | {self.situation} | {result or self.result} |"


def cases() -> list[Case]:
    """Return the rows of the table."""
    table = PAGE.read_text().partition(BEGIN)[2]
    cells = [line.strip("| \n").split(" | ") for line in table.splitlines()]
    return [Case(command.strip("`"), situation, result) for command, situation, result in cells]


def outcome(mc2sf: Command, folder: Path, command: str) -> str:
    """Return what `mc2sf data inspect` says of a log in `folder`, in a line."""
    source, *options = shlex.split(command)
    scheme, _, file = source.partition(":")
    done = mc2sf("data", "inspect", f"{scheme}:{folder / file}", "--json", *options)
    if done.returncode == 2:
        return done.stderr.strip().replace(f"{folder}/", "").replace("|", "\\|")
    log = json.loads(done.stdout)
    counts = {name.replace("_", " "): log["contents"][name] for name in ("users", "items", "clicks", "exposures")}
    counts |= {"past clicks": log["contents"]["past_clicks"], "impressions": log["contents"]["impressions"]}
    parts = [", ".join(f"{count} {name}" for name, count in counts.items() if count)]
    refused = [f"{count} {reason}" for reason, count in log["account"]["refused"].items()]
    parts += [f"refused: {', '.join(refused)}"] if refused else []
    parts += [f"`{finding['name']}`" for finding in log["findings"]]
    return "; ".join(parts)
