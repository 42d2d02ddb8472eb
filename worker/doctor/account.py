"""The account at Twilio: whether it lets us in, and where its numbers' calls go.

Source: Twilio docs, Account and IncomingPhoneNumber resources (a TwiML application or a trunk goes before `voice_url`).
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from requests.exceptions import RequestException
from twilio.base.exceptions import TwilioException, TwilioRestException
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client

from worker.doctor.carrier import INCOMING, STATUS
from worker.doctor.case import Case, Stopwatch
from worker.doctor.findings import Finding, State, bad, doubtful, good, not_tried
from worker.doctor.trouble import Refused, Service, trouble

TIMEOUT_S: Final = 5.0
MOST_NUMBERS: Final = 50
TWILIO: Final = Service(
    "Twilio", "TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN", "TWILIO_API_BASE_URL", "TWILIO_ACCOUNT_SID"
)
OFFER: Final = "offhook-doctor --set-webhook sets it"
FALLBACK: Final = "in the console: Primary handler fails, a URL that does not need this host (README)"

T = TypeVar("T")


async def account(case: Case) -> AsyncGenerator[Finding, None]:
    """Say whether the account and its token are accepted."""
    conf = case.conf
    if not conf.twilio_account_sid or not conf.twilio_auth_token.get_secret_value():
        yield bad("TWILIO_ACCOUNT_SID or TWILIO_AUTH_TOKEN is missing", "both stand in Twilio's console")
        return
    watch = Stopwatch()
    try:
        found = await _asked(case, lambda client: client.api.accounts(conf.twilio_account_sid).fetch())
    except (Refused, OSError) as error:
        yield trouble(TWILIO, error)
        return
    if found.status != "active":
        yield bad(f"the account is {found.status}", "see Twilio's console: is there a bill?", watch.ms)
        return
    yield good(f"the account {conf.twilio_account_sid[:6]}... is active", watch.ms)
    if found.type == "Trial":
        yield doubtful("it is a trial: every caller hears Twilio's announcement first", "upgrade it")


async def numbers(case: Case) -> AsyncGenerator[Finding, None]:
    """Say whether the calls to each number come here."""
    try:
        found = await _asked(case, lambda client: _listed(client, case.numbers))
    except (Refused, OSError) as error:
        yield trouble(TWILIO, error)
        return
    owned = {str(number.phone_number): number for number in found}
    for missing in (number for number in case.numbers if number not in owned):
        yield bad(
            f"{ends_of(missing)} is no number of this account", "AGENTS_FILE (numbers) or --number: name one that is"
        )
    if not case.numbers and len(owned) > 1:
        here = {name: number for name, number in owned.items() if str(number.voice_url or "") == webhook(case)}
        if not here:
            yield bad(
                f"none of the account's {len(owned)} numbers calls here", "name the one that should with --number"
            )
        owned = here
    if not case.numbers and not found:
        yield bad("the account has no number", "buy one in Twilio's console")
    for name, number in owned.items():
        for finding in _number(case, name, number):
            yield finding


async def point_here(case: Case, number: str) -> list[Finding]:
    """Make the calls to a number come here. Its fallback stays as it is, and so does a status callback it has."""

    def change(client: Client) -> tuple[str, Any]:
        owned = _listed(client, (number,))
        if not owned:
            raise Refused(HTTPStatus.NOT_FOUND, "it is no number of this account")
        [there] = owned
        before = str(there.voice_url or "nowhere")
        fields = {"voice_url": webhook(case), "voice_method": "POST", "voice_application_sid": ""}
        if not there.status_callback:
            fields |= {"status_callback": case.conf.public_base_url + STATUS, "status_callback_method": "POST"}
        return before, there.update(**fields)

    try:
        before, after = await _asked(case, change)
    except (Refused, OSError) as error:
        return [trouble(TWILIO, error, ends_of(number))]
    shown = ends_of(number)
    if after.voice_url != webhook(case):
        return [bad(f"{shown}: was set, and still leads to {after.voice_url}", "set it in Twilio's console")]
    return [good(f"{shown}: its calls come here now (before: {before})"), *_beside(case, shown, after)]


def webhook(case: Case) -> str:
    """Give the address that a number should have."""
    return case.conf.public_base_url + INCOMING


def ends_of(number: str) -> str:
    """Show a number of the operator's own: its last digits, which tell several apart, since logs hide those of callers."""
    return f"the number ...{number[-4:]}"


def _listed(client: Client, wanted: tuple[str, ...]) -> list[Any]:
    if not wanted:
        return list(client.incoming_phone_numbers.list(limit=MOST_NUMBERS))
    return [each for number in wanted for each in client.incoming_phone_numbers.list(phone_number=number, limit=1)]


def _number(case: Case, name: str, number: Any) -> list[Finding]:
    shown, wanted = ends_of(name), webhook(case)
    if number.trunk_sid:
        return [bad(f"{shown}: its calls go to a SIP trunk", "take it out of the trunk in Twilio's console")]
    if number.voice_application_sid:
        return [Finding(State.FAILED, f"{shown}: its calls go to a TwiML application", OFFER, number=name)]
    url, method = str(number.voice_url or ""), str(number.voice_method or "")
    if url.partition("#")[0] != wanted or method != "POST":
        to = f"{method} {url}" if url else "nowhere"
        return [Finding(State.FAILED, f"{shown}: its calls go to {to}, not to POST {wanted}", OFFER, number=name)]
    return [good(f"{shown}: its calls come here"), *_beside(case, shown, number)]


def _beside(case: Case, shown: str, number: Any) -> list[Finding]:
    """Say what is doubtful about a number whose calls come here."""
    fallback = str(number.voice_fallback_url or "")
    ours = urlsplit(case.conf.public_base_url).hostname
    if not fallback:
        return [doubtful(f"{shown}: no fallback: callers hear an error when this host is down", FALLBACK)]
    if urlsplit(fallback).hostname == ours:
        return [doubtful(f"{shown}: its fallback is on this host, and down with it", FALLBACK)]
    found = [good(f"{shown}: its fallback is elsewhere")]
    if str(number.status_callback or "") != case.conf.public_base_url + STATUS:
        found.append(
            not_tried(f"{shown} reports no status to {STATUS} (optional: whoever hangs up in the line leaves it)")
        )
    return found


async def _asked(case: Case, ask: Callable[[Client], T]) -> T:
    """Ask Twilio in a thread.

    Raises:
        Refused: it answers, and refuses; or its answer cannot be read.
        OSError: it cannot be reached.
    """
    return await asyncio.to_thread(_ask, case, ask)


def _ask(case: Case, ask: Callable[[Client], T]) -> T:
    conf = case.conf
    logger = logging.getLogger("twilio.http_client")
    logger.setLevel(logging.WARNING)
    http = TwilioHttpClient(timeout=TIMEOUT_S, logger=logger)
    client = Client(conf.twilio_account_sid, conf.twilio_auth_token.get_secret_value(), http_client=http)
    client.api.base_url = conf.twilio_api_base_url  # the client has no argument for it
    try:
        return ask(client)
    except TwilioRestException as error:
        raise Refused(error.status, f"error {error.code}: {error.msg}") from error
    except (TwilioException, ValueError, TypeError, KeyError) as error:
        raise Refused(0, f"{type(error).__name__}: {error}") from error
    except RequestException as error:
        raise ConnectionError(f"{type(error).__name__}: no connection") from error
    finally:
        http.session.close()
