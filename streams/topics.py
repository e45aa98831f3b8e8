"""The bus on one page: names, keys, partitions and policies of every topic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from streams.settings import Settings

_HOUR: Final = 3_600_000


@dataclass(frozen=True)
class Topic:
    """A topic of a run. `name` is without the run prefix; a `keyed` one has `Settings.partitions` partitions."""

    name: str
    key: str
    compact: bool = False
    keyed: bool = True  # by user, partitioned as Kafka's Java client does; else a single partition

    def full(self, settings: Settings) -> str:
        """The name on the broker."""
        return f"{settings.run}-{self.name}"

    def partitions(self, settings: Settings) -> int:
        """How many partitions it has."""
        return settings.partitions if self.keyed else 1

    def config(self) -> dict[str, str]:
        """The broker-side settings it is created with and checked against."""
        if self.compact:
            return {
                "cleanup.policy": "compact",
                # longer than the longest publication plus one epoch: a reader that is behind still finds its rows
                "min.compaction.lag.ms": str(_HOUR),
            }
        return {"cleanup.policy": "delete", "retention.ms": str(7 * 24 * _HOUR)}


DEVICE_EVENTS = Topic("device-events", "user")
DEVICE_UPLINK = Topic("device-uplink", "user")
CLOUD_DOWNLINK = Topic("cloud-downlink", "user")
OUTCOMES = Topic("outcomes", "user")
FAST_EXAMPLES = Topic("fast-examples", "user")
ITEM_EMBEDDINGS = Topic("item-embeddings", "item", compact=True, keyed=False)
MODEL_WEIGHTS = Topic("model-weights", "part/version", compact=True, keyed=False)
MODEL_RELEASES = Topic("model-releases", "version", compact=True, keyed=False)
DEAD_LETTERS = Topic("dead-letters", "source topic", keyed=False)
DEVICE_STATE = Topic("device-state-changelog", "user", compact=True)  # Faust's name for what a table's rows become
CLOUD_STATE = Topic("cloud-state-changelog", "user", compact=True)

TOPICS: Final = (
    DEVICE_EVENTS,
    DEVICE_UPLINK,
    CLOUD_DOWNLINK,
    OUTCOMES,
    FAST_EXAMPLES,
    ITEM_EMBEDDINGS,
    MODEL_WEIGHTS,
    MODEL_RELEASES,
    DEAD_LETTERS,
    DEVICE_STATE,
    CLOUD_STATE,
)
