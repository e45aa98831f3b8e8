"""The tutorial of docs/gateway.md, command by command, against a broker and workers."""

from __future__ import annotations

import gzip
import json
import os
import re
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.servers.releases import publish, release
from benchmarks.servers.worker import Process, wait_for
from deploy.local.broker import free_port
from streams.records import Kind
from streams.settings import Settings

PAGE = Path(__file__).parents[1] / "docs" / "gateway.md"


def tutorial(page: str) -> str:
    """Return the commands of the tutorial as a script, each followed by a line that names its end."""
    section = page.split("## A click, and another ranking")[1].split("\n## ", maxsplit=1)[0]
    blocks = "".join(re.findall(r"```console\n(.*?)```", section, re.DOTALL))
    commands = re.findall(r"^\$ (.*?)(?=^\$ |\Z)", blocks, re.DOTALL | re.MULTILINE)
    return "\n".join(f"{command.strip()}\necho; echo ENDED" for command in commands)


def answers(script: str, settings: Settings, folder: Path) -> list[Any]:
    """Run the tutorial's script against the processes of a run; return the JSON of each command that prints some."""
    environment = {**os.environ, **settings.environment(), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    script = script.replace("8080", str(free_port())).replace("--retry 60", "--retry 280")  # a busy machine is slow
    done = subprocess.run(
        ["bash", "-c", f"set -eu; trap 'kill $(jobs -p)' EXIT\n{script}"],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = [
        each[each.index("{") :] for each in done.stdout.split("ENDED") if "{" in each
    ]  # after the gateway's address
    return [json.loads(each) for each in shown]


def assert_the_click_is_in_the_second_ranking(found: list[Any], items: list[str]) -> None:
    """Check the answers of the tutorial, in which the second of `items` is clicked."""
    healthy, before, accepted, after, explained, *_ = found
    assert healthy == {"status": "ok"}
    assert (before["next_seq"], accepted["accepted"], after["next_seq"]) == (0, 1, 4)
    scores = [{each["item"]: each["score"] for each in ranking["items"]} for ranking in (before, after)]
    assert scores[0].keys() == scores[1].keys() == set(items)
    assert scores[0] != scores[1], "because of the click"
    assert (explained["ranking"], explained["same"]) == (after, True), "also the fast part's, on a busy machine"
    assert [each["item"] for each in explained["clicks"]] == [items[1]]
    assert sorted(each["item"] for each in explained["exposures"]) == sorted({*items} - {items[1]})


class Span(NamedTuple):
    """A span as a collector gets it; ids are bytes."""

    service: str
    name: str
    trace: bytes
    id: bytes
    parent: bytes
    links: list[bytes]  # traces


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Span]]:
    """The spans that a collector gets, to which the environment points."""
    spans: list[Span] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body
            for each in ExportTraceServiceRequest.FromString(body).resource_spans:
                (service,) = [a.value.string_value for a in each.resource.attributes if a.key == "service.name"]
                spans.extend(
                    Span(service, s.name, s.trace_id, s.span_id, s.parent_span_id, [link.trace_id for link in s.links])
                    for scope in each.scope_spans
                    for s in scope.spans
                )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield spans
        server.shutdown()
        thread.join()


def assert_each_ranking_is_one_trace_that_names_the_click_before(spans: list[Span]) -> None:
    click = next(span for span in spans if span.name == "POST /v1/users/{user}/events")
    rankings = [span for span in spans if span.name.startswith("GET") and span.name.endswith("rankings")]
    rankings += [span for span in spans if span.name == "POST /v1/users/{user}/rankings"]
    assert len(rankings) >= 2
    for ranking in rankings:
        path = {(span.service, span.name): span for span in spans if span.trace == ranking.trace}
        asked = path["mc2sf-device", "device device-events"]
        answered = path["mc2sf-cloud", "cloud device-uplink"]
        assert asked.parent == ranking.id
        assert answered.parent == asked.id
        assert path["mc2sf-device", "device cloud-downlink"].parent == answered.id
    links = [span.links for span in spans if span.name == "device device-events" and span.links]
    assert [click.trace] in links, "the ranking after the click"


