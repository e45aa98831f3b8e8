"""The cloud worker: every user's delayed click history and newest r2s, as a Faust worker.

In: device-uplink. Out: cloud-downlink, dead-letters. Start it with `mc2sf worker cloud` or
`faust -A streams.cloud worker`; the workers of one run share the partitions. `batch` processes a batch,
`faust_runtime.worker` makes it durable.
"""

from __future__ import annotations

import functools

from streams.cloud.batch import ROLE, CloudWork
from streams.faust_runtime.app import PlatformApp, run_worker
from streams.faust_runtime.worker import Worker
from streams.kafka.partitioner import partition_of_row
from streams.releases.reader import ReleaseReader
from streams.settings import Settings
from streams.topics import DEVICE_UPLINK


def build(settings: Settings) -> PlatformApp:
    """Return the cloud's Faust app."""
    partition_for_key = functools.partial(partition_of_row, partitions=settings.partitions)
    start = functools.partial(CloudWork, settings)
    return Worker(settings, ROLE, (DEVICE_UPLINK,), partition_for_key, start, ReleaseReader(settings, ROLE)).app


@functools.cache
def app() -> PlatformApp:
    """Return this process's Faust app, built from the environment's settings."""
    return build(Settings())


def main() -> None:
    """Run a cloud worker on the environment's settings until a signal stops it."""
    run_worker(app())
