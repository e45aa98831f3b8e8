"""Pages of topics and records. Descriptions of fields are the comments in their modules."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from types import ModuleType
from typing import get_args

import msgspec

from deploy.reference.markdown import Page, code, prose, sentence
from streams import codec, release_records
from streams import records as record_types
from streams.kafka.acl import ACCESS
from streams.settings import Settings
from streams.topics import (
    CLOUD_DOWNLINK,
    DEAD_LETTERS,
    DEVICE_EVENTS,
    DEVICE_UPLINK,
    FAST_EXAMPLES,
    ITEM_EMBEDDINGS,
    MODEL_RELEASES,
    OUTCOMES,
    RANKINGS,
    TOPICS,
    Topic,
)

_VALUES: Mapping[Topic, object] = {
    DEVICE_EVENTS: record_types.DeviceEvent,
    DEVICE_UPLINK: record_types.Uplink,
    CLOUD_DOWNLINK: record_types.SlowPriors,
    OUTCOMES: record_types.OutcomeEvent,
    RANKINGS: record_types.RankingEvent,
    FAST_EXAMPLES: record_types.ExampleEvent,
    ITEM_EMBEDDINGS: release_records.EmbeddingRow,
    MODEL_RELEASES: release_records.ReleaseEvent,
    DEAD_LETTERS: record_types.DeadLetter,
}
_FIELD = re.compile(r"#\s*(.*)$")


def record_classes(topic: Topic) -> tuple[type[codec.Record], ...]:
    """Return the classes of the records on a topic; none for topics of plain bytes."""
    value = _VALUES.get(topic)
    kinds = *(get_args(value) or (value,)), *([record_types.Envelope] if topic.envelopes else [])
    return tuple(kind for kind in kinds if isinstance(kind, type))


def topics() -> Page:
    """Return the page of topics."""
    page = Page.titled(
        "Topics",
        "The name of a topic on the broker is the run's id, a hyphen and the name here. Topics with the key `user`\n"
        "have `MC2SF_PARTITIONS` partitions, others have one. Readers and writers are those that\n"
        "`mc2sf topics grant` admits.",
    )
    page.section("All topics")
    rows = []
    for topic in TOPICS:
        readers = ", ".join(role for role, access in ACCESS.items() if topic in access.read)
        writers = ", ".join(role for role, access in ACCESS.items() if topic in access.write)
        policy = ", ".join(f"{name}={value}" for name, value in topic.config(Settings()).items())
        partitions = "1" if topic.partitions(Settings(partitions=7)) == 1 else "by user"
        values = ", ".join(f"[{kind.__name__}](records.md#{kind.__name__.lower()})" for kind in record_classes(topic))
        rows.append(
            (
                *(code(topic.name), sentence(topic.doc), topic.key, partitions, code(policy), writers, readers),
                values or "bytes",
            )
        )
    page.table(("topic", "meaning", "key", "partitions", "policy", "written by", "read by", "values"), rows)
    return page


def records() -> Page:
    """Return the page of records."""
    page = Page.titled(
        "Records",
        f"A value is one byte, the schema number (now {codec.SCHEMA}), and the record as a MessagePack array: its tag,"
        f" then\nthe fields in this order. {prose(record_types)}",
    )
    comments = _comments(record_types) | _comments(release_records) | _comments(codec)
    classes: dict[type[msgspec.Struct], None] = {codec.Tensor: None, record_types.Versions: None}
    classes |= dict.fromkeys(kind for topic in TOPICS for kind in record_classes(topic))
    for kind in classes:
        on = [f"`{topic.name}`" for topic in TOPICS if kind in record_classes(topic)]
        tag = kind.__struct_config__.tag
        page.section(kind.__name__, " ".join((inspect.getdoc(kind) or "").split()))
        if on:
            page.text += f"Tag `{tag}`, on {', '.join(on)}.\n\n"
        page.table(
            ("field", "type", "meaning"),
            (
                (code(name), code(annotation), sentence(comments.get((kind.__name__, name), "")))
                for name, annotation in _annotations(kind).items()
            ),
        )
    page.section("Kind", " ".join((inspect.getdoc(record_types.Kind) or "").split()))
    page.table(
        ("kind", "number", "meaning"),
        (
            (code(kind.name), str(kind.value), sentence(comments.get(("Kind", kind.name), "")))
            for kind in record_types.Kind
        ),
    )
    return page


def _annotations(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Return the type of each field as it is written in the source."""
    annotations = inspect.get_annotations(kind).items()
    return {name: str(annotation) for name, annotation in annotations if name in kind.__struct_fields__}


def _comments(module: ModuleType) -> dict[tuple[str, str], str]:
    """Return the comment behind each field: (class, field) -> comment."""
    source = inspect.getsource(module)
    lines = source.splitlines()
    found: dict[tuple[str, str], str] = {}
    for node in ast.parse(source).body:
        for field in node.body if isinstance(node, ast.ClassDef) else ():
            targets = [field.target] if isinstance(field, ast.AnnAssign) else getattr(field, "targets", [])
            comment = _FIELD.search(lines[(field.end_lineno or 1) - 1][field.end_col_offset or 0 :])
            if comment and isinstance(node, ast.ClassDef):
                found |= {(node.name, target.id): comment[1] for target in targets if isinstance(target, ast.Name)}
    return found
