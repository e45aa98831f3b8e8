"""All Prometheus metrics of the project, and the HTTP endpoint that serves them with the process's health.

One naming scheme: `mc2sf_<subject>_<unit>`, base units, `_total` for counters; labels are few and bounded (variant,
topic, role, kind), never a user or an item. Every sample also has the labels `run` and `role` of its process.
"""

from __future__ import annotations

import copy
import platform
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from streams.process.health import HEALTH, Health, end_if_stuck
from streams.settings import Settings, SettingsError

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)

EVENTS_SENT = Counter("mc2sf_events_sent_total", "Events that the broker acknowledged to the replayer")
REPLAY_PAUSED = Gauge("mc2sf_replay_paused", "1 while the replay is paused")
REPLAY_SPEED = Gauge(
    "mc2sf_replay_speed", "Speed of the replay: event time over wall time, or events per second; 0: no limit", ["unit"]
)
LOG_ROWS = Gauge("mc2sf_log_rows", "Rows of the log that is replayed, by what became of them", ["fate", "reason"])
EPOCH = Gauge("mc2sf_epoch", "Epoch that the process has reached", ["role"])
EVENT_TIME = Gauge("mc2sf_event_time_seconds", "Event time that the process has reached, since 1970", ["role"])
EVENTS_APPLIED = Counter("mc2sf_events_applied_total", "Events folded into device state")
EVENTS_DUPLICATE = Counter("mc2sf_events_duplicate_total", "Events skipped because their seq was applied before")
R2_UPLOADS = Counter("mc2sf_r2_uploads_total", "Negative memories sent to the cloud")
CLICK_UPLOADS = Counter("mc2sf_click_uploads_total", "Click uploads sent to the cloud")
RANK_REQUESTS = Counter("mc2sf_rank_requests_total", "Requests for priors, by side", ["side"])
REQUESTS_WITHOUT_R2 = Counter("mc2sf_requests_without_r2_total", "Requests that name an r2 that the cloud lacks")
PENDING = Gauge("mc2sf_pending_requests", "Requests of this worker without an answer yet")
OUTCOMES = Counter("mc2sf_outcomes_total", "Outcomes emitted by the device", ["kind"])
NOT_RANKED = Gauge("mc2sf_clicks_not_ranked", "Clicks drawn for evaluation for which no other candidate was known")
FRESHNESS = Histogram("mc2sf_freshness_seconds", "Event sent until its state is durable", buckets=_SECONDS)
ANSWER_SECONDS = Histogram("mc2sf_answer_seconds", "Request of a device until its answer is applied", buckets=_SECONDS)
BATCH_SECONDS = Histogram("mc2sf_batch_seconds", "Time to process one batch", ["role"], buckets=_SECONDS)
DEVICE_BYTES = Counter("mc2sf_device_traffic_bytes_total", "Bytes between device and cloud", ["direction"])
DEAD_LETTERS = Counter("mc2sf_dead_letters_total", "Records refused", ["role", "topic"])
RELEASE = Gauge("mc2sf_release_version", "Active release", ["role"])
RELEASES = Counter("mc2sf_releases_total", "Decisions of the coordinator", ["outcome"])
TRAINING_SECONDS = Histogram(
    "mc2sf_training_seconds", "Time of one training", ["kind"], buckets=(0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800)
)
TRAINING_LOSS = Gauge("mc2sf_training_loss", "Held-out loss of the last training", ["kind", "which"])
EXAMPLES = Counter("mc2sf_fast_examples_total", "Online examples that the learner received, by use", ["fate"])
RECORDED_ROWS = Counter("mc2sf_recorded_rows_total", "Rows written by the recorder", ["table"])
ONLINE = Gauge("mc2sf_online_quality", "Online ranking quality", ["metric", "variant", "subset", "form"])
ONLINE_CHANCE = Gauge(
    "mc2sf_online_chance", "Quality of a constant scorer on the same candidates", ["metric", "subset"]
)
ONLINE_DIFFERENCE = Gauge(
    "mc2sf_online_difference",
    "NDCG@10 of a variant minus another's on the same clicks; low, high: 95 % interval that holds at all times",
    ["variant", "minus", "bound"],
)
ONLINE_SLIDING_DIFFERENCE = Gauge(
    "mc2sf_online_sliding_difference",
    "NDCG@10 of a variant minus another's on the same clicks in the last quality_span_s; low, high: 95 % interval; "
    "absent with fewer than 30 users",
    ["variant", "minus", "bound"],
)
DRIFTS = Counter("mc2sf_drifts_total", "Drifts that ADWIN detected in NDCG@10", ["variant"])
LAG = Gauge("mc2sf_consumer_lag_records", "Records not yet read", ["role", "topic"])
HEALTHY = Gauge("mc2sf_healthy", "1 if /healthz answers 200; 0 if records or a call are pending without progress")
READY = Gauge("mc2sf_ready", "1 if /readyz answers 200; 0 if the process lacks its state, a release or a service")
RELEASE_TIME = Gauge(
    "mc2sf_release_timestamp_seconds", "Wall clock at which the active release was written, since 1970"
)
LEASE_HELD = Gauge("mc2sf_lease_held", "1 in the coordinator that acts, 0 in one that waits for the lease")
DISK_FREE = Gauge("mc2sf_disk_free_ratio", "Free share of the disk of the process's local files")
REBALANCES = Counter("mc2sf_rebalances_total", "Assignments of partitions that this worker got")
RETRIES = Counter("mc2sf_retries_total", "Calls of broker or database that were tried again because of an outage")
GATEWAY_REQUESTS = Counter(
    "mc2sf_gateway_requests_total",
    "Requests that the gateway answered; the route is the template of the path",
    ["route", "method", "status"],
)
GATEWAY_SECONDS = Histogram(
    "mc2sf_gateway_request_seconds",
    "Time from a request of the gateway to its answer, without those refused with 4xx",
    ["route", "method"],
    buckets=_SECONDS,
)
GATEWAY_RANKINGS = Counter(
    "mc2sf_gateway_rankings_total", "Rankings that the gateway answered: whole, or of the fast part alone", ["kind"]
)
GATEWAY_EVENTS = Counter("mc2sf_gateway_events_total", "Events of the gateway that Kafka acknowledged")
STATE_ROWS = Gauge("mc2sf_state_rows", "Rows of this worker's state: users, and requests without an answer", ["role"])
STATE_BYTES = Gauge("mc2sf_state_bytes", "Size of the values of these rows", ["role"])
TABLE_ROWS = Gauge("mc2sf_table_rows", "Rows of a table as PostgreSQL estimates them; none on SQLite", ["table"])
TABLE_BYTES = Gauge("mc2sf_table_bytes", "Size of a table with its indexes; on SQLite that of the file", ["table"])
BUILD = Gauge("mc2sf_build_info", "Always 1; the versions of the program and of Python", ["version", "python"])


