"""The gateway: who may do what, what is refused and which field is named, what Kafka has when it answers 202."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from deploy.gateway.app import Gateway
from deploy.gateway.bodies import MAX_BODY, MAX_EVENTS
from deploy.gateway.epoch_ticker import EpochTicker
from deploy.gateway.ingest import Ingest
from deploy.gateway.serving import Ranker
from deploy.gateway.tokens import Tokens, add
from deploy.recommend import Recommendation, Suggestion, recommend
from deploy.runs import Found
from deploy.user_error import UserError
from streams.codec import Reader
from streams.coordinator.lease import Lease
from streams.database.engine import connect
from streams.kafka import clients, topic_admin
from streams.kafka.partitioner import partition_of
from streams.records import DeviceBatch, DeviceEvent, EpochBegin, EpochEnd
from streams.releases.registry import finish_release
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS
from tests.support.simulation import SMALL
from tests.support.workers import Log
from tests.test_streams_rescoring import a_recorded_run

SEQ, CLICK = 5, {"item": "film", "kind": "click", "time": 1_000, "impression": 7}
SHOWN = {"item": "other", "kind": "exposure", "time": 1_001, "impression": 7}


class Acknowledged:
    """Kafka's message, as far as a delivery report reads it."""


class FakeProducer:
    """A producer whose broker acknowledges each record, or is away."""

    def __init__(self) -> None:
        self.away, self.failure = False, ""
        self.records: list[tuple[int, bytes | None, Any]] = []
        self._reports: list[Any] = []
        self._lock = threading.Lock()
        self._events: Reader[Any] = Reader(DeviceEvent)

    def produce(self, _topic: str, value: bytes, key: bytes | None, partition: int, on_delivery: Any) -> None:
        with self._lock:
            self.records.append((partition, key, self._events.decode(value)))
            self._reports.append(on_delivery)

    def poll(self, timeout: float) -> int:
        with self._lock:
            due, self._reports = ([], self._reports) if self.away else (self._reports, [])
        for report in due:
            report(None, Acknowledged())
        threading.Event().wait(min(timeout, 0.001))
        return len(due)

    def flush(self, _timeout: float) -> int:
        return 0


class World:
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
        gateway = Gateway(Tokens.read(path), self.ingest, self.rank, lambda _user: 42, lambda: 9_000)
        self.client = TestClient(gateway.app(), raise_server_exceptions=False)

    def rank(self, user: str, k: int, candidates: list[str] | None) -> Recommendation:
        if user == "nobody":
            raise UserError("no events of user 'nobody'")
        if user == "broken":
            raise ZeroDivisionError
        items = [Suggestion(name, 1.0 / (n + 1)) for n, name in enumerate(candidates or ["a", "b", "c"])]
        return Recommendation("fast", items[:k], 3, 12)

    def post(self, path: str, body: Any, who: str = "root") -> Any:
        return self.client.post(f"/v1/users/{path}", json=body, headers=self.headers(who))

    def get(self, path: str, who: str = "root") -> Any:
        return self.client.get(f"/v1/users/{path}", headers=self.headers(who))

    def headers(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens.get(who, who)}"}


@pytest.fixture
def world(settings: Settings, tmp_path: Path) -> Iterator[World]:
    world = World(settings, tmp_path)
    with world.client:
        yield world


def test_accepted_events_are_on_their_users_partition_as_one_record(world: World, settings: Settings) -> None:
    answer = world.post("ada/events", {"seq": SEQ, "events": [CLICK, SHOWN]}, "device")
    assert (answer.status_code, answer.json()) == (202, {"user": "ada", "accepted": 2, "next_seq": 7})
    expected = DeviceBatch("ada", SEQ, ["film", "other"], b"\x01\x00", [1_000, 1_001], [7, 7], 9_000)
    assert world.producer.records == [(partition_of(b"ada", settings.partitions), b"ada", expected)]


def test_without_an_acknowledgement_events_are_not_accepted_and_may_be_sent_again(world: World) -> None:
    body = {"seq": 0, "events": [CLICK]}
    world.producer.away = True
    away = world.post("ada/events", body)
    assert (away.status_code, away.headers["retry-after"]) == (503, "1")
    world.producer.away = False
    assert world.post("ada/events", body).status_code == 202
    first, second = (record for _, _, record in world.producer.records)
    assert first == second, "the same numbers: a device applies them once"


BAD = {
    "seq": {"seq": -1, "events": [CLICK]},
    "events": {"seq": 0, "events": []},
    "events[0].kind": {"seq": 0, "events": [CLICK | {"kind": "buy"}]},
    "events[1].time": {"seq": 0, "events": [CLICK, SHOWN | {"time": 999}]},
    "events[0].item": {"seq": 0, "events": [CLICK | {"item": ""}]},
    "price": {"seq": 0, "events": [CLICK | {"price": 1}]},
}


@pytest.mark.parametrize("field", BAD)
def test_a_wrong_field_is_named_and_nothing_is_sent(world: World, field: str) -> None:
    answer = world.post("ada/events", BAD[field], "device")
    assert answer.status_code == 422
    assert field in answer.json()["error"]
    assert world.producer.records == []


