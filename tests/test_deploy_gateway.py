"""The gateway: who may do what, what is refused and which field is named, what Kafka has when it answers 202."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
import uvicorn
from confluent_kafka import KafkaException
from starlette.testclient import TestClient

from benchmarks.servers.releases import release
from benchmarks.servers.worker import wait_for
from deploy.dashboard.serving import admin_of
from deploy.gateway.api.app import Gateway
from deploy.gateway.api.bodies import (
    MAX_BODY,
    MAX_EVENTS,
    CloudAnswer,
    Event,
    Events,
    ItemAnswer,
    ReleaseAnswer,
    UserAnswer,
)
from deploy.gateway.api.idempotency import SeenKeys, body_hash
from deploy.gateway.api.limits import RateLimits
from deploy.gateway.api.tokens import Tokens, add
from deploy.gateway.client import Client, GatewayError
from deploy.gateway.epoch_ticker import EpochTicker
from deploy.gateway.ingest import Ingest
from deploy.gateway.lists import ranking_impression
from deploy.gateway.rankings import Rankings
from deploy.gateway.run_watch import RunWatch, require_running
from deploy.gateway.tables import Tables
from deploy.runs import FoundRun, register_run
from deploy.user_error import UserError
from streams.codec import Reader, Tensor
from streams.coordinator.lease import Lease
from streams.database import schema
from streams.database.engine import connect
from streams.kafka import clients, topic_admin
from streams.kafka.partitioner import partition_of
from streams.records import (
    DeviceBatch,
    DeviceEvent,
    EpochBegin,
    EpochEnd,
    Forget,
    GatewayRequest,
    Ranking,
    Versions,
)
from streams.releases.registry import finish_release
from streams.releases.release import Release
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS
from tests.support.simulation import SMALL
from tests.support.workers import TopicReader
from tests.test_streams_rescoring import a_recorded_run

SEQ, CLICK = 5, {"item": "film", "kind": "click", "time": 1_000, "impression": 7}
SHOWN = {"item": "other", "kind": "exposure", "time": 1_001, "impression": 7}


class Acknowledged:
    """Kafka's message, as far as a delivery report reads it."""


class FakeProducer:
    """A producer whose broker acknowledges each record, or is away."""

    def __init__(self) -> None:
        self.away, self.asked = False, lambda _request: None
        self.records: list[tuple[int, bytes | None, Any]] = []
        self.headers: list[Any] = []
        self._reports: list[Any] = []
        self._lock = threading.Lock()
        self._events: Reader[Any] = Reader(DeviceEvent)

    def produce(
        self, _topic: str, value: bytes, key: bytes | None, partition: int, on_delivery: Any, headers: Any
    ) -> None:
        self.headers.append(headers)
        record = self._events.decode(value)
        with self._lock:
            self._reports.append(on_delivery)
            if not isinstance(record, GatewayRequest):
                self.records.append((partition, key, record))
        if isinstance(record, GatewayRequest):
            self.asked(record)

    def poll(self, timeout: float) -> int:
        with self._lock:
            due, self._reports = ([], self._reports) if self.away else (self._reports, [])
        for report in due:
            report(None, Acknowledged())
        threading.Event().wait(min(timeout, 0.001))
        return len(due)

    def list_topics(self, topic: str, timeout: float) -> None:
        assert topic.endswith(DEVICE_EVENTS.name)
        if self.away:
            raise KafkaException(timeout)

    def flush(self, _timeout: float) -> int:
        return 0


class FakeTables:
    """The tables of a run in which little was recorded."""

    def names(self, keys: Any) -> list[str]:
        return [{1: "a", 2: "b", 3: "c"}.get(key, str(key)) for key in keys]

    def user(self, user: str) -> UserAnswer:
        return UserAnswer(user, 42, None, CloudAnswer(3, ["a"], [1]))

    def releases(self) -> list[ReleaseAnswer]:
        return [ReleaseAnswer(3, 2, "retrain", 12, 8_000, {"active": 0.5, "reason": "better"})]

    def item(self, item: str) -> ItemAnswer:
        return ItemAnswer(item, 12, 5, 1, 0, in_catalogue=True)

    def last_events(self, _user: str, _before: int) -> tuple[dict[int, int], dict[int, int]]:
        return {2: 40}, {}

    def release(self, version: int) -> Release:
        return release(SMALL, version, 12)


