"""Run a migration on the connection that `streams.database.engine.migrate` holds, in its transaction.

The `alembic` command line works as well, for writing a new revision:
`alembic -x url=sqlite:///mc2sf.db revision --autogenerate -m "..."`.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine

from streams.database.schema import metadata


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",  # which can't alter a column in place
    )
    context.run_migrations()


held = context.config.attributes.get("connection")
if held is not None:
    _run(held)
else:
    with create_engine(context.get_x_argument(as_dictionary=True)["url"]).begin() as own:
        _run(own)
