"""The flow between the processes of a run: a line of text per process, and the traffic on each edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Edge(NamedTuple):
    """The traffic from one process to another: an amount, and a line that explains it."""

    amount: str
    what: str


@dataclass(frozen=True)
class Flow:
    """The text of the picture of the flow (`flow.html.j2`). `notes`: a line per process."""

    description: str
    notes: dict[str, str]
    replay_device: Edge
    device_cloud: Edge
    cloud_device: Edge
    device_recorder: Edge
    device_learner: Edge
    recorder_retrain: Edge
    coordinator_workers: Edge

    def rows(self) -> list[tuple[str, str, Edge]]:
        """Return the edges as a table: from, to, what."""
        return [
            ("replay", "device", self.replay_device),
            ("device", "cloud", self.device_cloud),
            ("cloud", "device", self.cloud_device),
            ("device", "recorder", self.device_recorder),
            ("device", "learner", self.device_learner),
            ("recorder", "retrain", self.recorder_retrain),
            ("coordinator", "device, cloud", self.coordinator_workers),
        ]