class GatewayHarness:
    """A gateway with a fake producer, and the tokens of those who use it."""

    def __init__(self, settings: Settings, folder: Path, producer: Any = None) -> None:
        path = folder / "tokens.json"
        scopes: dict[str, Any] = {"device": ("ingest",), "shop": ("rank",), "root": ("admin",)}
        self.tokens = {name: add(path, name, scope, None) for name, scope in scopes.items()}
        self.tokens["ada"] = add(path, "ada", ("ingest", "rank"), "ada")
        self.kept = path.read_text()
        self.producer = FakeProducer()
        patience_s = 30.0 if producer else 0.2
        self.ingest = Ingest(settings, producer or self.producer, patience_s)
        self.rankings = Rankings(self.ingest, lambda: 9_000, lambda: "mc2sf", deadline_s=0.05, fast_s=0.05)
        self.producer.asked = self.answer
        self.late: set[str] = set()  # which of device and cloud do not answer
        self.now = 0.0
        self.limits = RateLimits(1, 50, lambda: self.now)
        tables: Any = FakeTables()
        self.gateway = Gateway(
            Tokens.read(path), self.ingest, self.rankings, tables, lambda: 9_000, limits=self.limits, body_s=0.2
        )
        self.app = self.gateway.app()
        self.client = TestClient(self.app, raise_server_exceptions=False)

    def limits_off(self) -> None:
        """Let everybody send as much as they like."""
        self.limits._rate = self.limits._burst = 1e9

    def answer(self, request: GatewayRequest) -> None:
        """Answer as device and cloud do: later candidates have higher scores."""
        if "device" in self.late:
            return
        n = len(request.candidates) or 3
        i8, scores = Tensor.of([], "<i8"), Tensor.of([each / 2 for each in range(n)], "<f4")
        for degraded in (True, False)[: 1 if "cloud" in self.late else 2]:
            ranking = Ranking(
                request.id, request.user, degraded, "fast" if degraded else "mc2sf",
                Tensor.of(range(1, n + 1), "<i8"), request.candidates, request.k, {"fast": scores, "mc2sf": scores},
                i8, i8, i8 if degraded else Tensor.of([1], "<i8"), 1, b"", bytes(3 * n), 0, Versions(3), 12, 42, 7,
                8_500, 8_400, 8_000, 1, request.asked_wall, 9_000,
            )  # fmt: skip
            self.rankings.take(ranking)

    def post(self, path: str, body: Any, who: str = "root") -> Any:
        return self.client.post(f"/v1/users/{path}", json=body, headers=self.headers(who))

    def get(self, path: str, who: str = "root") -> Any:
        return self.client.get(f"/v1/users/{path}", headers=self.headers(who))

    def headers(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens.get(who, who)}"}


@pytest.fixture
def harness(settings: Settings, tmp_path: Path) -> Iterator[GatewayHarness]:
    harness = GatewayHarness(settings, tmp_path)
    with harness.client:
        yield harness


def test_accepted_events_are_one_record_of_their_users_partition(harness: GatewayHarness, settings: Settings) -> None:
    answer = harness.post("ada/events", {"seq": SEQ, "events": [CLICK, SHOWN]}, "device")
    assert answer.status_code == 202
    assert answer.json() == {"user": "ada", "accepted": 2, "next_seq": 7, "idempotency_key": None}
    expected = DeviceBatch("ada", SEQ, ["film", "other"], b"\x01\x00", [1_000, 1_001], [7, 7], 9_000)
    assert harness.producer.records == [(partition_of(b"ada", settings.partitions), b"ada", expected)]


def test_without_an_acknowledgement_events_are_not_accepted_and_may_be_sent_again(harness: GatewayHarness) -> None:
    body = {"seq": 0, "events": [CLICK]}
    harness.producer.away = True
    away = harness.post("ada/events", body)
    assert (away.status_code, away.headers["retry-after"]) == (503, "1")
    harness.producer.away = False
    assert harness.post("ada/events", body).status_code == 202
    first, second = (record for _, _, record in harness.producer.records)
    assert first == second, "the same numbers: a device applies them once"


