"""The routes of the router: a Starlette application, built from its parts and owning them while it runs."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from structlog.contextvars import bind_contextvars

from router import admission, hold, twilio
from router.admission import Answer
from router.handoff import DOOR
from router.hold import Place
from router.intake import Refused, Signed
from router.parts import Parts
from router.twiml import hang_up, nothing
from shared import logs
from shared.calls import EndReason, TraceId
from shared.errors import OffhookError, TicketRefused
from shared.ticket import Ticket

IDEMPOTENCY_HEADER: Final = "I-Twilio-Idempotency-Token"
MAX_TOKEN_CHARS: Final = 128

END_AT_POOL_S: Final = 0.4
END_STORED_S: Final = 0.6
"""Together at most a second: the caller hears nothing meanwhile."""

CLIP_AGE_S: Final = 3600
"""How long Twilio may keep a clip, and so how long a new recording takes to be heard everywhere."""

Handler = Callable[[Request, Signed], Awaitable[Response]]

log = logs.get(__name__)


def build(parts: Parts) -> Starlette:
    """Make the application; its lifespan connects to the pools before the first request is taken."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(parts.close)
            await stack.enter_async_context(parts.door.pools.connected())
            await stack.enter_async_context(parts.line.open())
            await stack.enter_async_context(parts.webhook.open())
            yield {DOOR: parts.door}

    calls, health = _Calls(parts), parts.health
    incoming = Route("/incoming-call", _signed(parts, "incoming-call", calls.incoming), methods=["GET", "POST"])
    incoming.methods = {"GET", "POST"}  # without HEAD, which comes with GET: nobody may reserve a worker by it
    app = Starlette(
        lifespan=lifespan,
        routes=[
            incoming,
            Route("/call-ended/{ticket}", _signed(parts, "call-ended", calls.ended), methods=["POST"]),
            Route("/hold", _signed(parts, "hold", calls.hold), methods=["POST"]),
            Route("/call-status", _signed(parts, "call-status", calls.status), methods=["POST"]),
            Route("/clips/{id}.wav", _clip(parts.clips)),
            Route("/healthz", health.healthz),
            Route("/readyz", health.readyz),
            Route("/metrics", health.metrics),
        ],
    )
    app.router.redirect_slashes = False  # a redirect would be built from the Host header, which is the client's
    return app


def _signed(parts: Parts, route: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Let only what Twilio signed reach a handler; anything else gets one line and is counted."""

    async def endpoint(request: Request) -> Response:
        began = time.perf_counter()
        try:
            return await handler(request, await parts.intake.read(request))
        except twilio.MalformedRequest as error:
            refused = Refused(HTTPStatus.BAD_REQUEST, str(error))
        except Refused as error:
            refused = error
        parts.door.metrics.refused(route, refused.reason)
        if route == "incoming-call":
            result = "forbidden" if refused.status is HTTPStatus.FORBIDDEN else "bad_request"
            parts.door.metrics.webhook(result, time.perf_counter() - began)
        log.warning("request refused", route=route, reason=refused.reason, status=int(refused.status),
                    peer=request.client and request.client.host)  # fmt: skip
        # The rest of a body that was not read must not be taken for the next request.
        return PlainTextResponse(f"{refused.status.phrase}\n", refused.status, {"connection": "close"})

    return endpoint


@dataclass(frozen=True, slots=True)
class _Calls:
    """What Twilio requests about calls."""

    parts: Parts

    async def incoming(self, request: Request, signed: Signed) -> Response:
        """Answer a new call with its stream, or with a place in the hold line."""
        began = time.perf_counter()
        call = twilio.incoming_call(signed.form, twilio.attempt_of(signed.query), TraceId(secrets.token_hex(16)))
        bind_contextvars(call_sid=call.call_sid, trace_id=call.trace_id)
        answered = await self.parts.webhook.answer(call, _token(request))
        self.parts.door.metrics.webhook(answered.result, time.perf_counter() - began)
        return _twiml(answered.twiml)

    async def ended(self, request: Request, signed: Signed) -> Response:
        """Say what follows a stream: nothing, a hang-up, or an apology when it broke by our fault."""
        ticket = self._ticket(request.path_params["ticket"])
        if twilio.call_sid(signed.form) != ticket.call_sid:
            raise Refused(HTTPStatus.FORBIDDEN, "ticket_mismatch")
        bind_contextvars(call_sid=ticket.call_sid, trace_id=ticket.trace_id)
        if admission.is_over(signed.form.first("CallStatus")):
            return _twiml(nothing())
        reason = await self._end_of(ticket)
        answer = admission.at_end(reason)
        log.info("stream ended", end_reason=reason, answer=answer)
        return _twiml(self.parts.twiml.apology() if answer is Answer.APOLOGY else hang_up())

    async def hold(self, request: Request, signed: Signed) -> Response:
        """Answer a call in the hold line, which asks for its worker again, or comes back from an overflow call."""
        call_sid, query = twilio.call_sid(signed.form), signed.query
        if admission.is_over(signed.form.first("CallStatus")):
            self.parts.line.gone(call_sid)
            return _twiml(nothing())
        if query.first("dialled"):
            status = signed.form.first("DialCallStatus")
            log.info("overflow call ended", call_sid=call_sid, status=status[:32])
            return _twiml(hang_up() if hold.after_dial(status) == "hang_up" else self.parts.twiml.apology())
        place = Place.read(query, TraceId(secrets.token_hex(16)), time.time())
        call = twilio.incoming_call(signed.form, twilio.attempt_of(query), place.trace_id)
        bind_contextvars(call_sid=call.call_sid, trace_id=call.trace_id)
        return _twiml((await self.parts.webhook.answer(call, _token(request), place)).twiml)

    async def status(self, _: Request, signed: Signed) -> Response:
        """Log what Twilio says about a call; one that is over stands in no line any more."""
        call_sid, status = twilio.call_sid(signed.form), signed.form.first("CallStatus")
        log.info("call status", call_sid=call_sid, status=status[:32])
        if admission.is_over(status):
            self.parts.line.gone(call_sid)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    def _ticket(self, segment: str) -> Ticket:
        try:
            return self.parts.door.office.open(segment)
        except TicketRefused as error:
            raise Refused(HTTPStatus.FORBIDDEN, f"ticket_{error}") from error

    async def _end_of(self, ticket: Ticket) -> EndReason | None:
        """Ask the pool, which knows first, then what is stored; None when neither says anything in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_AT_POOL_S):
                known = await self.parts.door.pools.ask_end(ticket)
                if known is not None and known.reason is not None:
                    return known.reason
        try:
            async with asyncio.timeout(END_STORED_S):
                return await self.parts.end_of(ticket.call_sid, ticket.attempt)
        except (TimeoutError, OffhookError) as error:
            log.warning("end reason not found", why=type(error).__name__)
            return None


def _clip(clips: Mapping[str, bytes]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        audio = clips.get(request.path_params["id"])
        if audio is None:
            return PlainTextResponse("Not Found", HTTPStatus.NOT_FOUND)
        return Response(audio, media_type="audio/wav", headers={"cache-control": f"public, max-age={CLIP_AGE_S}"})

    return endpoint


def _token(request: Request) -> str:
    return request.headers.get(IDEMPOTENCY_HEADER, "")[:MAX_TOKEN_CHARS]


def _twiml(content: bytes) -> Response:
    return Response(content, media_type="text/xml")
