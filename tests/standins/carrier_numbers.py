"""The part of Twilio's REST API that concerns the account and its telephone numbers: read, list, update.

Checked with the vendor's client. The numbers are those of the setting `numbers`, and call nowhere until somebody sets them.

Source: Twilio docs, Account resource, IncomingPhoneNumber resource.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.standins.carrier_rest import API, ApiError, guarded

if TYPE_CHECKING:
    from starlette.datastructures import FormData
    from starlette.requests import Request

    from tests.standins.carrier import Carrier

PAGE: Final = 50
FIELDS: Final = {
    "VoiceUrl": "voice_url",
    "VoiceMethod": "voice_method",
    "VoiceFallbackUrl": "voice_fallback_url",
    "VoiceApplicationSid": "voice_application_sid",
    "StatusCallback": "status_callback",
    "StatusCallbackMethod": "status_callback_method",
    "TrunkSid": "trunk_sid",
}
"""What an update may set, as the request names it and as the answer does."""


class NumbersApi:
    """The resource `IncomingPhoneNumbers` of one account, and the account itself."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._set: dict[str, dict[str, str]] = {}  # what was set of a number, by sid

    def routes(self) -> list[Route]:
        """Its routes."""
        one = f"{API}/IncomingPhoneNumbers/{{sid}}.json"
        return [
            Route("/2010-04-01/Accounts/{account}.json", guarded(self._carrier, self.account), methods=["GET"]),
            Route(f"{API}/IncomingPhoneNumbers.json", guarded(self._carrier, self.listed), methods=["GET"]),
            Route(one, guarded(self._carrier, self.read), methods=["GET"]),
            Route(one, guarded(self._carrier, self.update), methods=["POST"]),
        ]

    def account(self, request: Request, form: FormData) -> Response:
        """Show the account."""
        del request, form
        settings = self._carrier.settings
        uri = f"/2010-04-01/Accounts/{settings.account_sid}.json"
        own = {"sid": settings.account_sid, "owner_account_sid": settings.account_sid, "friendly_name": "Stand-in"}
        return JSONResponse({**own, "status": "active", "type": "Full", "uri": uri, "subresource_uris": {}})

    def listed(self, request: Request, form: FormData) -> Response:
        """List the numbers; `PhoneNumber` is a part of those wanted."""
        del form
        part = request.query_params.get("PhoneNumber", "").lstrip("+")
        found = [self._shown(number) for number in self._numbers() if part in number]
        size = int(request.query_params.get("PageSize", PAGE))
        page = {"page": 0, "page_size": size, "next_page_uri": None, "previous_page_uri": None, "uri": request.url.path}
        return JSONResponse({"incoming_phone_numbers": found[:size], **page})

    def read(self, request: Request, form: FormData) -> Response:
        """Show a number."""
        del form
        return JSONResponse(self._shown(self._find(request)))

    def update(self, request: Request, form: FormData) -> Response:
        """Set where its calls go."""
        number = self._find(request)
        given = {FIELDS[name]: str(value) for name, value in form.items() if name in FIELDS}
        self._set.setdefault(_sid(number), {}).update(given)
        return JSONResponse(self._shown(number))

    def _numbers(self) -> list[str]:
        return [number for number in self._carrier.settings.numbers.split(",") if number]

    def _find(self, request: Request) -> str:
        for number in self._numbers():
            if _sid(number) == request.path_params["sid"]:
                return number
        raise ApiError(404, 20404, f"The requested resource {request.url.path} was not found")

    def _shown(self, number: str) -> dict[str, Any]:
        account, sid = self._carrier.settings.account_sid, _sid(number)
        own: dict[str, Any] = {
            "sid": sid,
            "account_sid": account,
            "phone_number": number,
            "friendly_name": number,
            "api_version": "2010-04-01",
            "capabilities": {"voice": True, "sms": True, "mms": True},
            "status": "in-use",
            "origin": "twilio",
            "uri": f"/2010-04-01/Accounts/{account}/IncomingPhoneNumbers/{sid}.json",
        }
        usual = {"voice_method": "POST", "voice_fallback_method": "POST", "status_callback_method": "POST"}
        texts = dict.fromkeys(("voice_url", "voice_fallback_url", "status_callback"), "")
        nulls = dict.fromkeys(("trunk_sid", "voice_application_sid"))
        given = {name: value or (None if name in nulls else "") for name, value in self._set.get(sid, {}).items()}
        return own | texts | nulls | usual | given


def _sid(number: str) -> str:
    return f"PN{int(number.lstrip('+')):032x}"
