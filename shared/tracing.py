"""Traces, for those who want them: spans are handed in when they are over, and leave in a thread of their own.

Without `OTEL_EXPORTER_OTLP_ENDPOINT` there are none and OpenTelemetry is not loaded. As with logs a process says once who
it is (`start`), and whatever happens to a span after that is nobody's trouble: nothing is raised, nothing waits, and an
endpoint that is away is one line in the log. Which spans there are stands in `tracing_spans`.

A call has one trace, named by its trace id. Names of spans are derived from it, so that any process knows whose child its
own spans are, and no message has to carry them.
"""

import contextlib
import hashlib
import importlib
import importlib.metadata
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from shared import logs, tracing_off
from shared.errors import SettingsError
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.tracing_export import Export

LEAVE_S: Final = 2.0
"""How long a process that leaves waits for its last spans to be taken."""

_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""Source: RFC 9110, 5.1 and 5.6.2 (a field name is a token)."""

_TRACE_ID: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")
"""Source: W3C Trace Context, 3.2.2.3."""

_log = logs.get(__name__)

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took from `start` to `end`, unix seconds, in a call's trace.

    Attributes:
        name: what it was, of a closed set.
        trace_id: whose.
        own: its name in the trace, 16 hexadecimal digits; empty for one that nobody refers to.
        parent: the name of the span it is a part of; empty for the first of a trace.
        failed: why it did not succeed; empty when it did.
        attributes: more about it. Never what was said, and never a phone number.
    """

    name: str
    trace_id: str
    start: float
    end: float
    own: str = ""
    parent: str = ""
    failed: str = ""
    attributes: Mapping[str, Value] = field(default_factory=dict)


_export: "Export | None" = None


def span_id(trace_id: str, *path: str | int) -> str:
    """Name a span of a trace by what it is: the same in every process."""
    return hashlib.sha256("/".join([trace_id, *map(str, path)]).encode()).hexdigest()[:16]


def wall(monotonic: float) -> float:
    """Give the unix seconds of a moment of CLOCK_MONOTONIC."""
    return time.time() - (time.monotonic() - monotonic)


def wanted(settings: Settings) -> bool:
    """Say whether there is anybody who takes traces."""
    return bool(settings.otel_exporter_otlp_endpoint)


def check(settings: Settings) -> None:
    """Look whether traces can be made as the settings want them. Loads OpenTelemetry when they do; starts nothing.

    Raises:
        SettingsError: they cannot.
    """
    if wanted(settings):
        _headers(settings)
        _load()


@contextlib.contextmanager
def loading(settings: Settings) -> Iterator[None]:
    """Let others be loaded within: with OpenTelemetry when traces are wanted, else without.

    Raises:
        SettingsError: as `check`.
    """
    check(settings)
    if not wanted(settings):
        tracing_off.hide()
    try:
        yield
    finally:
        tracing_off.over()


def start(settings: Settings, service: str, *, parked: bool = False, **attributes: str) -> None:
    """Begin to send spans, when they are wanted; `attributes` say which of the processes of a service this is.

    Starts a thread, in a `parked` process only with the first span.

    Raises:
        SettingsError: as `check`.
    """
    global _export  # noqa: PLW0603 - one for a process, as its log
    if not wanted(settings):
        return
    check(settings)
    from shared.tracing_export import Export  # not before somebody wants it

    identity = {"service.name": service, "service.version": _version()} | {
        f"offhook.{key}": value for key, value in attributes.items()
    }
    _export = Export(f"{settings.otel_exporter_otlp_endpoint}/v1/traces", _headers(settings), identity)
    if not parked:
        _export.begin()


def on() -> bool:
    """Say whether spans are sent."""
    return _export is not None


def export() -> "Export | None":
    """Give where Pipecat's own spans go; None when nobody wants any."""
    return _export


def record(span: Span) -> None:
    """Send a span that is over. Costs some 20 µs, and nothing when nobody wants it; never raises."""
    if _export is None or not _TRACE_ID.fullmatch(span.trace_id):
        return
    try:
        _export.send(span)
    except Exception:  # noqa: BLE001 - whatever a library has against a span, it must not cost the call
        _log.exception("span lost", span=span.name)


def leave() -> None:
    """Send what is left, for `LEAVE_S` at most. Blocks: to be called when nobody is waiting for this process any more."""
    global _export
    export, _export = _export, None
    if export is not None:
        export.leave(LEAVE_S)


def _load() -> None:
    tracing_off.over()
    try:
        importlib.import_module("shared.tracing_export")
    except ImportError as error:
        raise SettingsError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT: OpenTelemetry is not installed (extra `tracing`): no module {error.name}"
        ) from error


def _headers(settings: Settings) -> dict[str, str]:
    """Read `name=value,name=value`, values percent-encoded. Source: OpenTelemetry specification, OTLP exporter, headers.

    Raises:
        SettingsError: it is not that; what it is stays unsaid, since it is a secret.
    """
    headers: dict[str, str] = {}
    for pair in filter(None, map(str.strip, settings.otel_exporter_otlp_headers.get_secret_value().split(","))):
        name, equals, value = (part.strip() for part in pair.partition("="))
        decoded = unquote(value)
        if not equals or not _HEADER.fullmatch(name) or not decoded.isprintable() or not decoded.isascii():
            raise SettingsError("OTEL_EXPORTER_OTLP_HEADERS: must be name=value pairs with commas between them")
        headers[name] = decoded
    return headers


def _version() -> str:
    try:
        return importlib.metadata.version("offhook")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from a copy of the sources
