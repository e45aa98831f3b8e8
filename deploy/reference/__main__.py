"""Write the generated pages below docs: `python -m deploy.reference [DOCS]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.reference.pages import generate


def main(docs: Path) -> None:
    """Write every generated page. Ends with exit code 1 if something that must be described is not."""
    missing = []
    for name, page in generate().items():
        path = docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page.text, encoding="utf-8")
        missing += [f"{name}: {what}" for what in page.missing]
    if missing:
        sys.exit("without a description:\n  " + "\n  ".join(missing))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the generated pages.")
    parser.add_argument("docs", type=Path, nargs="?", default=Path("docs"), help="folder of the pages")
    main(parser.parse_args().docs)
