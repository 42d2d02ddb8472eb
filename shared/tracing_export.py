"""How spans leave: the only room that knows OpenTelemetry's SDK. Loaded by `shared.tracing` alone, and only when wanted.

Spans of ours come finished; Pipecat's come through a provider of the SDK, without what was said: that is the caller's, and
is taken out before they leave.
"""

import logging
import secrets
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from shared import logs
from shared.processes import SPEECH_PROVIDERS
from shared.tracing import Span

EVERY_MS: Final = 1000.0
"""How long a span waits for others to leave with: what a killed process had not sent is lost."""

PATIENCE_S: Final = 2.0
"""How long one batch is tried; the next one waits meanwhile, in a queue that has an end."""

MOST_WAITING: Final = 2048
MOST_AT_ONCE: Final = 512

_NS: Final = 1_000_000_000
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope("offhook")

KEPT: Final = frozenset(
    {
        "conversation.id", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.operation.name", "gen_ai.output.type",
        "voice_id", "language", "tts.interrupted", "tool_count",
    }
)  # fmt: skip
"""What Pipecat may say of a call, beside figures (`KEPT_KINDS`): neither words nor prompts, records or numbers."""

PROVIDER: Final = "gen_ai.provider.name"
KEPT_KINDS: Final = ("gen_ai.usage.", "metrics.")

_log = logs.get(__name__)


class Export:
    """Sends the spans of this process."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], identity: Mapping[str, str]) -> None:
        for noisy in (
            "opentelemetry.exporter",
            "opentelemetry.sdk",
        ):  # they would say it of every batch: we say it once
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        # Not `Resource.create`, which asks detectors in threads.
        self._resource = OTELResourceDetector().detect().merge(Resource(dict(identity)))
        self._endpoint = endpoint
        self._headers = dict(headers)
        self._sending: BatchSpanProcessor | None = None
        self._outlet: _Outlet | None = None
        self._lock = threading.Lock()
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=self._resource, shutdown_on_exit=False)
        self._provider.add_span_processor(_Intake(self))

    def tracer(self, name: str) -> trace.Tracer:
        """Give a tracer whose spans come here, without words."""
        return self._provider.get_tracer(name)

    def provide(self) -> None:
        """Have whoever asks OpenTelemetry for a tracer send its spans here: Pipecat. Once per process."""
        trace.set_tracer_provider(self._provider)

    def send(self, span: Span) -> None:
        """Take a span of ours."""
        own = span_context(span.trace_id, span.own or secrets.token_hex(8))
        attributes = {
            key: logs.mask(value) if isinstance(value, str) else value for key, value in span.attributes.items()
        }
        status = Status(StatusCode.ERROR, logs.mask(span.failed)) if span.failed else Status()
        self.take(
            ReadableSpan(
                span.name,
                own,
                span_context(span.trace_id, span.parent) if span.parent else None,
                self._resource,
                attributes,
                status=status,
                start_time=int(span.start * _NS),
                end_time=int(max(span.start, span.end) * _NS),
                instrumentation_scope=_SCOPE,
            )
        )

    def take(self, span: ReadableSpan) -> None:
        """Queue a span; when the queue is full the oldest is dropped."""
        self.begin().on_end(span)

    def begin(self) -> BatchSpanProcessor:
        """Have the thread that empties the queue run: parked workers have no use for one."""
        if self._sending is None:
            with self._lock:  # the prefetchers' threads share one
                if self._sending is None:
                    self._outlet = _Outlet(OTLPSpanExporter(self._endpoint, headers=self._headers, timeout=PATIENCE_S))
                    self._sending = BatchSpanProcessor(self._outlet, MOST_WAITING, EVERY_MS, MOST_AT_ONCE)
        return self._sending

    def flush(self) -> None:
        """Send what is queued now, in the caller's thread; waits for the answer."""
        self.begin().force_flush()

    def leave(self, within_s: float) -> None:
        """Send what is queued, for so long at most; not at all to an endpoint that took nothing the last time."""
        if self._sending is None or (self._outlet is not None and self._outlet.away):
            return
        # Its own limit is 30 s and cannot be set: what is still under way then ends with the process.
        last = threading.Thread(target=self._sending.shutdown, daemon=True, name="last spans")
        last.start()
        last.join(within_s)


class _Intake(SpanProcessor):
    """Takes what comes through the provider."""

    def __init__(self, export: Export) -> None:
        self._export = export

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""
        self._export.take(without_words(span))


class _Outlet(SpanExporter):
    """The exporter, with one line in the log when nobody takes the spans and one when somebody does again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; it is lost when nobody takes it."""
        result = self._exporter.export(spans)
        away = result is not SpanExportResult.SUCCESS
        if away and not self.away:
            _log.warning("traces are not taken, and lost meanwhile", setting="OTEL_EXPORTER_OTLP_ENDPOINT")
        elif self.away and not away:
            _log.info("traces are taken again")
        self.away = away
        return result

    def shutdown(self) -> None:
        """Send no more."""
        self._exporter.shutdown()


def span_context(trace_id: str, span_id: str) -> SpanContext:
    """Name a span as OpenTelemetry does."""
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=_SAMPLED)


def without_words(span: ReadableSpan) -> ReadableSpan:
    """Give a span of Pipecat's with what may be known of a call; an exception in it may repeat anything, and goes too."""
    kept = {key: value for key, value in (span.attributes or {}).items() if key in KEPT or key.startswith(KEPT_KINDS)}
    named = str(kept.get(PROVIDER, ""))  # after our own classes: `cartesiaear`
    for provider in SPEECH_PROVIDERS:
        if provider in named:
            kept[PROVIDER] = provider
    return ReadableSpan(
        span.name,
        span.context,
        span.parent,
        span.resource,
        kept,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )
