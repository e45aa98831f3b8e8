"""Bytes of a run by table and by topic."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import TopicMetadata

from streams.topics import TOPICS


def bytes_by_table(database: Path) -> dict[str, float]:
    """Return the bytes of each table of an SQLite file, with its indexes."""
    with closing(sqlite3.connect(database)) as read:
        return dict(read.execute("SELECT tbl_name, sum(pgsize) FROM dbstat JOIN sqlite_master USING (name) GROUP BY 1"))


def topic_sizes(brokers: str) -> dict[str, dict[str, int]]:
    """Return Kafka records and bytes (keys and values) by topic of the run, the only one on this broker."""
    reader = Consumer({"bootstrap.servers": brokers, "group.id": "sizes", "enable.partition.eof": True})
    found = {}
    with closing(reader):
        for name, topic in reader.list_topics(timeout=30).topics.items():
            sizes = [len(each.key() or b"") + len(each.value() or b"") for each in _records(reader, name, topic)]
            short = next((each.name for each in TOPICS if name.endswith(f"-{each.name}")), name)
            found[short] = {"records": len(sizes), "bytes": sum(sizes)}
    return found


def _records(reader: Consumer, name: str, topic: TopicMetadata) -> Iterator[Message]:
    for number in topic.partitions:
        reader.assign([TopicPartition(name, number, 0)])
        while (record := reader.poll(60)) is None or record.error() is None:
            if record is None:
                raise RuntimeError(f"the end of {name}, partition {number} is not found")
            yield record
