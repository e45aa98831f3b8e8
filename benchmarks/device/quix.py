"""Quix Streams counting the events of each user in its state, with a changelog; no histories, no nets.

State is by the key of the Kafka record: the users of an envelope have entries of their own in that of its partition.
Less work than the device's: the cost of a maintained streaming library for Python with minimal state.
"""

from __future__ import annotations

from quixstreams import Application, State

from streams.codec import Reader
from streams.kafka.envelope import unpack_envelope
from streams.process import telemetry
from streams.records import DeviceBatch
from streams.settings import Settings
from streams.topics import DEVICE_EVENTS


def build(settings: Settings) -> Application:
    """The application with its one dataframe."""
    app = Application(
        broker_address=settings.brokers,
        consumer_group=f"{settings.run}-quix",
        auto_offset_reset="earliest",
        commit_interval=1.0,  # as often as the Faust workers
        state_dir=settings.state_dir / "quix",
        loglevel="WARNING",
    )
    reader: Reader[DeviceBatch] = Reader(DeviceBatch)

    def count(value: bytes, state: State) -> int:
        records, total = unpack_envelope(value), 0
        for name, record in [("events", value)] if records is None else [(f"events {k!r}", v) for k, v in records]:
            events = len(reader.decode(record).items)
            total = state.get(name, 0) + events
            state.set(name, total)
            telemetry.EVENTS_APPLIED.inc(events)
        return total

    source = app.topic(DEVICE_EVENTS.full(settings), key_deserializer="bytes", value_deserializer="bytes")
    app.dataframe(source).apply(count, stateful=True)
    return app