def observe_losses(kind: str, quality: Mapping[str, float | None]) -> None:
    """Set the held-out losses of a training, as far as they were measured."""
    for which in ("active", "candidate"):
        if (loss := quality[which]) is not None:
            TRAINING_LOSS.labels(kind, which).set(loss)


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log no requests: they come every second."""


def _free(folder: Path) -> float:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    usage = shutil.disk_usage(there)
    return usage.free / usage.total


class _Labelled(Collector):
    """All metrics of this process, each sample with labels that are the same in all of them."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        for metric in REGISTRY.collect():
            labelled = copy.copy(metric)  # some collectors return the same object each time
            labelled.samples = [s._replace(labels={**self._labels, **s.labels}) for s in metric.samples]
            yield labelled


def endpoint(health: Health, labels: Mapping[str, str]) -> WSGIApplication:
    """Return the WSGI application: /metrics with `labels`, and /healthz and /readyz with 200 or 503 and a reason."""
    registry = CollectorRegistry()
    registry.register(_Labelled(labels))
    metrics: WSGIApplication = make_wsgi_app(registry)
    HEALTHY.set_function(lambda: not health.stuck())
    READY.set_function(lambda: not health.missing())
    BUILD.labels(version("mc2sf"), platform.python_version()).set(1)

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/healthz":
            reason = health.stuck()
        elif path == "/readyz":
            reason = health.missing()
        else:
            return metrics(environ, start_response)
        start_response("503 Service Unavailable" if reason else "200 OK", [("Content-Type", "text/plain")])
        return [f"{reason or 'ok'}\n".encode()]

    return answer


def serve(settings: Settings, role: str, health: Health = HEALTH) -> None:
    """Serve /metrics, /healthz and /readyz on `settings.host:metrics_port` in a thread; with port 0 serve nothing.

    Raises SettingsError if another process listens there.
    """
    if settings.end_if_stuck_s is not None:
        end_if_stuck(health, settings.end_if_stuck_s)
    if settings.metrics_port:
        DISK_FREE.set_function(lambda: _free(settings.state_dir))
        answers = endpoint(health, {"run": settings.run, "role": role})
        try:
            server = make_server(settings.host, settings.metrics_port, answers, ThreadingWSGIServer, _Handler)
        except OSError as error:
            address = f"{settings.host}:{settings.metrics_port}"
            raise SettingsError(
                f"MC2SF_METRICS_PORT: metrics can't be served on {address}: {error.strerror}"
            ) from error
        threading.Thread(target=server.serve_forever, name="telemetry", daemon=True).start()
