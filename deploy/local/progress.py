"""Live progress of a run: events, epochs, releases, and the quality so far."""

from __future__ import annotations

import time
from typing import Self

import sqlalchemy as sa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from deploy.local.supervisor import Supervisor
from deploy.report import measurements, process_metrics
from replay.prepare.plan import Plan
from streams.database import run_state, schema
from streams.settings import Settings

_REFRESH_S = 1.0
_PRINT_S = 5.0  # without a terminal
_SHOWN = ("popularity", "din", "fast", "mc2sf", "served")


class ProgressDisplay:
    """A context with two bars and the quality so far; without a terminal, one line per tenth of the events."""

    def __init__(
        self, console: Console, engine: sa.Engine, settings: Settings, supervisor: Supervisor, plan: Plan
    ) -> None:
        self._engine, self._run, self._supervisor = engine, settings.run, supervisor
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<8}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._events = self._bars.add_task("events", total=plan.events, note="")
        self._epochs = self._bars.add_task("epochs", total=plan.epochs, note="")
        self._refreshed = 0.0
        self._tenth = -1

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def refresh(self, *, now: bool = False) -> None:
        """Read the tables and the metrics and show them; unless `now`, at most once per second (or 5 s if piped)."""
        if not now and time.monotonic() - self._refreshed < (_REFRESH_S if self._console.is_terminal else _PRINT_S):
            return
        self._refreshed = time.monotonic()
        devices = [child for name, child in self._supervisor.children.items() if name.startswith("device-")]
        for child in devices:
            if child.alive:
                child.scrape()
        samples = [child.samples for child in devices]
        applied = process_metrics.total(samples, "mc2sf_events_applied_total") or 0.0
        r = schema.releases.c
        with self._engine.connect() as connection:
            recorded = run_state.recorded(connection, self._run)
            kinds = connection.execute(
                sa.select(r.kind, sa.func.count()).where(r.run == self._run).group_by(r.kind)
            ).all()
            quality = measurements.online(connection, self._run)
        note = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds))
        scores = {v: quality[v].ndcg_10 for v in _SHOWN if v in quality and quality[v].n}
        shown = "  ".join(f"{v} {score:.3f}" for v, score in scores.items())
        self._bars.update(self._events, completed=applied, note=f"NDCG@10  {shown}" if shown else "")
        self._bars.update(self._epochs, completed=recorded[0] + 1 if recorded else 0, note=f"releases: {note}")
        if not self._console.is_terminal:
            self._print(applied, shown, note)

    def _print(self, applied: float, shown: str, note: str) -> None:
        total = self._bars.tasks[0].total or 1
        if (tenth := int(10 * applied / total)) > self._tenth:
            self._tenth = tenth
            self._console.print(f"{applied:,.0f} of {total:,.0f} events; releases: {note}; NDCG@10 {shown}")
