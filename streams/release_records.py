"""The records of releases: the rows of the item table, manifests, and what was decided after each epoch.

As in `streams/records.py`, the order of the fields is part of the format.
"""

from __future__ import annotations

from typing import Literal

from streams.codec import Record, Tensor
from streams.records import Versions


class EmbeddingRow(Record, frozen=True, tag="row"):
    """One row of the item table E. A reader of encoder version v takes each item's newest row of version <= v."""

    item: int  # item key; negative for the reserved rows (padding, unknown)
    index: int  # row in E, never changes for an item
    vector: Tensor  # f4 [d]
    encoder: int  # version of the encoder that wrote the row


class Manifest(Record, frozen=True, tag="release"):
    """Describes a release. Written after the release's parts."""

    version: int  # version of the release, from 0
    parent: int  # version of the release it was trained from
    kind: Literal["initial", "retrain", "learner", "rollback"]  # its origin
    versions: Versions  # versions of its parts
    epoch: int  # epoch after which it was made
    trained_until: int  # event time of the newest event it was trained on, ms
    items: int  # rows of E, reserved ones included
    embeddings: str  # SHA-256 of the keys and of E, see streams/releases/embedding_table.py
    parts: dict[str, str]  # part (encoder, slow, fast and any of `nets.STANDALONE`) -> SHA-256 of its bytes
    offsets: dict[str, int]  # "topic/partition" -> next offset to be consumed by the learner
    gate: dict[str, float]  # figures that the gate decided by


class EpochDecision(Record, frozen=True, tag="decision"):
    """The release that applies from the next epoch on. There is exactly one per epoch, even if nothing changed."""

    epoch: int  # epoch that is over
    release: int  # version of the release that applies from `epoch + 1` on
    outcome: Literal["unchanged", "retrain", "learner", "rejected", "rollback"]  # effect on the release in force
    reason: str  # explanation in words


class ItemCounts(Record, frozen=True, tag="counts"):
    """The items seen in one epoch and their clicks. Published before the decision of the epoch, in chunks."""

    epoch: int  # number of the epoch
    chunk: int  # number of this chunk, from 0
    chunks: int  # chunks of this epoch: the items of one record are limited
    items: Tensor  # i8 [n], item keys, ascending
    clicks: Tensor  # i8 [n], clicks per item, 0 if it was only shown


ReleaseEvent = Manifest | EpochDecision | ItemCounts
