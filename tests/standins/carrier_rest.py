"""The part of Twilio's REST API that concerns calls: create, read, update. Checked with the vendor's client.

Messages are in `carrier_outbox`.

Source: Twilio docs, Call resource.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from email.utils import formatdate
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.standins.carrier_call import Call, Dialling, Order
from tests.standins.carrier_fetch import Document
from tests.standins.carrier_requests import Post, absolute
from tests.standins.carrier_sign import new_sid
from tests.standins.carrier_twiml import TwimlError, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.datastructures import FormData
    from starlette.requests import Request

    from tests.standins.carrier import Carrier
    from tests.standins.carrier_settings import CarrierSettings

API = "/2010-04-01/Accounts/{account}"
TWIML_LIMIT = 4000  # characters. Source: Twilio error 32018
INITIAL_EVENTS = "completed"


class ApiError(Exception):
    """A refusal in Twilio's JSON form."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def response(self) -> JSONResponse:
        """The answer the vendor's client turns into `TwilioRestException`."""
        body = {"code": self.code, "message": str(self), "status": self.status}
        return JSONResponse({**body, "more_info": f"https://www.twilio.com/docs/errors/{self.code}"}, self.status)


def guarded(carrier: Carrier, handle: Callable[[Request, FormData], Response]) -> Callable[[Request], object]:
    """Make an endpoint of the API: authenticated, with its form, and with refusals in Twilio's form."""

    async def endpoint(request: Request) -> Response:
        try:
            _authenticate(carrier.settings, request)
            async with request.form() as form:
                return handle(request, form)
        except ApiError as error:
            return error.response()

    return endpoint


def _authenticate(settings: CarrierSettings, request: Request) -> None:
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    try:
        user, _, token = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        user, token = "", ""
    known = scheme.lower() == "basic" and user == settings.account_sid
    if not (known and secrets.compare_digest(token.encode(), settings.auth_token.encode())):
        raise ApiError(401, 20003, "Authenticate")
    if request.path_params["account"] != settings.account_sid:
        raise ApiError(404, 20404, f"The requested resource {request.url.path} was not found")


class CallsApi:
    """The resource `Calls` of one account. `placed` is told about each call a request made, with its form."""

    def __init__(self, carrier: Carrier, placed: Callable[[Call, FormData], None]) -> None:
        self._carrier = carrier
        self._placed = placed

    def routes(self) -> list[Route]:
        """Its routes."""
        return [
            Route(f"{API}/Calls.json", guarded(self._carrier, self.create), methods=["POST"]),
            Route(f"{API}/Calls/{{sid}}.json", guarded(self._carrier, self.update), methods=["POST"]),
            Route(f"{API}/Calls/{{sid}}.json", guarded(self._carrier, self.read), methods=["GET"]),
        ]

    def create(self, request: Request, form: FormData) -> Response:
        """Place an outbound call: `To`, `From` and either `Url` or `Twiml`."""
        del request
        settings = self._carrier.settings
        for field, code in (("To", 21201), ("From", 21213)):
            if not form.get(field):
                raise ApiError(400, code, f"No '{field}' number is specified")
        url, document = value(form, "Url"), _document(value(form, "Twiml"))
        if not url and document is None:
            raise ApiError(400, 21205, "Url parameter is required.")
        events = form.getlist("StatusCallbackEvent") or [INITIAL_EVENTS]
        dialling = Dialling(
            new_sid("CA"),
            value(form, "From"),
            value(form, "To"),
            direction="outbound-api",
            url=url and absolute(settings, url),
            method=value(form, "Method") or "POST",
            document=document,
            status_callback=value(form, "StatusCallback"),
            status_events=frozenset(str(event) for event in events),
        )
        call = self._carrier.place(dialling)
        self._placed(call, form)
        return JSONResponse(_described(call), 201)

    def read(self, request: Request, form: FormData) -> Response:
        """Show a call."""
        del form
        return JSONResponse(_described(self._find(request)))

    def update(self, request: Request, form: FormData) -> Response:
        """End a call (`Status`), or make it leave what it does for other TwiML (`Twiml` or `Url`)."""
        call = self._find(request)
        status, url, document = value(form, "Status"), value(form, "Url"), _document(value(form, "Twiml"))
        if call.ended_at is not None:
            if status:
                raise ApiError(404, 20404, f"The requested resource {request.url.path} was not found")
            raise ApiError(400, 21220, "Unable to update record. Call is not in-progress. Cannot redirect.")
        if status in {"completed", "canceled"}:
            call.obey(Order("rest"))
        elif document is not None:
            call.obey(Order("rest", document=document))
        elif url:
            post = Post(absolute(call.settings, url), call.parameters(), value(form, "Method") or "POST")
            call.obey(Order("rest", post=post))
        else:
            raise ApiError(400, 21218, "Invalid update: Status, Url or Twiml expected")
        return JSONResponse(_described(call))

    def _find(self, request: Request) -> Call:
        call = self._carrier.calls.get(request.path_params["sid"])
        if call is None:
            raise ApiError(404, 20404, f"The requested resource {request.url.path} was not found")
        return call


def value(form: FormData, name: str) -> str:
    """A field of a form; empty when it is absent."""
    given = form.get(name)
    return given if isinstance(given, str) else ""


def _document(twiml: str) -> Document | None:
    if not twiml:
        return None
    if len(twiml) > TWIML_LIMIT:
        raise ApiError(400, 32018, f"Twiml has more than {TWIML_LIMIT} characters")
    try:
        return Document("", parse(twiml.encode()))
    except TwimlError as error:
        raise ApiError(400, error.code, str(error)) from error


def _described(call: Call) -> dict[str, object]:
    """A call as the API shows it; times in RFC 2822."""
    own, account = call.dialling, call.settings.account_sid
    over = call.ended_at is not None
    return {
        "sid": call.call_sid,
        "account_sid": account,
        "api_version": "2010-04-01",
        "from": own.from_,
        "from_formatted": own.from_,
        "to": own.to,
        "to_formatted": own.to,
        "status": call.status if over or call.status not in {"completed", "failed"} else "in-progress",
        "direction": own.direction,
        "date_created": _date(call.placed_at),
        "date_updated": _date(call.placed_at),
        "start_time": _date(call.answered_at),
        "end_time": _date(call.ended_at),
        "duration": str(round(call.record().duration_s)) if over else None,
        "answered_by": None,
        "parent_call_sid": None,
        "price": None,
        "price_unit": "USD",
        "uri": f"/2010-04-01/Accounts/{account}/Calls/{call.call_sid}.json",
        "subresource_uris": {},
    }


def _date(moment: float | None) -> str | None:
    return None if moment is None else formatdate(time.time() - (time.monotonic() - moment))
