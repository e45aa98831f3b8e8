"""Draw all committed figures again from the committed results: `python -m benchmarks.figures`."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.training import increment
from deploy.experiments.results import page, result

PAPER = Path(__file__).with_name("paper")


def main() -> None:
    """Write the figures and the page of the paper's results, the schema of these files, and the increment's figure."""
    page.write(PAPER, redraw=True)
    (PAPER / "schema.json").write_text(result.schema(), encoding="utf-8")
    rows = json.loads(increment.RESULT.read_text())["rows"]
    increment.RESULT.with_suffix(".svg").write_text(increment.draw(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
