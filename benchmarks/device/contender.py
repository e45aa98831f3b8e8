"""One contender as a process on the environment's settings: `python -m benchmarks.device.contender WHICH NOTES`."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.device import stopwatch
from streams.settings import Settings


def main(which: str, notes: Path) -> None:
    """Run `worker`, `naive` or `quix` until it is stopped; how far it is goes to `notes`."""
    settings = Settings()
    stopwatch.start(notes)
    sys.argv = sys.argv[:1]  # Faust reads the rest as its own
    if which == "worker":
        from streams.device import worker  # noqa: PLC0415 - each contender loads its own

        worker.main()
    elif which == "naive":
        from benchmarks.device import naive  # noqa: PLC0415

        app = naive.build(settings)
        app.finalize()
        # at WARN, Faust's spinner has all of DEBUG made: the worker is spared it, so is this one
        app.Worker(loglevel="INFO").execute_from_commandline()
    else:
        from benchmarks.device import quix  # noqa: PLC0415

        quix.build(settings).run()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
