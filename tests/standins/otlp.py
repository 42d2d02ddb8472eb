"""A stand-in for whoever takes traces: OTLP over HTTP, protobuf. Keeps every span in its log, and answers as it is told to.

python -m tests.standins.otlp --port 0 --status 503
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from tests.standins.control import Control, parser, serve, settings_from

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from starlette.requests import Request

PROTOBUF = "application/x-protobuf"


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """How it answers."""

    status: int = 200
    stall: bool = False  # take requests, never answer


def app(settings: OtlpSettings) -> Starlette:
    """Build it: the log has one `span` for each that was taken, and one `request` for each request."""
    control = Control(settings)

    async def traces(request: Request) -> Response:
        body = await request.body()
        control.note("request", path=request.url.path, headers=dict(request.headers))
        if control.settings.stall:
            await asyncio.Event().wait()
        if control.settings.status != 200:
            return Response(status_code=control.settings.status)
        for span in spans_in(body):
            control.note("span", **span)
        return Response(ExportTraceServiceResponse().SerializeToString(), media_type=PROTOBUF)

    return Starlette(routes=[control.route(), Route("/v1/traces", traces, methods=["POST"])])


def spans_in(body: bytes) -> Iterator[dict[str, Any]]:
    """Read a request: one dictionary for each span, times in unix seconds."""
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _values(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield {
                    "name": span.name,
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "start": span.start_time_unix_nano / 1e9,
                    "end": span.end_time_unix_nano / 1e9,
                    "failed": span.status.message or span.status.code == span.status.STATUS_CODE_ERROR,
                    "resource": resource,
                    "scope": of_scope.scope.name,
                    "attributes": _values(span.attributes),
                    "events": [event.name for event in span.events],
                }


def _values(attributes: Iterable[Any]) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def main() -> None:
    """Serve until SIGTERM."""
    options = parser("otlp", "Takes traces", OtlpSettings).parse_args()
    serve("otlp", app(settings_from(options, OtlpSettings)), options)


if __name__ == "__main__":
    main()
