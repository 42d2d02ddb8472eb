"""What Twilio would ask of the deployment: signed requests, and which are refused.

Source: Twilio docs, "Security: validating requests", Voice webhooks.
"""

import ipaddress
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import httpx
from twilio.request_validator import SIGNATURE_HEADER, RequestValidator

from worker.dataapi import NOBODY
from worker.doctor.case import Case, Stopwatch
from worker.doctor.findings import Finding, bad, doubtful, good, not_tried, timed
from worker.doctor.trouble import Service, trouble, unreachable

MARK: Final = "CAd0c70000"
"""How the SIDs of the doctor's calls begin: Twilio's shape, and found again in logs and records."""

CALLER: Final = NOBODY
"""Who calls: no country code begins with a zero, so that nobody has it, no customer is looked up or made, and none is meant."""

TIMEOUT_S: Final = 5.0
SLOW_MS: Final = 1000.0
"""For a page of a few bytes from outside; Twilio fetches two before a caller hears anything."""

MOST_SKEW_S: Final = 5.0
HEALTHY: Final = "ok"
INCOMING: Final = "/incoming-call"
STATUS: Final = "/call-status"
PUBLIC: Final = Service("the public address", "TWILIO_AUTH_TOKEN", "PUBLIC_BASE_URL")

RESTART: Final = "start the router with this PUBLIC_BASE_URL and this TWILIO_AUTH_TOKEN (those of Twilio's console)"


def new_call_sid() -> str:
    """Name a call of the doctor's."""
    return MARK + secrets.token_hex(12)


def form(case: Case, call_sid: str, status: str) -> dict[str, str]:
    """Write what Twilio says of a call."""
    called = next(iter(case.numbers), CALLER)
    own = {"CallSid": call_sid, "AccountSid": case.conf.twilio_account_sid, "From": CALLER, "To": called}
    return own | {"CallStatus": status, "Direction": "inbound", "ApiVersion": "2010-04-01"}


def signature(case: Case, url: str, parameters: Mapping[str, str]) -> dict[str, str]:
    """Sign a request as Twilio does."""
    validator = RequestValidator(case.conf.twilio_auth_token.get_secret_value())
    return {SIGNATURE_HEADER: str(validator.compute_signature(url, dict(parameters)))}


def client_of(case: Case) -> httpx.AsyncClient:
    """Make a client that follows no redirect: Twilio's signature would not fit any more."""
    return httpx.AsyncClient(verify=case.tls, timeout=TIMEOUT_S, headers={"User-Agent": "offhook-doctor"})


async def post(client: httpx.AsyncClient, case: Case, url: str, parameters: Mapping[str, str]) -> httpx.Response:
    """Ask as Twilio does, rightly signed."""
    return await client.post(url, data=dict(parameters), headers=signature(case, url, parameters))


async def router(case: Case) -> AsyncGenerator[Finding, None]:
    """Say whether the router itself answers, whatever stands in front of it."""
    there = case.router or f"http://{_here(case.conf.router_address)}:{case.conf.router_port}"
    try:
        async with client_of(case) as client:
            watch = Stopwatch()
            health = await client.get(f"{there}/healthz")
            ms = watch.ms
            ready = await client.get(f"{there}/readyz")
    except (httpx.HTTPError, OSError) as error:
        said, remedy = f"{there}: {unreachable(error)}", "start it (python -m router), or say with --router where it is"
        yield bad(said, remedy) if case.router else doubtful(said, remedy)
        return
    if health.text.strip() != HEALTHY:
        yield bad(f"{there}: another program has this port", "ROUTER_PORT: free this port, or take another")
        return
    yield timed(f"{there} answers", ms, SLOW_MS, "see how loaded its machine is")
    yield _readiness(ready, bad)


async def public(case: Case) -> AsyncGenerator[Finding, None]:
    """Say whether the router is reached by its public address, and how its clock goes."""
    base = case.conf.public_base_url
    host = urlsplit(base).hostname or ""
    if inside := _inside(host):
        where = "an address" if inside == host else inside
        yield doubtful(f"{host} is {where} of this network, as seen from here", "see what the world's DNS says of it")
    try:
        async with client_of(case) as client:
            watch = Stopwatch()
            health = await client.get(f"{base}/healthz")
            ms, asked_at = watch.ms, time.time()
            ready = await client.get(f"{base}/readyz")
    except (httpx.HTTPError, OSError) as error:
        yield trouble(PUBLIC, error)
        return
    if (wrong := _wrong(base, health)) is not None:
        yield wrong
        return
    yield timed(f"{base} reaches the router", ms, SLOW_MS, "take a host nearer to Twilio's region (us1: Virginia)")
    yield _readiness(ready, doubtful)  # what follows can be tried all the same, and the call will tell
    for finding in _clock(health, asked_at):
        yield finding


