"""The processes of a run, each as a command, and the topics that they need. Settings come from the environment."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.cli.groups import group
from deploy.cli.options import JsonOption
from deploy.console import terminal

topics_app = group("The topics of a run on the broker.")
worker_app = group("A Faust worker; several share the partitions.")
console = terminal(stderr=True)


@topics_app.command("create")
def topics_create() -> None:
    """Create the topics that are missing, with their partitions and policies."""
    from streams.kafka import topic_admin
    from streams.settings import Settings

    settings = Settings()
    created = topic_admin.create(settings)
    console.print(f"{len(created)} topics created on {settings.brokers}" + "".join(f"\n  {name}" for name in created))


@topics_app.command("check")
def topics_check(*, as_json: JsonOption = False) -> None:
    """Compare the topics on the broker with the settings; exit code 1 if they differ."""
    from deploy.console import Table, print_json
    from streams.kafka import topic_admin
    from streams.settings import Settings

    settings = Settings()
    wrong = topic_admin.deviations(settings)
    if as_json:
        print_json(wrong)
    else:
        table = Table("topics of run " + settings.run)
        for sentence in wrong or ["all topics match the settings"]:
            table.add_row(sentence)
        console.print(table)
    raise typer.Exit(1 if wrong else 0)


@topics_app.command("grant")
def topics_grant(
    role: Annotated[str, typer.Argument(help="Name of a process, such as recorder; see SECURITY.md.")],
    principal: Annotated[str, typer.Argument(help="User as Kafka names it, such as User:device.")],
) -> None:
    """Grant a Kafka user the minimum rights that a process needs on the topics of the run; see SECURITY.md."""
    from streams.kafka.acl import ACCESS, grant
    from streams.settings import Settings

    if role not in ACCESS:
        raise typer.BadParameter(f"{role!r} is none of {', '.join(ACCESS)}", param_hint="ROLE")
    settings = Settings()
    entries = grant(settings, role, principal)
    console.print(f"{entries} access control entries of role {role} in run {settings.run} granted to {principal}")


@worker_app.command("device")
def worker_device() -> None:
    """Keep the state of devices, request priors from the cloud, rank, and upload negative memories."""
    from deploy.runs import join_run

    join_run()
    from streams.device import worker  # creates its Faust app at import, from the settings

    worker.main()


@worker_app.command("cloud")
def worker_cloud() -> None:
    """Keep delayed histories, and answer requests with priors."""
    from deploy.runs import join_run

    join_run()
    from streams.cloud import worker  # creates its Faust app at import, from the settings

    worker.main()


def recorder() -> None:
    """Write events, outcomes and states into the tables, exactly once.

    Computes the online quality of every variant as well.
    """
    from deploy.runs import join_run
    from streams.recorder import recorder

    recorder.main(join_run())


def learner() -> None:
    """Train the fast part online: one small release per epoch."""
    from deploy.runs import join_run
    from streams.learner import learner

    learner.main(join_run())


def coordinator() -> None:
    """Review and publish releases; decide each epoch.

    One coordinator is active at a time: it holds a lease in the database.
    """
    from deploy.runs import join_run
    from streams.coordinator import coordinator

    coordinator.main(join_run())


def retrain(
    once: Annotated[bool, typer.Option("--once", help="Retrain once on the recorded events, then exit.")] = False,
    every: Annotated[
        bool, typer.Option("--every", help="Retrain at the epochs of the schedule until the log ends.")
    ] = False,
) -> None:
    """Retrain the encoder and the slow part from the tables.

    A batch job; on several machines it runs under torchrun.
    """
    from deploy.runs import join_run
    from streams.retrain import job

    if once == every:
        raise typer.BadParameter("choose --once or --every")
    job.main(join_run(), once=once)