BAD = {
    "seq": {"seq": -1, "events": [CLICK]},
    "events": {"seq": 0, "events": []},
    "events[0].kind": {"seq": 0, "events": [CLICK | {"kind": "buy"}]},
    "events[1].time": {"seq": 0, "events": [CLICK, SHOWN | {"time": 999}]},
    "events[0].item": {"seq": 0, "events": [CLICK | {"item": ""}]},
    "events[1].item": {"seq": 0, "events": [CLICK, SHOWN | {"item": "a\0b"}]},
    "price": {"seq": 0, "events": [CLICK | {"price": 1}]},
}


@pytest.mark.parametrize("field", BAD)
def test_a_wrong_field_is_named_and_nothing_is_sent(harness: GatewayHarness, field: str) -> None:
    answer = harness.post("ada/events", BAD[field], "device")
    assert answer.status_code == 422
    assert field in answer.json()["error"]
    assert harness.producer.records == []


def test_what_is_no_json_or_too_large_is_refused(harness: GatewayHarness) -> None:
    headers = harness.headers("root")
    for body in (b"", b"{", b"{\xff"):
        assert harness.client.post("/v1/users/ada/events", content=body, headers=headers).status_code == 400
    assert (
        harness.client.post("/v1/users/ada/events", content=b" " * (MAX_BODY + 1), headers=headers).status_code == 413
    )
    assert harness.post("ada/events", {"seq": 0, "events": [CLICK] * (MAX_EVENTS + 1)}).status_code == 422
    zipped = harness.client.post(
        "/v1/users/ada/events", content=b"\x1f\x8b", headers=headers | {"Content-Encoding": "gzip"}
    )
    assert (zipped.status_code, "Content-Encoding" in zipped.json()["error"]) == (415, True)
    for user in ("a%00b", "%FF", "%ed%a0%80"):
        assert harness.post(f"{user}/events", {"seq": 0, "events": [CLICK]}).status_code == 422
    assert harness.get("ada/rankings?k=0").status_code == harness.get("ada/rankings?k=x").status_code == 422
    assert harness.client.get("/v1/elsewhere").status_code == 404


def test_another_path_or_method_is_answered_by_what_is_right(harness: GatewayHarness) -> None:
    slash = harness.get("a%2Fb")
    assert (slash.status_code, "%2F" in slash.json()["error"]) == (404, True)
    assert harness.client.post("/v1/users/ada/events/", json={}, follow_redirects=False).status_code == 404
    put = harness.client.put("/v1/users/ada", headers=harness.headers("root"))
    assert (put.status_code, {*put.headers["allow"].split(", ")}) == (405, {"GET", "HEAD", "DELETE"})
    refused = [harness.get("ada", who).json()["error"] for who in ("shop", "ada")]
    refused.append(harness.get("bob/rankings", "ada").json()["error"])
    assert refused == ["token shop has no scope admin", "token ada has no scope admin", "token ada is for another user"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"user": "a/b"}, "user"),
        ({"items": [{"id": "a"}, {"id": "a"}]}, "$.items"),
        ({"items": [{"id": "\0"}]}, "$.items[0].id"),
    ],
)
def test_a_wrong_field_of_metarank_is_named(harness: GatewayHarness, change: dict[str, object], field: str) -> None:
    body = {"id": "id1", "timestamp": 1, "user": "ada", "items": [{"id": "a"}]} | change
    answer = harness.client.post("/rank/any", json=body, headers=harness.headers("root"))
    assert (answer.status_code, field in answer.json()["error"]) == (422, True)


@pytest.mark.process
def test_the_client_repeats_what_a_proxy_answers_for_the_gateway() -> None:
    answers = [(502, b"<html>"), (504, b""), (200, b'{"releases": []}'), (200, b"<html>")]

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, page = answers.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with Client(f"http://127.0.0.1:{server.server_port}", "token", pause_s=0.001) as client:
            assert client.get("/v1/releases") == {"releases": []}
            with pytest.raises(GatewayError, match="200: no answer of a gateway"):
                client.get("/v1/releases")
        server.shutdown()
        thread.join()


