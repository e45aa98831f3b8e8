"""The `mc2sf` command: the main job, and each part on its own as it runs in production.

The parts read their settings from the environment (`MC2SF_*`, see docs/operations.md); `run` takes them as options and
hands them to its children. Every error that a user can mend ends with a sentence and exit code 2, not a traceback.
"""

from __future__ import annotations

import sys
from typing import Annotated

import sqlalchemy as sa
import typer
from confluent_kafka import KafkaException
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.cli import dead_letters, experiment, inspect, run
from deploy.local.supervisor import StackError
from deploy.runs import RunFailed, UserError, agree
from replay.errors import SourceError
from replay.send.progress import ReplayError
from streams.database.engine import connect
from streams.kafka import topic_admin
from streams.kafka.acl import ACCESS, grant
from streams.process.retry import DATABASE_UNAVAILABLE, retrying
from streams.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Slow-fast learning for recommendation, as a stream of events.

    Start with `mc2sf run synthetic`: it needs nothing else. Then `mc2sf data inspect SOURCE` tells what a log holds and
    `mc2sf run SOURCE` replays it through the whole loop. SOURCE is `synthetic[:users=1000,items=200]`, `ml-1m:DIR`,
    `ml-100k:DIR`, `steam:FILE`, `ebnerd:DIR`, `alipay:FILE` or `log:FILE`; or `protocol:SOURCE`, what
    `mc2sf experiment` ranks of it as a stream.""",
)
topics_app = typer.Typer(no_args_is_help=True, help="The topics of a run on the broker.")
worker_app = typer.Typer(no_args_is_help=True, help="A Faust worker; start several to share the partitions.")
app.add_typer(topics_app, name="topics")
app.add_typer(worker_app, name="worker")
app.add_typer(inspect.releases_app, name="releases")
app.add_typer(inspect.data_app, name="data")
app.add_typer(dead_letters.letters_app, name="dead-letters")
app.command("run")(run.run)
app.command("replay")(run.replay)
app.command("evaluate")(run.evaluate)
app.command("verify")(inspect.verify)
app.command("recommend")(inspect.recommend)
app.command("doctor")(inspect.doctor)
app.command("experiment")(experiment.experiment)
console = Console(stderr=True)


@topics_app.command("create")
def topics_create() -> None:
    """Create the topics that are missing, with their partitions and policies."""
    settings = Settings()
    made = topic_admin.create(settings)
    console.print(f"{len(made)} topics created on {settings.brokers}" + "".join(f"\n  {name}" for name in made))


@topics_app.command("check")
def topics_check() -> None:
    """Say what is wrong with the topics; exit code 1 where something is."""
    settings = Settings()
    wrong = topic_admin.deviations(settings)
    table = Table("topics of run " + settings.run)
    for sentence in wrong or ["all as they should be"]:
        table.add_row(sentence)
    console.print(table)
    raise typer.Exit(1 if wrong else 0)


@topics_app.command("grant")
def topics_grant(
    role: Annotated[str, typer.Argument(help=f"one of {', '.join(ACCESS)}")],
    principal: Annotated[str, typer.Argument(help="as Kafka knows the user, such as User:device")],
) -> None:
    """Give a user on the broker the least that a processor needs on the topics of the run; see SECURITY.md."""
    if role not in ACCESS:
        raise typer.BadParameter(f"{role!r} is none of {', '.join(ACCESS)}", param_hint="ROLE")
    settings = Settings()
    told = grant(settings, role, principal)
    console.print(f"{principal} may do what {role} does on run {settings.run}: {told} entries")


def _part() -> Settings:
    """Return the settings of a part of a run: its topics are there, and it was begun with these settings."""
    settings = Settings()
    retrying(settings.patience_s)(_check, settings)
    return settings


def _check(settings: Settings) -> None:
    topic_admin.require(settings)
    engine = connect(settings.database.get_secret_value())
    agree(settings, engine, "parts")
    engine.dispose()


@worker_app.command("device")
def worker_device() -> None:
    """Keep the devices' state, ask the cloud, rank, and upload negative memories."""
    _part()
    from streams.device import worker  # noqa: PLC0415 - makes its Faust app at import

    worker.main()


@worker_app.command("cloud")
def worker_cloud() -> None:
    """Keep delayed histories and answer requests with priors."""
    _part()
    from streams.cloud import worker  # noqa: PLC0415 - makes its Faust app at import

    worker.main()


@app.command()
def recorder() -> None:
    """Write every topic into the tables exactly once, and measure online quality."""
    from streams.recorder import recorder  # noqa: PLC0415 - only this command pays for its imports

    recorder.main(_part())


@app.command()
def learner() -> None:
    """Train the fast part online and propose a small release an epoch."""
    from streams.learner import learner  # noqa: PLC0415 - only this command pays for its imports

    learner.main(_part())


@app.command()
def coordinator() -> None:
    """Judge, number and publish releases; decide each epoch. One acts at a time (a lease in the database)."""
    from streams.coordinator import coordinator  # noqa: PLC0415 - only this command pays for its imports

    coordinator.main(_part())


@app.command()
def retrain(
    once: Annotated[bool, typer.Option("--once", help="one retrain from what is recorded, then end")] = False,
    every: Annotated[bool, typer.Option("--every", help="whenever the schedule asks for one, until stopped")] = False,
) -> None:
    """Retrain encoder and slow part from the tables (a batch job; under torchrun on several machines)."""
    from streams.retrain import job as retrain  # noqa: PLC0415 - only this command pays for its imports

    if once == every:
        raise typer.BadParameter("choose --once or --every")
    retrain.main(_part(), once=once)


@sa.event.listens_for(sa.Engine, "handle_error")
def _say_which(context: sa.engine.ExceptionContext) -> None:
    """Add to an error of a database which one it is, less its password."""
    if context.sqlalchemy_exception is not None and context.engine is not None:
        context.sqlalchemy_exception.add_note(context.engine.url.render_as_string())


def _of_database(error: BaseException) -> str:
    """What is wrong with which database, in a line."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else None
    says = " ".join(str(cause or error).split())
    return " ".join([*dict.fromkeys(getattr(error, "__notes__", ())), says])


def main(arguments: list[str] | None = None) -> None:
    """Run the command (None: as it was called); a user's mistake is a sentence, not a traceback."""
    try:
        app(arguments)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        console.print(f"[red]settings:[/red] {where + ': ' if where else ''}{escape(first['msg'])}", soft_wrap=True)
        sys.exit(2)
    except RunFailed as error:
        console.print(f"[red]the run failed:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except (topic_admin.TopicsError, UserError, SourceError, StackError, ReplayError) as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KafkaException as error:
        console.print(f"[red]broker:[/red] {escape(error.args[0].str())}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except DATABASE_UNAVAILABLE as error:
        console.print(f"[red]database:[/red] {escape(_of_database(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
