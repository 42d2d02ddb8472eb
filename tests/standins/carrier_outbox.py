"""The part of Twilio's REST API that concerns WhatsApp messages: create and read, and the status callbacks that follow.

Checked with the vendor's client. Nothing is sent anywhere: a message lives in this process, and goes through the statuses
the settings name.

Source: Twilio docs, Message resource; Track the Message Status of Outbound Messages; errors 21211, 21617, 21619, 21654 to
21656, 63003, 63007, 63016.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import deque
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.standins.carrier_http import ConnectFailed, RequestBroken
from tests.standins.carrier_requests import Post, request
from tests.standins.carrier_rest import API, ApiError, guarded, value
from tests.standins.carrier_sign import new_sid

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.datastructures import FormData
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from tests.standins.carrier import Carrier
    from tests.standins.carrier_settings import CarrierSettings

LONGEST_BODY: Final = 1600
OUTSIDE_WINDOW: Final = 63016
HTTP_STATUS: Final = {20003: 401, 20429: 429}  # of errors that are not answered with 400
ADDRESS: Final = re.compile(r"whatsapp:\+[1-9][0-9]{6,14}")


@dataclass(slots=True)
class Message:
    """A message as the API knows it."""

    sid: str
    from_: str
    to: str
    body: str
    callback: str
    template: bool
    status: str = "queued"
    error_code: int | None = None
    made_at: float = field(default_factory=time.time)


class Never(Response):
    """No answer at all, for as long as the client waits."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for the client to go."""
        del scope, send
        while (await receive())["type"] != "http.disconnect":
            pass


class MessagesApi:
    """The resource `Messages` of one account. `note` is told about each request and each callback."""

    def __init__(self, carrier: Carrier, note: Callable[..., object]) -> None:
        self._carrier = carrier
        self._note = note
        self._messages: dict[str, Message] = {}
        self._faults_were = ""
        self._faults: deque[str] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def routes(self) -> list[Route]:
        """Its routes."""
        return [
            Route(f"{API}/Messages.json", guarded(self._carrier, self.create), methods=["POST"]),
            Route(f"{API}/Messages/{{sid}}.json", guarded(self._carrier, self.read), methods=["GET"]),
        ]

    def create(self, request_: Request, form: FormData) -> Response:
        """Take a message: `To`, `From`, and `Body` or `ContentSid` with `ContentVariables`."""
        settings = self._carrier.settings
        fault = self._next_fault()
        self._note("message_asked", to=value(form, "To"), template=bool(value(form, "ContentSid")), fault=fault)
        if fault in {"429", "500", "503"}:
            return _busy(int(fault), settings)
        if fault == "reset":
            request_.scope["state"]["transport"].abort()
            return Response(status_code=500)
        if settings.message_refusal:
            code = settings.message_refusal
            raise ApiError(HTTP_STATUS.get(code, 400), code, f"Refused with {code}")
        message = _taken(form, settings)
        self._messages[message.sid] = message
        shown = {"to": message.to, "body": message.body, "template": message.template, "callback": message.callback}
        self._note("message", sid=message.sid, **shown)
        self._follow(message, settings)
        if fault == "lost":  # it was taken, and nobody is told
            request_.scope["state"]["transport"].abort()
        if fault == "stall":
            return Never()
        return Response("<html>", 201) if fault == "garbage" else JSONResponse(_described(message, settings), 201)

    def read(self, request_: Request, form: FormData) -> Response:
        """Show a message."""
        del form
        message = self._messages.get(request_.path_params["sid"])
        if message is None:
            raise ApiError(404, 20404, f"The requested resource {request_.url.path} was not found")
        return JSONResponse(_described(message, self._carrier.settings))

    def _next_fault(self) -> str:
        wanted = self._carrier.settings.message_faults
        if wanted != self._faults_were:
            self._faults_were, self._faults = wanted, deque(wanted.split(",") if wanted else ())
        return self._faults.popleft() if self._faults else ""

    def _follow(self, message: Message, settings: CarrierSettings) -> None:
        task = asyncio.get_running_loop().create_task(self._live(message, settings))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self, message: Message, settings: CarrierSettings) -> None:
        """Go through the statuses; those in which nothing is to be told to anybody too."""
        outside = not (settings.whatsapp_open or message.template)
        error = OUTSIDE_WINDOW if outside else settings.message_error
        for status in ("undelivered",) if error else settings.message_statuses.split(","):
            await asyncio.sleep(settings.message_step_s)
            message.status, message.error_code = status, error or None
            if message.callback:
                await self._call_back(message, settings)

    async def _call_back(self, message: Message, settings: CarrierSettings) -> None:
        post = Post(message.callback, _told(message, settings))
        for _ in range(settings.message_repeats + 1):
            try:
                answered = (await request(settings, post)).status
            except (ConnectFailed, RequestBroken):
                answered = 0
            self._note("message_status", sid=message.sid, status=message.status, answered=answered)


