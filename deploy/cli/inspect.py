"""`mc2sf releases`, `recommend` and `doctor`: look at the state of a run."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from deploy.cli.groups import group
from deploy.cli.options import JsonOption, RunArgument
from deploy.console import Table, print_json, terminal
from replay.times import utc
from streams.prequential.served import By

VersionArgument = Annotated[int, typer.Argument(metavar="VERSION", help="Version of a release, as `list` shows it.")]
releases_app = group("The releases of a run.")
console = terminal()


@releases_app.command("list")
def releases_list(run: RunArgument, *, as_json: JsonOption = False) -> None:
    """List the releases of a run, oldest first."""
    import sqlalchemy as sa

    from deploy.runs import find
    from streams.database import schema
    from streams.releases.retention import without_weights

    found = find(run)
    r = schema.releases.c
    columns = (column for column in schema.releases.columns if column.name not in {"run", "manifest"})
    query = sa.select(*columns).where(r.run == found.settings.run).order_by(r.version)
    with found.engine.connect() as connection:
        without = without_weights(connection, found.settings.run)
        rows = connection.execute(query).mappings().all()
    if as_json:
        print_json([dict(row) | {"weights": row["version"] not in without} for row in rows])
        return
    table = Table("version", "kind", "parent", "epoch", "trained until", "gate", "published", "weights")
    for row in rows:
        gate = "  ".join(f"{k} {v:.4g}" if isinstance(v, int | float) else f"{k} {v}" for k, v in row["gate"].items())
        table.add_row(
            str(row["version"]),
            row["kind"],
            str(row["parent"]),
            str(row["epoch"]),
            utc(row["trained_until"]) if row["trained_until"] else "",
            gate,
            "yes" if row["published"] else "no",
            "deleted" if row["version"] in without else "kept",
        )
    console.print(table)


@releases_app.command("show")
def releases_show(run: RunArgument, version: VersionArgument, *, as_json: JsonOption = False) -> None:
    """Show a release: its parts, checksums and the figures that the gate compared."""
    from msgspec import structs

    from deploy.runs import find
    from streams.releases.release import read_manifest

    found = find(run)
    with found.engine.connect() as connection:
        manifest = read_manifest(connection, found.settings.run, version)
    if as_json:
        print_json(structs.asdict(manifest) | {"versions": structs.asdict(manifest.versions)})
        return
    table = Table("field", "value")
    for name in manifest.__struct_fields__:
        table.add_row(name, str(getattr(manifest, name)))
    console.print(table)


@releases_app.command("rollback")
def releases_rollback(run: RunArgument, version: VersionArgument) -> None:
    """Publish an older release again under a new version; the coordinator does it at the end of the next epoch."""
    from deploy.runs import find
    from streams.releases.candidates import request_rollback

    found = find(run)
    with found.engine.begin() as connection:
        request_rollback(connection, found.settings.run, version)
    console.print(f"requested: release {version} is published under a new version at the next decision")


def recommend(
    user: Annotated[str, typer.Argument(metavar="USER", help="A user, as named in the log.")],
    run: Annotated[str, typer.Option("--run", help="The id of a run, or its --out folder.")] = "runs/demo",
    k: Annotated[int, typer.Option("-k", min=1, help="Number of items.")] = 10,
    release: Annotated[int | None, typer.Option(help="Version of a release.  [default: the newest]")] = None,
    by: Annotated[
        By | None,
        typer.Option(help="Variant that ranks.  [default: the one that is served, the best in the run so far]"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Recommend items to a user of a run.

    Reads only the database of the run.
    """
    from deploy.recommend import recommend as rank_catalogue
    from deploy.runs import find

    recommended = rank_catalogue(find(run), user, k, release, by)
    if as_json:
        print_json(recommended._asdict() | {"items": [item._asdict() for item in recommended.items]})
        return
    table = Table("", "item", f"{recommended.by}'s score")
    for rank, (item, score) in enumerate(recommended.items, start=1):
        table.add_row(str(rank), item, f"{score:.3f}")
    console.print(table)


def doctor(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="The id of a run, or its --out folder.  [default: the run in the environment]"
        ),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Check database, broker, topics, lag and versions, and report the progress of the run.

    The broker is not checked after the end of a run: the embedded one ended with it. Exit code 1 if a check fails.
    """
    from deploy.doctor import examine
    from deploy.runs import find
    from streams.settings import Settings

    findings = examine(find(run).settings if run else Settings())
    if as_json:
        print_json(findings)
    else:
        table = Table("", "subject", "finding")
        for finding in findings:
            table.add_row(Text("ok", "green") if finding.ok else Text("no", "red"), finding.subject, finding.text)
        console.print(table)
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)
