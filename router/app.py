"""The routes of the router: a Starlette application, built from its parts and owning them while it runs."""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, assert_never

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from structlog.contextvars import bind_contextvars

from router import admission, hold, twilio
from router.admission import Answer
from router.cutoff import CutOff, Over, Unclear, Verdict
from router.handoff import DOOR
from router.hold import Place
from router.intake import Refused, Signed
from router.parts import Parts
from router.twiml import hang_up, nothing
from shared import logs
from shared.calls import TraceId
from shared.errors import TicketRefused
from shared.ticket import Ticket

IDEMPOTENCY_HEADER: Final = "I-Twilio-Idempotency-Token"
MAX_TOKEN_CHARS: Final = 128

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
            Route("/message-status", _signed(parts, "message-status", calls.message), methods=["POST"]),
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
    parts.door.metrics.may_refuse(route, twilio.SignatureRefusal)

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
    """What Twilio requests about calls and messages."""

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
        """Say what follows a stream: nothing, a hang-up, an apology, or another stream when this one was cut off.

        That Twilio comes here also after an *abrupt* loss of a stream is not stated in its documentation, and was not
        tried on a real account.

        Source: Twilio docs, TwiML `<Connect>` ("action": requested when the verb ends); error 31903.
        """
        ticket = self._ticket(request.path_params["ticket"])
        if twilio.call_sid(signed.form) != ticket.call_sid:
            raise Refused(HTTPStatus.FORBIDDEN, "ticket_mismatch")
        bind_contextvars(call_sid=ticket.call_sid, trace_id=ticket.trace_id)
        if admission.is_over(signed.form.first("CallStatus")):
            self.parts.door.metrics.stream_ended("nothing")
            return _twiml(nothing())
        verdict = await self.parts.endings.of(ticket)
        answer = admission.at_end(verdict)
        log.info("stream ended", answer=answer, **_words(verdict))
        self.parts.door.metrics.stream_ended(answer)
        match answer:
            case Answer.APOLOGY:
                return _twiml(self.parts.twiml.apology())
            case Answer.HANG_UP:
                return _twiml(hang_up())
            case Answer.TRANSFER:
                return _twiml(self.parts.twiml.transfer(verdict.dial if isinstance(verdict, Over) else ""))
            case Answer.RECONNECT:
                return await self._reconnect(request, signed, ticket)
        assert_never(answer)

    async def _reconnect(self, request: Request, signed: Signed, ticket: Ticket) -> Response:
        """Treat a call that was cut off as a new one, of the next attempt: it is the same conversation, so the same trace."""
        call = twilio.incoming_call(signed.form, ticket.attempt + 1, ticket.trace_id)
        answered = await self.parts.webhook.answer(call, _token(request))
        log.warning("call reconnected", attempt=call.attempt, result=answered.result)
        self.parts.door.metrics.reconnected(answered.result)
        return _twiml(answered.twiml)

    async def hold(self, request: Request, signed: Signed) -> Response:
        """Answer a call in the hold line, which asks for its worker again, or comes back from a call to somebody else."""
        call_sid, query = twilio.call_sid(signed.form), signed.query
        if admission.is_over(signed.form.first("CallStatus")):
            self.parts.line.gone(call_sid)
            return _twiml(nothing())
        if query.first("dialled"):
            status, why = signed.form.first("DialCallStatus"), query.first("dialled")
            log.info("dialled call ended", call_sid=call_sid, why=why[:32], status=status[:32])
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

    async def message(self, _: Request, signed: Signed) -> Response:
        """Have what Twilio says of a message written down; repeats and any order are no harm."""
        queued = await self.parts.report(twilio.message_report(signed.form, signed.query))
        self.parts.door.metrics.message_reported(queued=queued)
        return Response(status_code=HTTPStatus.NO_CONTENT if queued else HTTPStatus.SERVICE_UNAVAILABLE)

    def _ticket(self, segment: str) -> Ticket:
        try:
            return self.parts.door.office.open(segment)
        except TicketRefused as error:
            raise Refused(HTTPStatus.FORBIDDEN, f"ticket_{error}") from error


def _words(verdict: Verdict) -> dict[str, str]:
    """Say a verdict as fields of a log line."""
    match verdict:
        case Over(reason, _):
            return {"end_reason": reason}
        case CutOff():
            return {"why": "cut_off"}
        case Unclear(why):
            return {"why": why}
    assert_never(verdict)


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