def _taken(form: FormData, settings: CarrierSettings) -> Message:
    """Read a message that is to be sent. Raises `ApiError` with the vendor's code."""
    to, from_, body, content = (value(form, name) for name in ("To", "From", "Body", "ContentSid"))
    if not to:
        raise ApiError(400, 21604, "A 'To' phone number is required.")
    if not from_:
        raise ApiError(400, 21603, "A 'From' phone number is required.")
    if not ADDRESS.fullmatch(to):
        raise ApiError(400, 21211, f"Invalid 'To' Phone Number: {to}")
    if from_ != f"whatsapp:{settings.whatsapp_sender}":
        raise ApiError(400, 63007, "Twilio could not find a Channel with the specified From address")
    if content:
        body = _filled(content, value(form, "ContentVariables"), settings)
    elif value(form, "ContentVariables"):
        raise ApiError(400, 21654, "ContentSid Required")
    elif not body:
        raise ApiError(400, 21619, "A text message body or media urls must be specified.")
    elif len(body) > LONGEST_BODY:
        raise ApiError(400, 21617, "The concatenated message body exceeds the 1600 character limit")
    elif settings.whatsapp_refuses_at_once and not settings.whatsapp_open:
        raise ApiError(400, OUTSIDE_WINDOW, "Outside messaging window. For WhatsApp, use a Message Template instead")
    return Message(new_sid("SM"), from_, to, body, value(form, "StatusCallback"), template=bool(content))


def _filled(content: str, variables: str, settings: CarrierSettings) -> str:
    """Give the text of the one template there is: its first variable."""
    if content != settings.content_sid:
        raise ApiError(400, 21655, "The ContentSid is Invalid")
    try:
        read = json.loads(variables)
    except ValueError:
        read = None
    sound = isinstance(read, dict) and all(isinstance(each, str) and each for each in read.values())
    if not sound or "1" not in read:
        raise ApiError(400, 21656, "The ContentVariables Parameter is invalid")
    if re.search(r"[\n\t]| {5}", read["1"]):  # WhatsApp takes none
        raise ApiError(400, 21656, "The ContentVariables Parameter is invalid")
    return f"{settings.content_prefix}{read['1']}"


def _busy(status: int, settings: CarrierSettings) -> Response:
    code = {429: 20429, 500: 20500, 503: 20503}[status]
    answer = ApiError(status, code, "Try later").response()
    if settings.retry_after:
        answer.headers["Retry-After"] = settings.retry_after
    return answer


def _told(message: Message, settings: CarrierSettings) -> dict[str, str]:
    """The parameters of a status callback.

    Source: Twilio docs, Track the Message Status of Outbound Messages (a WhatsApp channel adds the Channel ones).
    """
    params = {
        "AccountSid": settings.account_sid,
        "ApiVersion": "2010-04-01",
        "ChannelInstallSid": "XE00000000000000000000000000000001",
        "ChannelPrefix": "whatsapp",
        "ChannelToAddress": message.to.removeprefix("whatsapp:"),
        "From": message.from_,
        "MessageSid": message.sid,
        "MessageStatus": message.status,
        "SmsSid": message.sid,
        "SmsStatus": message.status,
        "StructuredMessage": "false",
        "To": message.to,
    }
    if message.status == "read":
        params["EventType"] = "READ"
    if message.error_code is not None:
        params |= {"ErrorCode": str(message.error_code), "EventType": "UNDELIVERED"}
    return params


def _described(message: Message, settings: CarrierSettings) -> dict[str, object]:
    """A message as the API shows it; times in RFC 2822."""
    moment = formatdate(message.made_at)
    return {
        "sid": message.sid,
        "account_sid": settings.account_sid,
        "api_version": "2010-04-01",
        "body": message.body,
        "date_created": moment,
        "date_sent": None,
        "date_updated": moment,
        "direction": "outbound-api",
        "error_code": message.error_code,
        "error_message": None,
        "from": message.from_,
        "messaging_service_sid": None,
        "num_media": "0",
        "num_segments": "1",
        "price": None,
        "price_unit": None,
        "status": message.status,
        "subresource_uris": {},
        "to": message.to,
        "uri": f"/2010-04-01/Accounts/{settings.account_sid}/Messages/{message.sid}.json",
    }
