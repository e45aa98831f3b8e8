"""`mc2sf dashboard`: the live page of a run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.options import HostOption, RunArgument
from deploy.console import terminal

console = terminal()


def dashboard(
    run: RunArgument,
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port.")] = 0,
    targets: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Metrics addresses of the processes, in the format of Prometheus' file-based service discovery.  "
            "[default: logs/targets.json of the run]",
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of a gateway's tokens; those of admins may use the controls.  [default: a new token]",
        ),
    ] = None,
) -> None:
    """Serve the live page of a run, and print its address.

    The page shows flow, quality, releases and processes of a running or finished run. The controls of replay and
    releases and the data of a user need a token. Ctrl-C stops the page, not the run.
    """
    from deploy.dashboard.serving import admin_of, live_page, print_address
    from deploy.runs import find

    admits = admin_of(tokens) if tokens else None
    with live_page(find(run), host=host, port=port, targets=targets, admits=admits) as address:
        print_address(console, address)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            console.print()
