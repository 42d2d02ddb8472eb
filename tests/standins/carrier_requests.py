"""Signed HTTP requests to the system under test: where a public URL really goes, retries, and what is written down."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urljoin, urlsplit

from tests.standins.carrier_http import Answer, Bounds, ConnectFailed, Peer, Request, send
from tests.standins.carrier_sign import Sign, signature_headers

if TYPE_CHECKING:
    from tests.standins.carrier_settings import CarrierSettings

SCHEMES = {"wss": "https", "ws": "http"}


@dataclass(frozen=True, slots=True)
class Post:
    """A request of Twilio: form POST, or GET with the same names in the query."""

    url: str
    params: dict[str, str]
    method: str = "POST"
    sign: Sign = "valid"
    idempotency_token: str = field(default_factory=lambda: str(uuid.uuid4()))  # the same for every try


def absolute(settings: CarrierSettings, url: str, base: str = "") -> str:
    """`url` made absolute against `base`, the document it stands in, and without its fragment."""
    return urljoin(base or settings.public_base_url, url).split("#")[0]


def path_at_target(settings: CarrierSettings, url: str) -> str:
    """The path and query to request for the public `url`. Raises `ConnectFailed` when it belongs to somebody else."""
    public, wanted = urlsplit(settings.public_base_url), urlsplit(url)
    if (SCHEMES.get(wanted.scheme, wanted.scheme), wanted.netloc) != (public.scheme, public.netloc):
        raise ConnectFailed(f"{url} is not below {settings.public_base_url}")
    return (wanted.path or "/") + (f"?{wanted.query}" if wanted.query else "")


def peer(settings: CarrierSettings) -> Peer:
    """Who answers for the public URL."""
    return Peer(settings.target, urlsplit(settings.public_base_url).hostname or "", settings.ca_file)


def common_headers(settings: CarrierSettings) -> dict[str, str]:
    """The headers of every request: the public host, and what the edge in front of the router adds."""
    public = urlsplit(settings.public_base_url)
    return {"Host": public.netloc, "User-Agent": "TwilioProxy/1.1", "X-Forwarded-Proto": public.scheme}


async def request(settings: CarrierSettings, post: Post) -> Answer:
    """Send `post`, again when nobody accepted the connection. Raises `ConnectFailed` or `RequestBroken`.

    Source: Twilio docs, webhook connection overrides (retries, timeouts) and webhook security (what is signed).
    """
    url, body = post.url, b""
    if post.method == "GET":
        if post.params:
            url += ("&" if "?" in url else "?") + urlencode(post.params, quote_via=quote)
        signed: dict[str, str] = {}
    else:
        body = urlencode(post.params).encode()
        signed = post.params
    headers = {
        **common_headers(settings),
        "Accept": "*/*",
        "I-Twilio-Idempotency-Token": post.idempotency_token,
        **signature_headers(settings, url, signed, post.sign),
    }
    if body:
        headers["Content-Type"] = "application/x-www-form-urlencoded; charset=UTF-8"
    wire = Request(post.method, path_at_target(settings, url), headers, body)
    bounds = Bounds(settings.connect_timeout_s, settings.webhook_timeout_s)
    for _ in range(settings.connect_retries):
        try:
            return await send(peer(settings), wire, bounds)
        except ConnectFailed:
            continue
    return await send(peer(settings), wire, bounds)
