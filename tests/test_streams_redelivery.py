"""Dead letters are listed, shown, corrected and sent again; their records are then applied once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from deploy.cli import main
from deploy.runs import register_run, write_run_file
from streams.codec import SCHEMA, encode
from streams.database import schema
from streams.database.engine import connect
from streams.kafka import clients, topic_admin
from streams.kafka.types import RecordPosition
from streams.process.clock_and_signals import wall_ms
from streams.recorder.epoch_writer import EpochWriter
from streams.recorder.recorder import Recorder
from streams.recorder.redelivery import ResendError, position, refused_records, resend
from streams.records import DeviceBatch, EpochBegin, Kind
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS


def batch(seq: int) -> DeviceBatch:
    return DeviceBatch("u", seq, ["1", "2"], bytes([Kind.EXPOSURE, Kind.CLICK]), [1, 2], [0, 0])


@pytest.fixture
def run(broker_settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """A run with two refused records: one of a newer schema, and its successor."""
    settings = broker_settings.model_copy(update={"partitions": 1})
    topic_admin.create(settings)
    engine = connect(settings.database.get_secret_value())
    register_run(settings, engine, "log:x")
    (tmp_path / "out").mkdir()
    write_run_file(tmp_path / "out", settings, "log:x")
    producer = clients.producer(settings, "test")
    for value in (encode(EpochBegin(0, 0, 0)), bytes([SCHEMA + 1]) + encode(batch(0))[1:], encode(batch(2))):
        producer.produce(DEVICE_EVENTS.full(settings), key=b"u", value=value, partition=0)
    assert not producer.flush(30)
    record_until(settings, lambda: count(engine, schema.dead_letters) == 2)
    yield settings
    engine.dispose()


def count(engine: sa.Engine, table: sa.Table) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def record_until(settings: Settings, condition: Callable[[], bool]) -> None:
    engine, until = connect(settings.database.get_secret_value()), time.monotonic() + 60
    writer = EpochWriter(settings, engine, wall_ms)
    with closing(Recorder(settings, writer)) as recorder:
        while not condition():
            assert time.monotonic() < until
            recorder.poll_once()
            writer.flush()
    engine.dispose()


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main.main(["dead-letters", *arguments])
    return int(ended.value.code or 0)


def test_a_refused_record_is_corrected_and_sent_again_with_its_successor(
    run: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, engine = str(tmp_path / "out"), connect(run.database.get_secret_value())
    assert command("list", out) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "device-events/0@1" in listed
    assert "device-events/0@2" in listed
    saved = tmp_path / "record"
    assert command("show", out, "device-events/0@1", "--save", str(saved)) == 0
    assert f"schema {SCHEMA + 1} is newer than {SCHEMA}" in " ".join(capsys.readouterr().out.split())
    saved.write_bytes(bytes([SCHEMA]) + saved.read_bytes()[1:])
    assert command("replay", out, "device-events/0@1", "--value", str(saved)) == 0
    assert command("replay", out) == 0
    assert "1 records sent again" in capsys.readouterr().out
    record_until(run, lambda: count(engine, schema.interactions) == 4)
    with engine.connect() as connection:
        assert all(record.resent_wall for record in refused_records(connection, run.run))
        resend(run, engine, [refused_records(connection, run.run)[1]])  # once more: a repeat
    marker = clients.producer(run, "test")
    marker.produce(DEVICE_EVENTS.full(run), key=b"u", value=encode(batch(4)), partition=0)
    assert not marker.flush(30)
    record_until(run, lambda: count(engine, schema.interactions) == 6)
    with engine.connect() as connection:
        seqs = connection.execute(sa.select(schema.interactions.c.seq).order_by(schema.interactions.c.seq)).scalars()
        assert list(seqs) == list(range(6))
    assert count(engine, schema.dead_letters) == 2
    engine.dispose()


def test_a_record_that_cannot_be_sent_again_is_refused_with_the_reason(run: Settings, tmp_path: Path) -> None:
    out, engine = str(tmp_path / "out"), connect(run.database.get_secret_value())
    assert command("show", out, "device-events/0@7") == 2
    assert command("replay", out, "nothing") == 2
    assert command("replay", out, "--value", str(tmp_path / "out" / "run.json")) == 2
    with engine.connect() as connection:
        first, *_ = refused_records(connection, run.run)
    with pytest.raises(ResendError, match="dead letter is truncated"):
        resend(run, engine, [first._replace(reason="x (cut: the key had 1 bytes, the value 2000000)")])
    engine.dispose()


def test_a_position_is_read_as_it_is_written() -> None:
    at = RecordPosition("device-events", 1, 35)
    assert position(str(at)) == at
    for text in ("no-topic/1@35", "device-events/1"):
        with pytest.raises(ResendError, match="is no position"):
            position(text)