async def signed(case: Case) -> AsyncGenerator[Finding, None]:
    """Send a request that is signed wrongly, and one that is signed rightly for this address."""
    if not case.conf.twilio_auth_token.get_secret_value():
        yield not_tried("there is no TWILIO_AUTH_TOKEN to sign with")
        return
    call_sid = new_call_sid()
    try:
        async with client_of(case) as client:
            yield await _wrongly_signed(client, case, call_sid)
            yield await _rightly_signed(client, case, call_sid)  # so that it stands in no line, if that was believed
    except (httpx.HTTPError, OSError) as error:
        yield trouble(PUBLIC, error)


async def _wrongly_signed(client: httpx.AsyncClient, case: Case, call_sid: str) -> Finding:
    url, parameters = f"{case.conf.public_base_url}{INCOMING}", form(case, call_sid, "ringing")
    answer = await client.post(url, data=parameters, headers=signature(case, f"{url}?forged=1", parameters))
    if answer.status_code == HTTPStatus.FORBIDDEN:
        return good("a wrong signature is refused")
    if case.conf.twilio_validate_signatures:
        return bad(f"a wrong signature is answered with {answer.status_code}: anybody can place calls", RESTART)
    return doubtful("a wrong signature is accepted", "TWILIO_VALIDATE_SIGNATURES: true for real callers")


async def _rightly_signed(client: httpx.AsyncClient, case: Case, call_sid: str) -> Finding:
    base = case.conf.public_base_url
    answer = await post(client, case, f"{base}{STATUS}", form(case, call_sid, "completed"))
    if answer.is_success:
        return good(f"a right signature for {base} is accepted")
    if answer.status_code == HTTPStatus.FORBIDDEN:
        return bad(f"the right signature for {base} is refused: the router has another address or token", RESTART)
    return bad(f"{STATUS} answers {answer.status_code}", "does the edge pass every path, and POST, to the router?")


def _readiness(answer: httpx.Response, otherwise: Callable[[str, str], Finding]) -> Finding:
    try:
        said = answer.json()
        ready, reason = int(said.get("ready", 0)), str(said.get("reason", ""))
    except (ValueError, AttributeError):
        return bad(
            f"/readyz is no answer of the router's ({answer.status_code})",
            "does the edge pass every path to the router?",
        )
    if ready:
        return good(f"{ready} workers are ready")
    return otherwise(
        f"no worker is ready: {reason}", "see the checks of `pools`, `voice` and `settings`, and the pool's log"
    )


def _wrong(base: str, answer: httpx.Response) -> Finding | None:
    """Say what answers in the router's place, if it is not the router."""
    code = answer.status_code
    if answer.is_redirect:
        to = answer.headers.get("location", "")
        return bad(
            f"{base} redirects to {to}: a signature would not fit there",
            "PUBLIC_BASE_URL: name the address it leads to",
        )
    if code in {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}:
        return bad(
            f"the edge answers {code}: it does not reach the router",
            "start the router; does the edge know where it is?",
        )
    if code != HTTPStatus.OK or answer.text.strip() != HEALTHY:
        return bad(
            f"{base} is not the router ({code})",
            "PUBLIC_BASE_URL: is it this host? Does the edge pass all to the router?",
        )
    return None


def _clock(answer: httpx.Response, now: float) -> list[Finding]:
    with suppress(TypeError, ValueError):
        skew_s = parsedate_to_datetime(answer.headers["date"]).timestamp() - now if "date" in answer.headers else 0.0
        if abs(skew_s) > MOST_SKEW_S:
            said = f"the clocks of router and this host are {abs(skew_s):.0f} s apart"
            return [doubtful(said, "let NTP set both: tickets and certificates live by the clock")]
    return []


def _inside(host: str) -> str:
    """Name the address of a host that only this network reaches; empty for any other."""
    with suppress(OSError, ValueError):
        for *_, place in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            address = ipaddress.ip_address(str(place[0]).partition("%")[0])
            if not address.is_global:
                return str(address)
    return ""


def _here(address: str) -> str:
    """Name where a listener on this machine is reached."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, f"[{address}]" if ":" in address else address)
