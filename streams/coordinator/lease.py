"""A lease in the database: of several processes of a role, one acts.

The holder renews it in time. `hold` is called inside each transaction that must only happen under the lease: a holder
that was stopped and woke up too late finds that the lease is another's, and its transaction never happens.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable

from sqlalchemy import Connection, Engine, Update, delete, update

from streams.database.engine import insert_new
from streams.database.schema import leases
from streams.process.clock_and_signals import wall_ms

TERM_MS = 10_000


class LeaseLostError(RuntimeError):
    """Another process holds the lease now: this one must stop acting."""


class Lease:
    """The lease of `role` in `run`, for this process. Two objects are two holders, in one process too."""

    def __init__(
        self, engine: Engine, run: str, role: str, term_ms: int = TERM_MS, now: Callable[[], int] = wall_ms
    ) -> None:
        self._engine, self._run, self._role = engine, run, role
        self._term_ms, self._now = term_ms, now
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._renewed = 0

    def take(self) -> bool:
        """Try to take it: true where it was free, had run out, or is ours already."""
        now = self._now()
        row = {"run": self._run, "role": self._role, "holder": self.holder, "until_wall": now + self._term_ms}
        with self._engine.begin() as connection:
            taken = insert_new(connection, leases, [row]) == 1
            if not taken:
                free = (leases.c.until_wall < now) | (leases.c.holder == self.holder)
                taken = connection.execute(self._update(now).where(free)).rowcount == 1
        self._renewed = now if taken else 0
        return taken

    def hold(self, connection: Connection) -> None:
        """Renew it as the first statement of a transaction. Raises LeaseLostError where it is not ours any more.

        One that ran out is still ours as long as nobody took it.
        """
        now = self._now()
        ours = leases.c.holder == self.holder
        if connection.execute(self._update(now).where(ours)).rowcount != 1:
            raise LeaseLostError(f"the lease of {self._role} in run {self._run} is not {self.holder}'s any more")
        self._renewed = now

    def keep(self) -> None:
        """Renew it where a third of its term is over. Raises LeaseLostError."""
        if self._now() - self._renewed > self._term_ms // 3:
            with self._engine.begin() as connection:
                self.hold(connection)

    def give_up(self) -> None:
        """Free it, where it is ours."""
        with self._engine.begin() as connection:
            ours = (leases.c.run == self._run) & (leases.c.role == self._role) & (leases.c.holder == self.holder)
            connection.execute(delete(leases).where(ours))

    def _update(self, now: int) -> Update:
        mine = (leases.c.run == self._run) & (leases.c.role == self._role)
        return update(leases).where(mine).values(holder=self.holder, until_wall=now + self._term_ms)