def test_only_a_token_with_the_scope_and_for_the_user_is_admitted(harness: GatewayHarness) -> None:
    body = {"seq": 0, "events": [CLICK]}
    assert harness.client.post("/v1/users/ada/events", json=body).status_code == 401
    assert harness.post("ada/events", body, "guessed").status_code == 401
    assert harness.post("ada/events", body, "shop").status_code == 403
    assert harness.get("ada/rankings", "device").status_code == 403
    assert harness.get("ada", "ada").status_code == 403
    assert harness.post("bob/events", body, "ada").status_code == 403
    assert harness.producer.records == []
    assert harness.post("ada/events", body, "ada").status_code == 202
    assert harness.get("ada/rankings", "ada").status_code == 200
    assert harness.get("ada").json()["next_seq"] == 42
    assert not any(token in harness.kept for token in harness.tokens.values()), "the file has hashes only"


def test_a_token_is_made_once_and_a_damaged_file_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    with pytest.raises(UserError, match=r"no file .*: add one with mc2sf gateway token NAME --tokens"):
        Tokens.read(path)
    with pytest.raises(UserError, match=r"there is no folder .*new"):
        add(tmp_path / "new" / path.name, "a", ("rank",), None)
    add(path, "a", ("rank",), None)
    assert path.stat().st_mode & 0o77 == 0
    with pytest.raises(UserError, match="has a token 'a'"):
        add(path, "a", ("rank",), None)


STORED = {"name": "a", "sha256": "0" * 64, "scopes": ["rank"]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "has no token, so every request would be refused: add one with mc2sf gateway token"),
        (b"", "is no file of tokens: Input data was truncated"),
        (b'[{"name": "\xe9"}]', "is no file of tokens"),
        ([{"name": 1}], r"Expected `str`, got `int` - at `\$\[0\].name`"),
        ([STORED | {"sha256": "the token itself"}], r"at `\$\[0\].sha256`"),
        ([STORED | {"sha256": "é" * 64}], r"at `\$\[0\].sha256`"),
        ([STORED | {"scopes": []}], r"at `\$\[0\].scopes`"),
        ([STORED | {"user": ""}], r"at `\$\[0\].user`"),
        ([STORED, STORED | {"sha256": "1" * 64}], r"one name twice, in `\$\[0\]` and `\$\[1\]`"),
        ([STORED, STORED | {"name": "b"}], r"one sha256 twice, in `\$\[0\]` and `\$\[1\]`"),
    ],
)
def test_a_file_by_which_a_token_would_never_be_admitted_is_a_clear_error(
    tmp_path: Path, content: bytes | list[object], sentence: str
) -> None:
    path = tmp_path / "tokens.json"
    path.write_bytes(content if isinstance(content, bytes) else msgspec.json.encode(content))
    with pytest.raises(UserError, match=sentence):
        Tokens.read(path)


