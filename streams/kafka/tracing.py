"""Traces: from a gateway's request over device and cloud to its answer.

A trace goes from process to process as W3C's `traceparent`, in a header of the records. Only gateways begin one: a log
that is replayed has no traces, and pays nothing for them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from streams.kafka.message import Message

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracing:
    """The spans of a process. This class makes none, and passes on the traces that come."""

    def request(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[object]:
        """Measure the work on a request, which belongs to the trace that its headers name, if any."""
        del name, headers
        return nullcontext()

    def current(self) -> str:
        """Return the trace for a record that is sent now; empty: none."""
        return ""

    def batch(self, received: Sequence[Message]) -> AbstractContextManager[Sequence[Message]]:
        """Measure the work on the traced records of a batch; the context is the batch to work on."""
        return nullcontext(received)


def tracing(role: str, run: str) -> Tracing:
    """Return the tracing of a process: OpenTelemetry's if the environment names a collector, else none."""
    if not any(map(os.environ.get, _ENDPOINTS)):
        return Tracing()
    try:
        from streams.kafka import spans  # noqa: PLC0415 - OpenTelemetry is an extra
    except ImportError:
        log.warning("no traces are made: OpenTelemetry is not installed (pip install 'mc2sf[tracing]')")
        return Tracing()
    return spans.OpenTelemetry(role, spans.provider(role, run))
