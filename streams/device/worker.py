"""The device worker: every user's short histories, windows and requests, as a Faust worker.

In: device-events and cloud-downlink, read by one agent, so that a user's row has one writer. Out: device-uplink,
outcomes, fast-examples, dead-letters. Start it with `mc2sf worker device` or `faust -A streams.device worker`; the
workers of one run share the partitions. `batch` processes a batch, `faust_runtime.worker` makes it durable.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from streams.device.batch import DeviceWork
from streams.device.batch_counts import ROLE
from streams.device.index import DeviceIndex
from streams.faust_runtime.app import PlatformApp, run_worker
from streams.faust_runtime.worker import Worker
from streams.kafka.message import Message
from streams.kafka.partitioner import partition_of_row
from streams.releases.reader import ReleaseReader
from streams.settings import Settings
from streams.topics import CLOUD_DOWNLINK, DEVICE_EVENTS

_EXPIRY_S = 1.0  # interval between checks for overdue requests if no records come


class Device:
    """Begins the batches; keeps the index of the rows and builds it again after every assignment."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._index, self._assignment = DeviceIndex(), -1

    def __call__(
        self, received: Sequence[Message], table: Mapping[bytes, bytes], assignment: int, wall: int
    ) -> DeviceWork:
        """Return the work on a batch."""
        if assignment != self._assignment:
            self._index, self._assignment = DeviceIndex.of(table, self._settings.partitions), assignment
        return DeviceWork(self._settings, received, table, self._index, wall)


def build(settings: Settings) -> PlatformApp:
    """Return the device's Faust app."""
    partition_for_key = functools.partial(partition_of_row, partitions=settings.partitions)
    reader = ReleaseReader(settings, ROLE)
    worker = Worker(settings, ROLE, (DEVICE_EVENTS, CLOUD_DOWNLINK), partition_for_key, Device(settings), reader)
    if not settings.lockstep:
        worker.app.timer(interval=_EXPIRY_S)(worker.process_idle)
    return worker.app


@functools.cache
def app() -> PlatformApp:
    """Return this process's Faust app, built from the environment's settings."""
    return build(Settings())


def main() -> None:
    """Run a device worker on the environment's settings until a signal stops it."""
    run_worker(app())
