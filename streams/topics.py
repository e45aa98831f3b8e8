"""The topics of a run: name, key, partitions, policy and purpose of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from streams.settings import Settings

_HOUR: Final = 3_600_000
_SEGMENTS: Final = 7  # of a topic within its retention; the broker deletes whole segments


@dataclass(frozen=True)
class Topic:
    """A topic of a run. `name` is without the run prefix; a `keyed` one has `Settings.partitions` partitions."""

    name: str
    key: str  # meaning of the record's key
    doc: str  # its contents
    compact: bool = False
    keyed: bool = True  # by user, partitioned as Kafka's Java client does; else a single partition
    envelopes: bool = False  # many records of a partition may come as one Kafka record

    def full(self, settings: Settings) -> str:
        """Return the topic's name on the broker."""
        return f"{settings.run}-{self.name}"

    def partitions(self, settings: Settings) -> int:
        """Return the number of partitions."""
        return settings.partitions if self.keyed else 1

    def config(self, settings: Settings) -> dict[str, str]:
        """Return the broker-side settings with which the topic is created and checked."""
        segment = {"segment.ms": str(settings.topics_kept_ms // _SEGMENTS)}
        if self.compact:
            return segment | {
                "cleanup.policy": "compact",
                # longer than the longest publication plus one epoch: a reader that is behind still finds its rows
                "min.compaction.lag.ms": str(_HOUR),
                "max.compaction.lag.ms": str(settings.topics_kept_ms),  # so that a forgotten user's state goes
            }
        return segment | {"cleanup.policy": "delete", "retention.ms": str(settings.topics_kept_ms)}


def gone_after_ms(settings: Settings) -> int:
    """Return the time after which no topic has a record, or one that was replaced, any more."""
    return settings.topics_kept_ms * (_SEGMENTS + 1) // _SEGMENTS


DEVICE_EVENTS = Topic("device-events", "user", "events of the users' devices, and epoch markers", envelopes=True)
DEVICE_UPLINK = Topic(
    "device-uplink", "user", "r2, clicks and requests for priors, from devices to the cloud", envelopes=True
)
CLOUD_DOWNLINK = Topic("cloud-downlink", "user", "the cloud's answers to requests for priors", envelopes=True)
OUTCOMES = Topic("outcomes", "user", "ranks of the evaluated clicks", envelopes=True)
RANKINGS = Topic("rankings", "user", "rankings that gateways asked for, and their inputs")
FAST_EXAMPLES = Topic("fast-examples", "user", "training examples of the fast nets, for the learner", envelopes=True)
ITEM_EMBEDDINGS = Topic("item-embeddings", "item", "changed rows of the item table E", compact=True, keyed=False)
MODEL_WEIGHTS = Topic(
    "model-weights", "part/version", "weights of the parts of releases (safetensors)", compact=True, keyed=False
)
MODEL_RELEASES = Topic(
    "model-releases",
    "kind and number",
    "manifests of the last releases, decisions and item counts of the last epochs",
    compact=True,
    keyed=False,
)
DEAD_LETTERS = Topic("dead-letters", "source topic", "records that a processor refused", keyed=False)
# the changelog topics have the names that Faust gives to those of tables
DEVICE_STATE = Topic(
    "device-state-changelog", "user", "state of the users' devices: see streams/state/device.py", compact=True
)
CLOUD_STATE = Topic(
    "cloud-state-changelog", "user", "state of the users on the cloud: see streams/state/cloud.py", compact=True
)

TOPICS: Final = (
    DEVICE_EVENTS,
    DEVICE_UPLINK,
    CLOUD_DOWNLINK,
    OUTCOMES,
    RANKINGS,
    FAST_EXAMPLES,
    ITEM_EMBEDDINGS,
    MODEL_WEIGHTS,
    MODEL_RELEASES,
    DEAD_LETTERS,
    DEVICE_STATE,
    CLOUD_STATE,
)
