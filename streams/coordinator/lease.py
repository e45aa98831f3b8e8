"""A lease in the database: of several processes of a role, one acts.

The holder renews it in time. `renew` is called inside each transaction that requires the lease: if a suspended holder
wakes up too late, another process has the lease and the transaction is rolled back.
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

DURATION_MS = 10_000


class LeaseLostError(RuntimeError):
    """Another process holds the lease now: this one must stop acting."""


class Lease:
    """The lease of `role` in `run`. Each object is a holder of its own, even within one process."""

    def __init__(
        self, engine: Engine, run: str, role: str, duration_ms: int = DURATION_MS, now: Callable[[], int] = wall_ms
    ) -> None:
        self._engine, self._run, self._role = engine, run, role
        self._duration_ms, self._now = duration_ms, now
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._renewed = 0

    def acquire(self) -> bool:
        """Try to get the lease; return True if it was free, had expired or is this holder's already."""
        now = self._now()
        row = {"run": self._run, "role": self._role, "holder": self.holder, "until_wall": now + self._duration_ms}
        with self._engine.begin() as connection:
            taken = insert_new(connection, leases, [row]) == 1
            if not taken:
                free = (leases.c.until_wall < now) | (leases.c.holder == self.holder)
                taken = connection.execute(self._update(now).where(free)).rowcount == 1
        self._renewed = now if taken else 0
        return taken

    def renew(self, connection: Connection) -> None:
        """Renew the lease as the first statement of a transaction. Raises LeaseLostError if another process has it.

        An expired lease is still this holder's until another process acquires it.
        """
        now = self._now()
        ours = leases.c.holder == self.holder
        if connection.execute(self._update(now).where(ours)).rowcount != 1:
            raise LeaseLostError(f"the lease of {self._role} in run {self._run} is no longer held by {self.holder}")
        self._renewed = now

    def renew_if_due(self) -> None:
        """Renew the lease if a third of its duration is over. Raises LeaseLostError."""
        if self._now() - self._renewed > self._duration_ms // 3:
            with self._engine.begin() as connection:
                self.renew(connection)

    def give_up(self) -> None:
        """Free the lease if it is this holder's."""
        with self._engine.begin() as connection:
            ours = (leases.c.run == self._run) & (leases.c.role == self._role) & (leases.c.holder == self.holder)
            connection.execute(delete(leases).where(ours))

    def _update(self, now: int) -> Update:
        mine = (leases.c.run == self._run) & (leases.c.role == self._role)
        return update(leases).where(mine).values(holder=self.holder, until_wall=now + self._duration_ms)
