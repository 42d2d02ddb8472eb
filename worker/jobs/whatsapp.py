"""The message job: send a customer a WhatsApp message through Twilio, once, and have it written down.

A plain function, run by name with JSON arguments as `worker.jobs.customer` is, with what its thread set as `CONTEXT`. RQ runs
it again when it raises `TryLater`, and when its process died; `Attempts` sees to it that the message is sent once all the same.
The database is told last: while it is away messages are still sent.
"""

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import structlog
from redis.exceptions import RedisError

from shared import logs
from shared.letters import MAX_KEY_CHARS, OUTSIDE_WINDOW, State, Told
from worker.jobs import twilio_words
from worker.jobs.attempts import Attempts
from worker.jobs.later import TryLater
from worker.jobs.lookup import LookupFailed
from worker.jobs.twilio_client import NoAnswer, NotTaken, Refused, Sent, WhatsApp

STATUS_PATH: Final = "/message-status"

GIVE_UP_S: Final = 3600.0
"""A message that could not be sent within an hour of being asked for is not sent any more: nobody expects it now."""

FAILED: Final = frozenset({"failed", "undelivered", "canceled"})

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Context:
    """What a thread that runs message jobs has ready.

    `database` calls a function of the migrations by name and raises LookupFailed; None where there is no database. `public_url`
    is where Twilio reaches the router. `template_sid` is empty where there is no template. `observe` takes what came of each
    attempt.
    """

    whatsapp: WhatsApp
    attempts: Attempts
    database: Callable[[str, Mapping[str, Any]], Any] | None
    public_url: str
    template_sid: str
    observe: Callable[[State], None]


CONTEXT: Final[ContextVar[Context]] = ContextVar("message context")


@dataclass(frozen=True, slots=True)
class Letter:
    """A message to be sent: `key` is its idempotency key, `to` an E.164 number."""

    key: str
    to: str
    body: str
    call_sid: str


def send(key: str, to: str, body: str, call_sid: str, asked_at: float) -> None:
    """Send a message that was asked for at `asked_at` (unix seconds), unless it was sent before.

    Raises:
        TryLater: it could not be sent, or not be written down, and RQ is to come back.
    """
    key, body = (text.encode(errors="replace").decode() for text in (key, body))  # half a character cannot be sent
    context, letter = CONTEXT.get(), Letter(key, to, body, call_sid)
    with structlog.contextvars.bound_contextvars(call_sid=call_sid):
        told = once(context, key, asked_at, lambda: _sent(context, letter))
        write_down(context, letter, told)


def once(context: Context, key: str, asked_at: float, attempt: Callable[[], Told]) -> Told:
    """Make an attempt at a message, unless there was one already; gives what came of it, now or then.

    Raises:
        TryLater: it was not sent, and may be.
    """
    before = context.attempts.begin(key)
    if before is not None and before.final:
        context.attempts.end(key, before)  # for who asks again
        return before
    if before is not None and before.state == "begun":
        told = _recalled(context, key)
    elif time.time() - asked_at > GIVE_UP_S:
        told = Told(state="refused", status="failed", words=twilio_words.TOO_LATE)
    else:
        if before is not None:
            _wait_for(before)
            context.attempts.resume(key)
        told = attempt()
    _log.info("message tried", outcome=told.state, status=told.status, error_code=told.error_code)
    context.observe(told.state)
    _tell(context, key, told)
    if told.state == "waiting":
        raise TryLater("twilio took no message")
    return told


def write_down(context: Context, letter: Letter, told: Told) -> None:
    """Have the database log a message, unless it has.

    Raises:
        TryLater: the database did not answer.
    """
    if told.logged or context.database is None:
        return
    ask(context, "log_message", {
        "p_key": letter.key, "p_phone": letter.to, "p_call_sid": letter.call_sid or None, "p_channel": "whatsapp",
        "p_direction": "outbound", "p_body": letter.body, "p_provider_sid": told.provider_sid or None,
        "p_status": told.status, "p_error_code": told.error_code or None,
    })  # fmt: skip
    context.attempts.logged(letter.key, told)


def ask(context: Context, function: str, arguments: Mapping[str, Any]) -> Any:
    """Call a function of the database; None where there is no database.

    Raises:
        TryLater: it did not answer.
    """
    if context.database is None:
        return None
    try:
        return context.database(function, arguments)
    except LookupFailed as error:
        _log.warning("message not written down", function=function, why=str(error))
        raise TryLater(f"{function}: the database did not answer") from error


def by_template(context: Context, letter: Letter) -> Told:
    """Send a message as the installation's template."""
    return _attempt(
        lambda: context.whatsapp.template(letter.to, letter.body, _callback(context, letter), context.template_sid)
    )


def fate(sent: Sent) -> Told:
    """Say what Twilio's word for a message it has taken means, at once or in a later report."""
    if sent.status in FAILED:
        words = twilio_words.refusal(sent.error_code)
        return Told(state="refused", status=sent.status, error_code=sent.error_code, provider_sid=sent.sid, words=words)
    return Told(state="sent", status=sent.status, provider_sid=sent.sid)


def _sent(context: Context, letter: Letter) -> Told:
    """Send free text; the template where that is refused at once for want of a recent message of the customer."""
    told = _attempt(lambda: context.whatsapp.text(letter.to, letter.body, _callback(context, letter)))
    if told.state == "refused" and told.error_code == OUTSIDE_WINDOW and context.template_sid:
        return by_template(context, letter)
    return told


def _attempt(ask_twilio: Callable[[], Sent]) -> Told:
    try:
        sent = ask_twilio()
    except NotTaken as error:
        _log.warning("message not taken", why=str(error), wait_s=error.wait_s)
        return Told(state="waiting", not_before=time.time() + error.wait_s)
    except NoAnswer as error:
        _log.error("nobody knows whether a message was sent", why=str(error))
        return Told(state="unknown", status="unknown", words=twilio_words.NOBODY_KNOWS)
    except Refused as error:
        _log.warning("message refused", why=str(error))
        return Told(state="refused", status="failed", error_code=error.code, words=twilio_words.refusal(error.code))
    return fate(sent)


def _recalled(context: Context, key: str) -> Told:
    """Say what became of an attempt whose process died in it: what the database knows, else nobody does."""
    logged = ask(context, "message_of", {"p_key": key})
    if isinstance(logged, dict) and logged.get("provider_sid"):
        return Told(state="sent", status=str(logged["status"]), provider_sid=str(logged["provider_sid"]), logged=True)
    _log.error("nobody knows whether a message was sent", why="its sender died")
    return Told(state="unknown", status="unknown", words=twilio_words.NOBODY_KNOWS)


def _tell(context: Context, key: str, told: Told) -> None:
    """Note what came of an attempt. What is final is written down in the database even when Redis has just gone."""
    try:
        context.attempts.end(key, told)
    except (RedisError, OSError) as error:
        if not told.final:
            raise
        _log.warning("nobody is told what became of a message", why=str(error))


def _wait_for(before: Told) -> None:
    if time.time() < before.not_before:
        raise TryLater("not yet time")


def _callback(context: Context, letter: Letter) -> str:
    """Give the address of a message's reports: which message it is stands in it, and Twilio signs it."""
    key = letter.key if len(letter.key) <= MAX_KEY_CHARS else ""
    return f"{context.public_url}{STATUS_PATH}?{urlencode({'key': key, 'call': letter.call_sid})}"
