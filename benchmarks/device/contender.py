"""One contender as a process: `python -m benchmarks.device.contender WHICH NOTES`, settings from the environment."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.device import stopwatch
from streams.settings import Settings


def main(which: str, notes: Path) -> None:
    """Run `worker`, `naive` or `quix` until it is stopped; its progress is written to `notes`."""
    settings = Settings()
    stopwatch.start(notes)
    sys.argv = sys.argv[:1]  # Faust would parse the other arguments
    if which == "worker":
        from streams.device import worker  # noqa: PLC0415 - each contender loads its own

        worker.main()
    elif which == "naive":
        from benchmarks.device import naive  # noqa: PLC0415

        app = naive.build(settings)
        app.finalize()
        # at WARN, Faust's spinner formats all DEBUG records: neither the worker nor this process has it
        app.Worker(loglevel="INFO").execute_from_commandline()
    else:
        from benchmarks.device import quix  # noqa: PLC0415

        quix.build(settings).run()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