def test_the_live_page_needs_a_token_of_an_admin_of_all_users(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    of_a_user = add(path, "ada", ("admin",), "ada")
    with pytest.raises(UserError, match=r"no token of an admin of all users: add one with .* --admin"):
        admin_of(path)
    of_all, device = add(path, "me", ("admin",), None), add(path, "device", ("rank",), None)
    assert [admin_of(path)(token) for token in (of_all, of_a_user, device, "")] == [True, False, False, False]


def test_rankings_say_what_they_were_made_with(harness: GatewayHarness) -> None:
    known = {"user": "ada", "release": 3, "variant": "mc2sf", "degraded": False, "next_seq": 42, "r2_age": 600}
    known |= {"history_age": 1_000, "history": 1, "not_uploaded": 1}
    best = harness.get("ada/rankings?k=2", "shop").json()
    assert len(best.pop("ranking")) == 16
    assert best == known | {"items": [{"item": "c", "score": 1.0}, {"item": "b", "score": 0.5}]}
    ranked = harness.post("ada/rankings", {"candidates": ["x", "y"], "k": 1}, "shop").json()
    assert ranked | known | {"items": [{"item": "y", "score": 0.5}]} == ranked
    assert "candidates" in harness.post("ada/rankings", {"candidates": []}).json()["error"]


def test_the_fast_part_answers_for_a_late_cloud_and_nobody_for_a_late_device(harness: GatewayHarness) -> None:
    harness.late.add("cloud")
    late = harness.get("ada/rankings").json()
    assert (late["degraded"], late["variant"], late["history_age"]) == (True, "fast", None)
    harness.late.clear()
    assert (
        harness.client.get(f"/v1/rankings/{late['ranking']}", headers=harness.headers("shop")).json()["ranking"] == late
    )
    harness.late.add("device")
    away = harness.get("ada/rankings")
    assert (away.status_code, away.headers["retry-after"]) == (503, "1")
    harness.late.clear()
    assert harness.get("ada/rankings").json()["degraded"] is False, "it comes back by itself"


def test_a_click_on_a_ranking_brings_the_rest_of_its_list_along(harness: GatewayHarness, settings: Settings) -> None:
    ranking = harness.post("ada/rankings", {"candidates": ["x", "y", "z"], "k": 2}).json()["ranking"]
    click = {"item": "y", "kind": "click", "time": 1_000, "ranking": ranking}
    answer = harness.post("ada/events", {"seq": SEQ, "events": [click]})
    assert (answer.status_code, answer.json()["next_seq"]) == (202, 7)
    number = ranking_impression(ranking)
    expected = DeviceBatch("ada", SEQ, ["z", "y"], b"\x00\x01", [1_000] * 2, [number] * 2, 9_000)
    assert harness.producer.records == [(partition_of(b"ada", settings.partitions), b"ada", expected)]
    seen = [click | {"kind": "exposure", "item": "z"}, click]
    assert harness.post("ada/events", {"seq": 7, "events": seen}).json()["next_seq"] == 9
    for field, wrong in (
        ("events[0].ranking", click | {"ranking": "guessed"}),
        ("events[0].item", click | {"item": "x"}),
        ("events[0].impression", click | {"impression": 3}),
    ):
        refused = harness.post("ada/events", {"seq": 9, "events": [wrong]})
        assert (refused.status_code, field in refused.json()["error"]) == (422, True)
    assert harness.post("bob/events", {"seq": 0, "events": [click]}).status_code == 422


def test_events_without_numbers_have_a_key_and_the_time_of_their_arrival(harness: GatewayHarness) -> None:
    headers = harness.headers("device") | {"Idempotency-Key": "order 66"}
    body = {"events": [{"item": "film", "kind": "click"}]}
    answer = harness.client.post("/v1/users/ada/events", json=body, headers=headers)
    assert (answer.status_code, answer.json()["idempotency_key"], answer.json()["next_seq"]) == (202, "order 66", None)
    own = harness.post("ada/events", body).json()["idempotency_key"]
    first, second = (record for _, _, record in harness.producer.records)
    assert (first.key, first.seq, first.times) == ("order 66", 0, [9_000])
    assert second.key == own != first.key
    assert (bool(first.body), second.body) == (True, 0)
    both = harness.client.post("/v1/users/ada/events", json=body | {"seq": 1}, headers=headers)
    assert both.status_code == 422
    empty = harness.client.post("/v1/users/ada/events", json=body, headers=headers | {"Idempotency-Key": ""})
    assert empty.status_code == 422


def test_a_key_that_comes_with_other_events_is_refused(harness: GatewayHarness) -> None:
    headers = harness.headers("root") | {"Idempotency-Key": "k1"}

    def sent(user: str, *events: dict[str, object]) -> tuple[int, bool]:
        answer = harness.client.post(f"/v1/users/{user}/events", json={"events": events}, headers=headers)
        return answer.status_code, "Idempotency-Key: it came with other events" in answer.text

    assert sent("ada", CLICK) == sent("ada", dict(reversed(CLICK.items()))) == sent("bob", SHOWN) == (202, False)
    assert sent("ada", SHOWN) == (422, True)
    assert harness.client.delete("/v1/users/ada", headers=harness.headers("root")).status_code == 202
    assert sent("ada", SHOWN) == (202, False), "of a new user"
    sent_on = [record.body for _, _, record in harness.producer.records if isinstance(record, DeviceBatch)]
    assert len(sent_on) == 4
    assert sent_on[0] == sent_on[1] != sent_on[2] == sent_on[3] != 0, "by it a device knows the key of another gateway"
    keys = SeenKeys(kept=2)
    bodies = [body_hash(Events([Event(item, "click")])) for item in "ab"]
    assert not any(keys.is_of_another("ada", key, bodies[0]) for key in ("1", "2", "3"))
    assert keys.is_of_another("ada", "3", bodies[1])
    assert not keys.is_of_another("ada", "1", bodies[1]), "it is not known any more"


def test_a_ranking_is_explained_from_its_record_and_its_release(harness: GatewayHarness) -> None:
    ranking = harness.get("ada/rankings?k=2", "shop").json()
    path = f"/v1/rankings/{ranking['ranking']}"
    found = harness.client.get(path, headers=harness.headers("shop")).json()
    assert found["ranking"] == ranking
    assert found["same"] is False, "the scores of this test are made up"
    assert [each["item"] for each in found["items"]] == ["c", "b"]
    for each in found["items"]:
        assert each["w1"] + each["w2"] == pytest.approx(1.0)
        assert 0 < each["alpha"] < 1
    assert (found["before_seq"], found["before_offset"], found["window"]) == (42, 7, 1)
    assert found["history"] == [{"item": "a", "seq": None}]
    assert found["release"]["version"] == 3
    assert harness.client.get(path, headers=harness.headers("ada")).status_code == 200
    other = harness.get("bob/rankings").json()["ranking"]
    assert harness.client.get(f"/v1/rankings/{other}", headers=harness.headers("ada")).status_code == 404


def test_metaranks_clients_are_served(harness: GatewayHarness) -> None:
    headers = harness.headers("root")
    request = {
        "id": "r1",
        "user": "alice",
        "timestamp": "1661431894711",
        "items": [{"id": "x"}, {"id": "y"}, {"id": "z"}],
    }
    ranked = harness.client.post("/rank/xgboost", json=request | {"fields": []}, headers=headers).json()
    assert [each["item"] for each in ranked["items"]] == ["z", "y", "x"]
    assert harness.client.post("/rank/xgboost", json=request, headers=headers).json()["items"] == ranked["items"]
    other = harness.client.post("/rank/xgboost", json=request | {"items": [{"id": "v"}]}, headers=headers)
    assert (other.status_code, "$.id" in other.json()["error"]) == (422, True), "the id is that of another list"
    shown = request | {"event": "ranking"}
    click = {"event": "interaction", "type": "click", "id": "e2", "ranking": "r1", "item": "y"}
    click |= {"user": "alice", "timestamp": 1661431895711}
    film = {"event": "item", "id": "e3", "item": "x", "timestamp": 0, "fields": []}
    answer = harness.client.post("/feedback", json=[shown, click, film], headers=headers)
    assert (answer.status_code, answer.json()["accepted"], answer.json()["status"]) == (200, 3, "ok")
    first, second = (record for _, _, record in harness.producer.records)
    assert (first.items, first.kinds, first.key) == (["x", "y", "z"], bytes(3), "ranking r1")
    assert (second.items, second.kinds, second.key) == (["x", "z", "y"], bytes([2, 2, 1]), "interaction e2")
    assert first.times + second.times == [9_000] * 6, "nothing happens later than it arrives"
    assert 0 != first.body != second.body != 0
    number = ranking_impression(ranked["ranking"])
    assert second.impressions == [number] * 3, "ranked among what was shown; the exposures came in before"
    assert harness.client.post("/feedback", json=click, headers=harness.headers("ada")).status_code == 403
    for field, wrong in (("user", {"user": None}), ("item", {"item": None}), ("timestamp", {"timestamp": "soon"})):
        refused = harness.client.post("/feedback", json=click | wrong, headers=headers)
        assert (refused.status_code, field in refused.json()["error"]) == (422, True)


def test_an_admin_has_a_user_forgotten(harness: GatewayHarness, settings: Settings) -> None:
    ranking = harness.get("ada/rankings").json()["ranking"]
    path = "/v1/users/ada"
    assert harness.client.delete(path, headers=harness.headers("ada")).status_code == 403
    answer = harness.client.delete(path, headers=harness.headers("root"))
    assert (answer.status_code, answer.json()) == (202, {"user": "ada", "topics_until": 9_000 + 8 * 86_400_000})
    partition = partition_of(b"ada", settings.partitions)
    assert harness.producer.records == [(partition, b"ada", Forget("ada", 9_000))]
    harness.rankings.take(Forget("ada", 9_000))
    assert harness.client.get(f"/v1/rankings/{ranking}", headers=harness.headers("root")).status_code == 404


def test_floods_and_slow_clients_are_refused(harness: GatewayHarness) -> None:
    statuses = [harness.get("ada", "root").status_code for _ in range(52)]
    assert statuses == [200] * 50 + [429] * 2
    assert harness.get("ada", "root").headers["retry-after"] == "1"
    assert harness.get("ada/rankings", "shop").status_code == 200, "others are not affected"
    harness.now += 2
    assert [harness.get("ada", "root").status_code for _ in range(3)] == [200, 200, 429]
    assert asyncio.run(_slow(harness)) == 408


async def _slow(harness: GatewayHarness) -> int:
    """Return the status of a request whose body never ends."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if sent_body := not getattr(receive, "begun", False):
            receive.begun = True  # type: ignore[attr-defined]
        else:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": b"{", "more_body": sent_body}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", harness.headers("device")["Authorization"].encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/users/ada/events", "headers": headers, "query_string": b""}
    await harness.app(scope, receive, send)
    return int(sent[0]["status"])


@pytest.mark.process
def test_the_client_repeats_events_until_they_are_accepted_under_one_key(harness: GatewayHarness) -> None:
    server = uvicorn.Server(uvicorn.Config(harness.app, port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()

    def comes_back() -> None:
        wait_for(lambda: len(harness.producer.records) > 1, "a repeat")
        harness.producer.away = False

    try:
        wait_for(lambda: server.started, "the server")
        port = server.servers[0].sockets[0].getsockname()[1]
        harness.producer.away = True
        with Client(f"http://127.0.0.1:{port}", harness.tokens["root"], pause_s=0.01) as client:
            threading.Thread(target=comes_back).start()
            assert client.events("a b", [{"item": "x", "kind": "click"}])["user"] == "a b"
            keys = {record.key for _, _, record in harness.producer.records}
            assert len(harness.producer.records) > len(keys) == 1
            ranking = client.rank("a b", ["x", "y"], 1)
            assert [each["item"] for each in ranking["items"]] == ["y"]
            assert client.explain(ranking["ranking"])["ranking"] == ranking
            assert len(client.best("a b", 2)["items"]) == 2
            assert client.get("/v1/releases")["releases"][0]["version"] == 3
            with pytest.raises(GatewayError, match="422: k"):
                client.best("a b", 0)
    finally:
        server.should_exit = True
        thread.join()


def test_what_is_in_the_tables_is_answered_with_503_while_the_database_is_away(
    settings: Settings, harness: GatewayHarness
) -> None:
    nowhere = sa.create_engine("sqlite:////no/such/folder/mc2sf.db")
    tables = Tables(FoundRun(settings, nowhere, None, "test"))
    client = TestClient(dataclasses.replace(harness.gateway, tables=tables).app())
    for path in ("/v1/users/ada", "/v1/releases", "/v1/items/film"):
        answer = client.get(path, headers=harness.headers("root"))
        assert (answer.status_code, "the database has not answered" in answer.text) == (503, True), answer.text
    assert tables.served() == "popularity"


def test_a_gateway_is_not_ready_without_its_broker_and_ends_with_its_run(settings: Settings, tmp_path: Path) -> None:
    engine, ends = connect(settings.database.get_secret_value()), []
    register_run(settings, engine, "test")
    harness = GatewayHarness(settings, tmp_path)
    watched = FoundRun(settings, engine, None, "test")
    require_running(watched)
    watch = RunWatch(watched, harness.producer, pause_s=0)
    watch.on_end = lambda: ends.append(watch.missing)
    client = TestClient(dataclasses.replace(harness.gateway, watch=watch).app())
    for harness.producer.away, status, words in ((False, 200, "ok"), (True, 503, "broker"), (False, 200, "ok")):
        watch.missing = watch.look()
        answer = client.get("/readyz")
        assert (answer.status_code, words in answer.text) == (status, True), answer.text
    assert not watch.ended
    with engine.begin() as connection:
        connection.execute(sa.update(schema.runs).values(status="finished"))
    asyncio.run(watch.run())
    assert ends == [f"run {settings.run} has ended"]
    with pytest.raises(UserError, match="has ended: a gateway needs one that goes on"):
        require_running(watched)
    harness.ingest.close()
    engine.dispose()


def test_accepted_events_are_on_the_broker(broker_settings: Settings, tmp_path: Path) -> None:
    topic_admin.create(broker_settings)
    harness = GatewayHarness(broker_settings, tmp_path, clients.producer(broker_settings, "gateway"))
    with harness.client:
        for seq in range(3):
            assert harness.post("ada/events", {"seq": seq, "events": [CLICK]}).status_code == 202
    log = TopicReader(broker_settings, DEVICE_EVENTS, DeviceEvent)
    records = log.until(lambda records: len(records) == 3, "what was accepted")
    log.close()
    assert [(record.user, record.seq, record.items) for record in records] == [
        ("ada", seq, ["film"]) for seq in range(3)
    ]


def test_the_tables_say_what_is_known_of_users_items_and_releases(settings: Settings) -> None:
    engine = connect(settings.database.get_secret_value())
    a_recorded_run(engine, SMALL)
    with engine.begin() as connection:
        finish_release(connection, SMALL.run, 1)
    tables = Tables(FoundRun(SMALL, engine, None, "test"))
    assert tables.user("nobody") == UserAnswer("nobody", 0, None, None)
    user = tables.user("a")
    assert user.device is not None
    assert user.cloud is not None
    assert user.next_seq > 0 < len(user.device.clicks)
    assert user.cloud.history[-len(user.device.clicks) :] == user.device.clicks
    clicked, _ = tables.last_events("a", user.next_seq)
    assert clicked[int(user.device.clicks[-1])] == max(clicked.values())
    assert [(each.version, each.kind) for each in tables.releases()] == [(1, "retrain")]
    item = tables.item(user.device.clicks[-1])
    assert (item.in_catalogue, item.first_epoch) == (True, 0)
    assert item.clicks >= item.clicks_of_epoch
    assert tables.item("never seen") == ItemAnswer("never seen", 4, 0, 0, None, in_catalogue=False)
    engine.dispose()


def test_of_two_tickers_one_ends_the_epochs_and_the_other_takes_over(settings: Settings) -> None:
    engine, now = connect(settings.database.get_secret_value()), 10_000
    producer = FakeProducer()
    ingest = Ingest(settings, producer)

    def ticker() -> EpochTicker:
        lease = Lease(engine, settings.run, "epoch-ticker", now=lambda: now)
        return EpochTicker(ingest, lease, 60.0, 10_000, lambda: now)

    async def sent_by(*tickers: EpochTicker) -> list[Any]:
        for each in tickers:
            await each.tick()
        sent, producer.records = producer.records, []
        assert {partition for partition, _, _ in sent} in (set(), set(range(settings.partitions)))
        return [record for partition, _, record in sent if partition == 0]

    async def scenario() -> None:
        nonlocal now
        first, second = ticker(), ticker()
        assert await sent_by(first, second) == [EpochBegin(0, None, 10_000)]
        assert await sent_by(first, second) == []
        now += 61_000
        assert await sent_by(first, second) == [EpochEnd(0, 70_000), EpochBegin(1, None, 70_000)]
        now += 60_000  # the first one is gone, and its lease has expired
        assert await sent_by(second) == [EpochEnd(1, 130_000), EpochBegin(2, None, 130_000)]

    asyncio.run(scenario())
    ingest.close()
    engine.dispose()
