"""`mc2sf gateway`: serve live devices over HTTP, and make the tokens by which they are known."""

from __future__ import annotations

import functools
import ssl
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.groups import group
from deploy.cli.options import HostOption
from deploy.console import terminal
from deploy.listening_socket import listen
from deploy.user_error import UserError

app = group("An HTTP gateway for live devices: events in, rankings out.")
console = terminal()
TokensOption = Annotated[Path, typer.Option("--tokens", metavar="FILE", help="File of the tokens' hashes.")]


@app.command()
def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Owner of the token.")],
    tokens: TokensOption,
    ingest: Annotated[bool, typer.Option("--ingest", help="Allow the token to send events.")] = False,
    rank: Annotated[bool, typer.Option("--rank", help="Allow the token to request rankings.")] = False,
    admin: Annotated[bool, typer.Option("--admin", help="Allow the token every request.")] = False,
    user: Annotated[str | None, typer.Option(help="Restrict the token to this user.  [default: any user]")] = None,
) -> None:
    """Create a token and print it. It is shown only once: the file keeps its hash."""
    from deploy.gateway.api.bodies import MAX_NAME
    from deploy.gateway.api.tokens import Scope, add

    scopes: dict[Scope, bool] = {"ingest": ingest, "rank": rank, "admin": admin}
    if not name:
        raise UserError("NAME is empty")
    if user is not None and not 0 < len(user) <= MAX_NAME:
        raise UserError(f"--user: 1 to {MAX_NAME} characters")
    if not any(scopes.values()):
        raise UserError("a token needs at least one of --ingest, --rank and --admin")
    console.out(add(tokens, name, [scope for scope, given in scopes.items() if given], user), highlight=False)


@app.command()
def serve(
    tokens: TokensOption,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="The id of a run, or its --out folder.  [default: the run in the environment]"
        ),
    ] = None,
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8080,
    epoch: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN",
            help="End an epoch every SPAN of wall time (60s, 10m), for a run whose events all come from gateways.  "
            "[default: the replayer ends epochs]",
        ),
    ] = None,
    deadline: Annotated[
        float,
        typer.Option(
            min=0.01, max=60, help="Seconds to wait for the cloud before the fast part's ranking is returned."
        ),
    ] = 0.5,
    rate: Annotated[float, typer.Option(min=0.1, help="Average number of requests per second and token.")] = 1000.0,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM file of the TLS certificate.  [default: no TLS]")
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM file of the certificate's private key.")] = None,
) -> None:
    """Accept events of live devices and rank items for them, in a free-running run.

    An event is accepted once Kafka has acknowledged it. A ranking is computed by device and cloud workers, as for an
    evaluated click. Any number of instances may run. They end when the run does.
    """
    import uvicorn

    from deploy.gateway.serving import gateway
    from replay.times import span

    if (certificate is None) != (key is None):
        raise UserError("--certificate and --key go together")
    if certificate is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password="")
        except OSError as error:  # missing, no PEM, or of two pairs
            raise UserError(f"--certificate {certificate}, --key {key}: {error.strerror}") from error
    try:
        seconds = None if epoch is None else span(epoch) / 1000
    except ValueError as error:
        raise UserError(f"--epoch {epoch!r}: write a span of time, such as 60s") from error
    listening = listen(host, port, "the gateway")
    with closing(listening), gateway(run, tokens, seconds, deadline, rate) as (app, watch):
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                ssl_certfile=certificate,
                ssl_keyfile=key,
                timeout_keep_alive=30,
                h11_max_incomplete_event_size=16_384,
                limit_concurrency=2000,
            )
        )
        watch.on_end = functools.partial(setattr, server, "should_exit", True)
        scheme = "http" if certificate is None else "https"
        console.print(f"gateway of run {watch.run_id}: {scheme}://{host}:{listening.getsockname()[1]}", soft_wrap=True)
        with suppress(KeyboardInterrupt):
            server.run([listening])
        if watch.ended:
            console.print(f"{watch.missing}, and the gateway with it", soft_wrap=True)
