"""What Twilio puts into a request: parameters, signature, headers.

Written from the published rule, not with the vendor's library, so that the tests can hold one against the other.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.standins.carrier_settings import CarrierSettings

Sign = Literal["valid", "missing", "wrong"]
"""How a request is signed: as it should be, not at all, or with another token."""

_HASHES = {"HMAC_SHA1": hashlib.sha1, "HMAC_SHA256": hashlib.sha256}


def signature(token: str, url: str, params: Mapping[str, str], algorithm: str = "HMAC_SHA1") -> str:
    """Sign `url` as Twilio does: the exact URL, then each form parameter's name and value in the order of the names.

    For a GET and for a media upgrade `params` is empty: a query string is part of the URL.

    Source: Twilio docs, webhook security.
    """
    text = url + "".join(name + params[name] for name in sorted(params))
    digest = hmac.new(token.encode(), text.encode(), _HASHES[algorithm]).digest()
    return base64.b64encode(digest).decode("ascii")


def signature_headers(
    settings: CarrierSettings, url: str, params: Mapping[str, str], sign: Sign = "valid"
) -> dict[str, str]:
    """The headers that carry the signature; none when it is `missing`."""
    if sign == "missing":
        return {}
    token = settings.auth_token if sign == "valid" else settings.auth_token + "-of-somebody-else"
    headers = {"X-Twilio-Signature": signature(token, url, params, settings.algorithm)}
    if settings.algorithm != "HMAC_SHA1":
        named = f"key={settings.signing_key_id},algorithm={settings.algorithm}"
        headers["X-Twilio-Webhooks-Signature-Settings"] = named
    return headers


def new_sid(prefix: str) -> str:
    """Make an identifier of Twilio's shape: two letters and 32 hexadecimal digits."""
    return prefix + secrets.token_hex(16)


def call_parameters(account_sid: str, call_sid: str, from_: str, to: str, direction: str) -> dict[str, str]:
    """The parameters every request of a call carries, `CallStatus` excepted because it changes.

    The geographical ones are present and empty, as they are for numbers Twilio cannot place.

    Source: Twilio docs, Voice webhooks.
    """
    params = {
        "CallSid": call_sid,
        "AccountSid": account_sid,
        "From": from_,
        "To": to,
        "Caller": from_,
        "Called": to,
        "ApiVersion": "2010-04-01",
        "Direction": direction,
        "CallToken": f'{{"parentCallInfoToken":"{call_sid}"}}',
    }
    for side in ("From", "To", "Caller", "Called"):
        for part in ("City", "State", "Zip"):
            params[side + part] = ""
        params[side + "Country"] = "BR" if params[side].startswith("+55") else "US"
    return params