def test_what_is_no_json_or_too_large_is_refused(world: World) -> None:
    headers = world.headers("root")
    for body in (b"", b"{", b"{\xff"):
        assert world.client.post("/v1/users/ada/events", content=body, headers=headers).status_code == 400
    assert world.client.post("/v1/users/ada/events", content=b" " * (MAX_BODY + 1), headers=headers).status_code == 413
    assert world.post("ada/events", {"seq": 0, "events": [CLICK] * (MAX_EVENTS + 1)}).status_code == 422
    assert world.post("a%00b/events", {"seq": 0, "events": [CLICK]}).status_code == 422
    assert world.get("ada/rankings?k=0").status_code == world.get("ada/rankings?k=x").status_code == 422
    assert world.client.get("/v1/elsewhere").status_code == 404


def test_only_a_token_with_the_scope_and_for_the_user_is_admitted(world: World) -> None:
    body = {"seq": 0, "events": [CLICK]}
    assert world.client.post("/v1/users/ada/events", json=body).status_code == 401
    assert world.post("ada/events", body, "guessed").status_code == 401
    assert world.post("ada/events", body, "shop").status_code == 403
    assert world.get("ada/rankings", "device").status_code == 403
    assert world.get("ada", "ada").status_code == 403
    assert world.post("bob/events", body, "ada").status_code == 403
    assert world.producer.records == []
    assert world.post("ada/events", body, "ada").status_code == 202
    assert world.get("ada/rankings", "ada").status_code == 200
    assert world.get("ada").json() == {"user": "ada", "next_seq": 42}
    assert not any(token in world.kept for token in world.tokens.values()), "the file has hashes only"


def test_a_token_is_made_once_and_a_damaged_file_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    with pytest.raises(UserError, match="make a token with"):
        Tokens.read(path)
    add(path, "a", ("rank",), None)
    assert path.stat().st_mode & 0o77 == 0
    with pytest.raises(UserError, match="has a token 'a'"):
        add(path, "a", ("rank",), None)
    path.write_text('[{"name": 1}]')
    with pytest.raises(UserError, match="has no tokens"):
        Tokens.read(path)


def test_rankings_say_what_they_were_made_with(world: World) -> None:
    known = {"user": "ada", "release": 3, "variant": "fast", "known_until_epoch": 12}
    best = world.get("ada/rankings?k=2", "shop")
    assert best.json() == known | {"items": [{"item": "a", "score": 1.0}, {"item": "b", "score": 0.5}]}
    ranked = world.post("ada/rankings", {"candidates": ["x"]}, "shop")
    assert ranked.json() == known | {"items": [{"item": "x", "score": 1.0}]}
    assert world.get("nobody/rankings").status_code == 404
    assert world.get("broken/rankings").status_code == 500
    assert "candidates" in world.post("ada/rankings", {"candidates": []}).json()["error"]


def test_accepted_events_are_on_the_broker(broker_settings: Settings, tmp_path: Path) -> None:
    topic_admin.create(broker_settings)
    world = World(broker_settings, tmp_path, clients.producer(broker_settings, "gateway"))
    with world.client:
        for seq in range(3):
            assert world.post("ada/events", {"seq": seq, "events": [CLICK]}).status_code == 202
    log = Log(broker_settings, DEVICE_EVENTS, DeviceEvent)
    records = log.until(lambda records: len(records) == 3, "what was accepted")
    log.close()
    assert [(record.user, record.seq, record.items) for record in records] == [
        ("ada", seq, ["film"]) for seq in range(3)
    ]


def test_rankings_are_those_of_the_newest_release_in_the_tables(settings: Settings) -> None:
    engine = connect(settings.database.get_secret_value())
    a_recorded_run(engine, SMALL)
    with engine.begin() as connection:
        for version in range(3):
            finish_release(connection, SMALL.run, version)
    found = Found(SMALL, engine, None, "test")
    ranker = Ranker(found)
    best = ranker("a", 3, None)
    assert (best.release, len(best.items)) == (2, 3)
    assert best == recommend(found, "a", 3)
    names = [each.item for each in best.items]
    ranked = ranker("a", 4, [*reversed(names), "never seen"])
    assert [each for each in ranked.items if each.item in names] == best.items, "the same scores"
    assert {each.item for each in ranked.items} == {*names, "never seen"}
    with pytest.raises(UserError, match="no events of user 'nobody'"):
        ranker("nobody", 3, None)
    assert ranker.next_seq("nobody") == 0 < ranker.next_seq("a")
    engine.dispose()


def test_of_two_tickers_one_ends_the_epochs_and_the_other_takes_over(settings: Settings) -> None:
    engine, now = connect(settings.database.get_secret_value()), 10_000
    producer = FakeProducer()
    ingest = Ingest(settings, producer)

    def ticker(reached: int) -> EpochTicker:
        lease = Lease(engine, settings.run, "epoch-ticker", now=lambda: now)
        made = EpochTicker(ingest, lease, 60.0, 10_000, lambda: now)
        made.reached = reached
        return made

    async def sent_by(*tickers: EpochTicker) -> list[Any]:
        for each in tickers:
            await each.turn()
        sent, producer.records = producer.records, []
        assert {partition for partition, _, _ in sent} in (set(), set(range(settings.partitions)))
        return [record for partition, _, record in sent if partition == 0]

    async def scenario() -> None:
        nonlocal now
        first, second = ticker(77), ticker(99)
        assert await sent_by(first, second) == [EpochBegin(0, None, 77)]
        assert await sent_by(first, second) == []
        now += 60_000
        assert await sent_by(first, second) == [EpochEnd(0, 77), EpochBegin(1, None, 77)]
        now += 60_000  # the first one is gone, and its lease has expired
        assert await sent_by(second) == [EpochEnd(1, 99), EpochBegin(2, None, 99)]

    asyncio.run(scenario())
    ingest.close()
    engine.dispose()
