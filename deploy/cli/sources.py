"""Parse the SOURCE of `run`, `replay` and `data`: one of `replay.sources.source`, or `protocol:SOURCE` over one."""

from __future__ import annotations

from replay.sources import source
from replay.sources.source import Source

PROTOCOL = "protocol:"


def is_protocol(text: str) -> bool:
    """Whether `text` asks for an experiment's stream."""
    return text.startswith(PROTOCOL)


def parse(text: str) -> Source:
    """The source that `text` names. Raises SourceError; a protocol's is read here, others when they are read."""
    if not is_protocol(text):
        return source.parse(text)
    from deploy.experiments.streaming import source as streamed  # noqa: PLC0415 - only this source pays for its imports

    return streamed.source(text)