def test_every_command_of_the_tutorial_does_what_the_page_says(
    broker_settings: Settings, tmp_path: Path, collected: list[Span]
) -> None:
    """And each of its rankings is a trace."""
    settings = broker_settings.model_copy(
        update={"lockstep": False, "partitions": 1, "take_within_s": 0.01, "state_dir": tmp_path / "state", "dim": 8}
    )
    publish(settings, [release(settings, 0, 12)])
    with Process(settings, "device") as device, Process(settings, "cloud") as cloud:
        device.until_ready()
        cloud.until_ready()
        measured = settings.model_copy(update={"metrics_port": free_port()})
        scrape = f"\ncurl -sS 127.0.0.1:{measured.metrics_port}/metrics > metrics"
        found = answers(tutorial(PAGE.read_text()) + scrape, measured, tmp_path)
        wait_for(lambda: sum(span.name == "device cloud-downlink" for span in collected) >= 2, "the last spans")
    assert_each_ranking_is_one_trace_that_names_the_click_before(collected)
    assert_the_click_is_in_the_second_ranking(found, ["3", "5", "8", "11"])
    accepted = f'mc2sf_gateway_events_total{{role="gateway",run="{settings.run}"}} 4.0'
    assert accepted in (tmp_path / "metrics").read_text().splitlines(), "the click, and the list that it brings along"


def test_only_clicks_move_as_clicks() -> None:
    sent = runpy.run_path(str(PAGE.parent / "move_users.py"))["sent"]
    row = {"item": "3", "time": datetime(2026, 1, 1, tzinfo=UTC), "impression": 7}
    kinds = {kind.name.lower(): sent(row | {"kind": kind.name.lower()})["kind"] for kind in Kind}
    assert kinds == {"click": "click", "past_click": "click", "exposure": "exposure", "candidate": "exposure"}


def test_events_that_another_run_recorded_move_to_one_with_more_partitions(
    broker_settings: Settings, tmp_path: Path
) -> None:
    """And may be sent twice."""
    columns = {"lockstep": False, "partitions": 3, "take_within_s": 0.01, "state_dir": tmp_path / "state", "dim": 8}
    settings = broker_settings.model_copy(update=columns)
    publish(settings, [release(settings, 0, 12)])
    kinds = ["click", "exposure", "exposure", "click", "click"]
    ada = pa.table(
        {
            "user": ["ada"] * 5 + ["bob"] * 700,
            "seq": [*range(5), *range(700)],
            "item": ["3", "5", "8", "3", "11"] + ["5"] * 700,
            "kind": pa.array(kinds + ["exposure"] * 700).dictionary_encode(),
            "time": pa.array([5, 5, 5, 9, 7, *range(700)], pa.timestamp("ms", "UTC")),  # the last one of ada is late
            "impression": [2**53 + 7] * 3 + [-4, 0] + [0] * 700,
        }
    )
    pq.write_table(ada, tmp_path / "interactions.parquet")
    begun, asked = tutorial(PAGE.read_text()).split("\n" + "ask() ")
    moving = f'export TOKEN; "{sys.executable}" "{PAGE.parent / "move_users.py"}" . http://127.0.0.1:8080'
    ask = "ask() " + asked.splitlines()[0]
    rankings = [
        f'ask -d \'{{"candidates": ["3"]}}\' 127.0.0.1:8080/v1/users/{user}/rankings\necho; echo ENDED'
        for user in ("ada", "bob")
    ]
    with Process(settings, "device") as device, Process(settings, "cloud") as cloud:
        device.until_ready()
        cloud.until_ready()
        _, of_ada, of_bob = answers("\n".join([begun, moving, moving, ask, *rankings]), settings, tmp_path)
    assert (of_ada["next_seq"], of_bob["next_seq"]) == (5, 700)
