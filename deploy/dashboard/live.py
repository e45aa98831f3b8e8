"""The contents of the live page of a run as HTML sections, from its tables and the metrics of its processes."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from deploy.dashboard.scraper import Scraper
from deploy.report import measurements, timeline
from deploy.report.figures import Figure, brief, qualities, release_marks
from deploy.report.flow import Edge, Flow
from deploy.report.html import environment, number, size
from deploy.report.time_axis import TimeAxis
from deploy.runs import FoundRun
from deploy.user_error import UserError
from replay.send.clock_file import ClockFile, ReplayChange, ReplayControl
from streams.database import run_state, schema

EPOCHS, RELEASES = 300, 30  # the newest that are shown
REFRESH_S = 1.0

_PAGES = Path(__file__).parent / "pages"
_SECTIONS = ("head", "tiles", "flow", "replay", "figures", "releases", "processes")


class Live:
    """The live page of a run. Several browsers share what is read once per REFRESH_S."""

    def __init__(self, found: FoundRun, scraper: Scraper, clock: Callable[[], float] = time.monotonic) -> None:
        self.found, self.scraper, self._clock = found, scraper, clock
        self.clock_file = None if found.folder is None else ClockFile(found.folder / "state" / "replay")
        self._templates = environment(_PAGES)
        self._one_at_a_time = threading.Lock()
        self._read, self._sections = -REFRESH_S, dict[str, str]()
        self._epoch: int | None = None
        self._figures = ""

    def page(self) -> tuple[str, str]:
        """Return the nonce of the page's script, and the whole page."""
        nonce = secrets.token_urlsafe(16)
        context = {"run": self.found.settings.run, "sections": self.sections(), "nonce": nonce}
        return nonce, self.render("live", controls=self.clock_file is not None, **context)

    def sections(self) -> dict[str, str]:
        """Return the pieces of the page by name, at most REFRESH_S old."""
        with self._one_at_a_time:
            if self._clock() - self._read >= REFRESH_S:
                self.scraper.refresh()
                with self.found.engine.connect() as connection:
                    self._sections = self._rendered(connection)
                self._read = self._clock()
            return self._sections

    def control_replay(self, change: ReplayChange) -> ReplayControl:
        """Change the requested state of the replay and return it. Raises UserError if there is no replay to control."""
        run, r = self.found.settings.run, schema.runs.c
        if self.clock_file is None:
            raise UserError("the replay can be controlled where the folder of the run is")
        with self.found.engine.connect() as connection:
            status = connection.execute(sa.select(r.status).where(r.run == run)).scalar()
        if status != "running":
            raise UserError(f"run {run} has ended, and its replay with it")
        return self.clock_file.change(change)

    def render(self, name: str, **context: object) -> str:
        """Return a piece of HTML."""
        return self._templates.get_template(f"{name}.html.j2").render(context)

    def _rendered(self, connection: sa.Connection) -> dict[str, str]:
        run = self.found.settings.run
        recorded = run_state.recorded(connection, run)
        r = schema.runs.c
        status = connection.execute(sa.select(r.status).where(r.run == run)).scalar_one()
        releases = timeline.releases(connection, run, RELEASES)
        online = measurements.online(connection, run)
        difference = 'mc2sf_online_difference{{bound="{}",minus="popularity",variant="mc2sf"}}'
        context = {
            "run": run,
            "source": self.found.source,
            "status": status,
            "over": recorded is not None and recorded[1],
            "epoch": recorded[0] if recorded else -1,
            "paused": self.scraper.total("mc2sf_replay_paused"),
            "speed": self.scraper.total('mc2sf_replay_speed{unit="event_time"}'),
            "rate": self.scraper.total('mc2sf_replay_speed{unit="events_per_second"}'),
            "online": online,
            "served": measurements.served_now(online),
            "ahead": [self.scraper.total(difference.format(bound)) for bound in ("mean", "low", "high")],
            "processes": self.scraper.processes,
            "releases": releases,
            "decisions": timeline.decisions(connection, run)[-RELEASES:],
            "active": run_state.active_release(connection, run),
            "release_age": self._release_age(),
            "events_rate": self.scraper.rate("mc2sf_events_applied_total"),
            "events": self.scraper.total("mc2sf_events_applied_total"),
            "freshness": self.scraper.quantiles("mc2sf_freshness_seconds", (0.5, 0.95)),
            "answers": self.scraper.quantiles("mc2sf_answer_seconds", (0.5, 0.95)),
            "dead_letters": timeline.count(connection, run, schema.dead_letters),
            "flow": self._flow(releases[-1].version + 1 if releases else 0),
        }
        if context["epoch"] != self._epoch:
            self._epoch = recorded[0] if recorded else -1
            charts = self._charts(connection, run)
            self._figures = self.render("figures", figures=charts) or "<p>No click was ranked yet.</p>"
        return {name: self._figures if name == "figures" else self.render(name, **context) for name in _SECTIONS}

    def _charts(self, connection: sa.Connection, run: str) -> list[Figure]:
        line = timeline.measured_epochs(connection, run, EPOCHS)
        if not line:
            return []
        axis = TimeAxis([epoch.time for epoch in line], line[0].time, line[-1].time)
        marks = release_marks(timeline.decisions(connection, run), line)
        return list(qualities(connection, run, line, axis, marks))

    def _release_age(self) -> float | None:
        written = self.scraper.total("mc2sf_release_timestamp_seconds", "coordinator")
        return time.time() - written if written else None

    def _flow(self, releases: int) -> Flow:
        rate, total = self.scraper.rate, self.scraper.total

        def per_second(*names: str) -> str:
            return f"{_short(rate(*names))}/s"

        def lag(role: str, *topics: str) -> str:
            behind = [total(f'mc2sf_consumer_lag_records{{topic="{topic}"}}', role) for topic in topics]
            known = [records for records in behind if records is not None]
            return f"lag {_short(sum(known) if known else None)}"

        def traffic(direction: str) -> str:
            name = f'mc2sf_device_traffic_bytes_total{{direction="{direction}"}}'
            return f"{size(rate(name))}/s"

        def requests(side: str) -> str:
            return f'mc2sf_rank_requests_total{{side="{side}"}}'

        outcomes = [f'mc2sf_outcomes_total{{kind="{kind}"}}' for kind in ("answered", "expired")]
        up = (
            f"{per_second('mc2sf_r2_uploads_total')} r2 · {per_second('mc2sf_click_uploads_total')} click uploads · "
            f"{per_second(requests('device'))} requests"
        )
        behind = self.scraper.total_of("mc2sf_consumer_lag_records", "recorder")
        notes = {
            "replay": self.found.source.partition(":")[0],
            "device": self._count("device"),
            "cloud": self._count("cloud"),
            "recorder": self._count("recorder"),
            "retrain": "encoder and slow part",
            "coordinator": self._count("coordinator"),
            "learner": "fast part, online",
        }
        return Flow(
            "Rates over the last seconds, and records that wait to be read.",
            notes,
            Edge(per_second("mc2sf_events_sent_total"), f"events · {lag('device', 'device-events')}"),
            Edge(up, f"{traffic('up')} up · {lag('cloud', 'device-uplink')}"),
            Edge(
                f"{per_second(requests('cloud'))} answers",
                f"{traffic('down')} down · {lag('device', 'cloud-downlink')}",
            ),
            Edge(per_second(*outcomes), "outcomes"),
            Edge(_short(total('mc2sf_fast_examples_total{fate="fitting"}')), "examples used"),
            Edge(per_second('mc2sf_recorded_rows_total{table="interactions"}'), f"rows · lag {_short(behind)}"),
            Edge(f"{number(releases)} releases", "to device and cloud"),
        )

    def _count(self, role: str) -> str:
        samples = (process.samples or {} for process in self.scraper.processes if process.role == role)
        return f"{sum(bool(each.get('mc2sf_ready')) for each in samples)} ready"


def _short(value: float | None) -> str:
    return "-" if value is None else brief(value)
