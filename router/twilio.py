"""What Twilio sends: whether it is Twilio's, and which call it is about. Pure.

Every parameter received takes part in a signature, known or not; the URL is never rebuilt from the request, because what
stands in front of the router may have changed its host and scheme.

Source: Twilio docs, "Security: validating requests".
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, Self
from urllib.parse import parse_qsl

from twilio.request_validator import (
    HMAC_SHA1,
    HMAC_SHA256,
    SIGNATURE_HEADER,
    SIGNATURE_SETTINGS_HEADER,
    RequestValidator,
    get_signature_algorithm,
)

from shared import letters
from shared.calls import CallSid, IncomingCall, TraceId

FORM_TYPE: Final = "application/x-www-form-urlencoded"
MAX_FIELDS: Final = 256
"""Parameters of one request; Twilio sends about 40."""

MAX_ADDRESS_CHARS: Final = 256
"""Of From and To: a SIP address may be long, a TwiML parameter must stay below 500 with its name."""

ALGORITHMS: Final = frozenset({HMAC_SHA1, HMAC_SHA256})
OVER_STATUSES: Final = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})
"""Values of `CallStatus` after which nobody is on the line."""

MESSAGE_STATUSES: Final = frozenset({
    "accepted", "scheduled", "queued", "sending", "sent", "delivered", "read", "undelivered", "failed", "canceled",
})  # fmt: skip
"""Of messages that are sent. Source: Twilio docs, Message resource (Status)."""

_MESSAGE_SID: Final = re.compile(r"(SM|MM)[0-9a-fA-F]{32}", re.ASCII)
_ERROR_CODE: Final = re.compile(r"[0-9]{0,6}", re.ASCII)
_CALL_SID: Final = re.compile(r"CA[0-9a-fA-F]{32}", re.ASCII)
_ATTEMPT: Final = re.compile(r"[0-9]", re.ASCII)


class SignatureRefusal(StrEnum):
    """Why a signature does not prove that Twilio sent a request; a metric label."""

    MISSING = "signature_missing"
    REPEATED = "signature_repeated"
    ALGORITHM = "signature_algorithm"
    WRONG = "signature_wrong"


class MalformedRequest(Exception):
    """A request that is not what Twilio sends; the message is one word for logs and metrics. Answered with 400."""


class Headers(Protocol):
    """Request headers, by name in any case; a header can come more than once."""

    def getlist(self, key: str, /) -> list[str]:
        """Give every value of a header, in order."""


class Form(dict[str, list[str]]):
    """Parameters by name, each with all its values."""

    @classmethod
    def decode(cls, encoded: bytes) -> Self:
        """Read a form body or a query string.

        Raises:
            MalformedRequest: it is not UTF-8, or has more than 256 parameters.
        """
        form = cls()
        try:
            pairs = parse_qsl(
                encoded.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
            )
        except ValueError as error:  # UnicodeDecodeError is one
            raise MalformedRequest("form") from error
        for name, value in pairs:
            form.setdefault(name, []).append(value)
        return form

    def getall(self, name: str) -> list[str]:
        """Give every value of a parameter, none when it is absent. It is the first thing the validator asks for."""
        return self.get(name, [])

    def first(self, name: str) -> str:
        """Give the first value of a parameter, empty when it is absent."""
        return next(iter(self.getall(name)), "")


class Signatures:
    """Checks signatures made with one token, for URLs below one public base."""

    def __init__(self, token: str, base_url: str) -> None:
        self._validator = RequestValidator(token)
        self._base_url = base_url
        self._stream_base_url = stream_base(base_url)

    def webhook(self, target: str, form: Form | None, headers: Headers) -> SignatureRefusal | None:
        """Check a webhook: `target` is its path and query as they came, `form` its body (None for a GET)."""
        return self._check(self._base_url + target, form, headers)

    def upgrade(self, target: str, headers: Headers) -> SignatureRefusal | None:
        """Check a media upgrade: the signed URL is `wss`, and there are no parameters."""
        return self._check(self._stream_base_url + target, None, headers)

    def _check(self, url: str, form: Form | None, headers: Headers) -> SignatureRefusal | None:
        signatures, named = headers.getlist(SIGNATURE_HEADER), headers.getlist(SIGNATURE_SETTINGS_HEADER)
        if len(signatures) > 1 or len(named) > 1:
            return SignatureRefusal.REPEATED
        if not signatures or not signatures[0]:
            return SignatureRefusal.MISSING
        algorithm = get_signature_algorithm(named[0] if named else "").upper()
        if algorithm not in ALGORITHMS:
            return SignatureRefusal.ALGORITHM
        if not self._validator.validate(url, form or {}, signatures[0], algorithm):
            return SignatureRefusal.WRONG
        return None


def stream_base(base_url: str) -> str:
    """Give the base of stream URLs for a public base: `wss` for https, `ws` for the loopback's http."""
    return "ws" + base_url.removeprefix("http")


def incoming_call(form: Form, attempt: int, trace_id: TraceId) -> IncomingCall:
    """Read the call a webhook announces.

    Raises:
        MalformedRequest: CallSid is missing or has not Twilio's form.
    """
    return IncomingCall(
        call_sid=call_sid(form),
        caller=_address(form.first("From")),
        called=_address(form.first("To")),
        trace_id=trace_id,
        attempt=attempt,
    )


def call_sid(form: Form) -> CallSid:
    """Read which call a request is about.

    Raises:
        MalformedRequest: CallSid is missing, repeated with another value, or has not Twilio's form.
    """
    values = set(form.getall("CallSid"))
    if len(values) != 1:
        raise MalformedRequest("call_sid")
    value = values.pop()
    if not _CALL_SID.fullmatch(value):
        raise MalformedRequest("call_sid")
    return CallSid(value)


def attempt_of(query: Form) -> int:
    """Read which attempt at a call a URL of ours asks for: 0 unless `attempt=` says otherwise.

    Raises:
        MalformedRequest: it is not one digit.
    """
    value = query.first("attempt") or "0"
    if not _ATTEMPT.fullmatch(value):
        raise MalformedRequest("attempt")
    return int(value)


@dataclass(frozen=True, slots=True)
class MessageReport:
    """What Twilio says of a message we sent: `error_code` is empty without an error.

    `key` and `call_sid` stand in the URL and are ours, empty for a message of somebody else's.
    """

    sid: str
    status: str
    error_code: str
    key: str
    call_sid: str


def message_report(form: Form, query: Form) -> MessageReport:
    """Read a status callback of a message.

    Source: Twilio docs, Track the Message Status of Outbound Messages.

    Raises:
        MalformedRequest: MessageSid, MessageStatus or ErrorCode are not what Twilio sends.
    """
    sid, status, error_code = (form.first(name) for name in ("MessageSid", "MessageStatus", "ErrorCode"))
    if not _MESSAGE_SID.fullmatch(sid):
        raise MalformedRequest("message_sid")
    if status not in MESSAGE_STATUSES or not _ERROR_CODE.fullmatch(error_code):
        raise MalformedRequest("message_status")
    key, call = query.first("key"), query.first("call")
    if len(key) > letters.MAX_KEY_CHARS or (call and not _CALL_SID.fullmatch(call)):
        raise MalformedRequest("message_key")
    return MessageReport(sid, status, error_code, key, call)


def _address(value: str) -> str:
    """Keep what can stand in XML and in a log line: From is whatever the caller's network says."""
    return "".join(character for character in value[:MAX_ADDRESS_CHARS] if character.isprintable())
