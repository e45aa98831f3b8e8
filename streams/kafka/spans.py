"""Spans by OpenTelemetry, exported by OTLP over HTTP. Needs the extra `tracing`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from streams.kafka.message import Message
from streams.kafka.tracing import Tracing
from streams.kafka.types import TRACE_HEADER
from streams.topics import DEVICE_EVENTS

_USERS = 10_000  # whose last span is remembered
_w3c = TraceContextTextMapPropagator()


def provider(role: str, run: str) -> TracerProvider:
    """Return what makes the spans of a process; the standard variables of OpenTelemetry's SDK set it up."""
    made = TracerProvider(resource=Resource.create({"service.name": f"mc2sf-{role}", "mc2sf.run": run}))
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made


class OpenTelemetry(Tracing):
    """Spans of requests, and of records that belong to a trace."""

    def __init__(self, role: str, spans: TracerProvider) -> None:
        self._role, self._tracer = role, spans.get_tracer("mc2sf")
        self._last: OrderedDict[bytes, SpanContext] = OrderedDict()  # by user: of the last record on device-events

    def request(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[object]:
        """Measure the work on a request."""
        context = _w3c.extract({TRACE_HEADER: headers.get(TRACE_HEADER, "")})
        return self._tracer.start_as_current_span(name, context, SpanKind.SERVER)

    def current(self) -> str:
        """Return the trace of the request that is being worked on."""
        return _traceparent(None)

    @contextmanager
    def batch(self, received: Sequence[Message]) -> Iterator[Sequence[Message]]:
        """Yield the batch with the spans of this process as its traces; they end with the context."""
        with ExitStack() as spans:
            yield [self._begin(message, spans) if message.trace else message for message in received]

    def _begin(self, message: Message, spans: ExitStack) -> Message:
        """Begin the span of a record. One on device-events links to that of the user's record before it."""
        before = self._last.get(message.key) if message.topic == DEVICE_EVENTS.name else None
        span = self._tracer.start_span(
            f"{self._role} {message.topic}",
            _w3c.extract({TRACE_HEADER: message.trace}),
            SpanKind.CONSUMER,
            {
                "messaging.system": "kafka",
                "messaging.destination.name": message.topic,
                "messaging.destination.partition.id": str(message.partition),
                "messaging.kafka.offset": message.offset,
            },
            [Link(before)] if before else [],
        )
        spans.callback(span.end)
        if message.topic == DEVICE_EVENTS.name:
            self._last[message.key] = span.get_span_context()
            self._last.move_to_end(message.key)
            if len(self._last) > _USERS:
                self._last.popitem(last=False)
        return message._replace(trace=_traceparent(set_span_in_context(span)))


def _traceparent(context: Context | None) -> str:
    carrier: dict[str, str] = {}
    _w3c.inject(carrier, context)
    return carrier.get(TRACE_HEADER, "")
