"""The status job: tell and write down what Twilio says of a message; send the template where free text came to nothing.

Reports come in any order, more than once, and sometimes before the message itself is written down. Whoever waits for the
message is told whether it arrives; of what is reported later than that only the database knows: a failure too.
"""

import time
from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from shared import logs
from shared.letters import OUTSIDE_WINDOW, Told
from worker.jobs.later import TryLater
from worker.jobs.twilio_client import NoAnswer, NotTaken, Refused, Sent
from worker.jobs.whatsapp import CONTEXT, Context, Letter, ask, by_template, fate, once, write_down

TEMPLATE_KEY: Final = "#template"
"""What the key of a message ends in that follows one whose free text was not delivered."""

EARLY_S: Final = 60.0
"""How long a message may take from Twilio's first report to being written down."""

_log = logs.get(__name__)


def status(  # noqa: PLR0913, PLR0917 - the arguments of a job, by name
    provider_sid: str, status: str, error_code: str, key: str, call_sid: str, told_at: float
) -> None:
    """Note that Twilio gave a message a status at `told_at` (unix seconds); `key` and `call_sid` are those of its sending.

    Raises:
        TryLater: the database, Twilio or the message itself is not there yet, and RQ is to come back.
    """
    context, told = CONTEXT.get(), fate(Sent(provider_sid, status, error_code))
    with structlog.contextvars.bound_contextvars(call_sid=call_sid):
        if error_code == OUTSIDE_WINDOW and context.template_sid and key and not key.endswith(TEMPLATE_KEY):
            _follow_up(context, told, key, call_sid, told_at)
        elif told.settled:
            _tell(context, key, told)
        _note(context, provider_sid, status, error_code, key, told_at)


def _follow_up(context: Context, failed: Told, key: str, call_sid: str, told_at: float) -> None:
    """Send the template instead of a message, once. Who it goes to and what it says is asked of Twilio, and kept nowhere.

    When it is sent nobody is told that the first one failed: for who waits the message is still on its way.
    """
    before = context.attempts.read(key + TEMPLATE_KEY)
    if before is not None and before.logged:
        return
    try:
        to, body = context.whatsapp.read(failed.provider_sid)
    except (NotTaken, NoAnswer) as error:
        raise TryLater(f"the message was not read: {error}") from error
    except Refused as error:
        _log.error("no template sent", why=str(error))
        _tell(context, key, failed)
        return
    letter = Letter(key + TEMPLATE_KEY, to, body, call_sid)
    told = once(context, letter.key, told_at, lambda: by_template(context, letter))
    if told.state != "sent":
        _tell(context, key, told)
    write_down(context, letter, told)


def _tell(context: Context, key: str, told: Told) -> None:
    """Tell whoever waits for a message what became of it, or of the template that was sent instead."""
    if not key:
        return
    try:
        context.attempts.tell(key.removesuffix(TEMPLATE_KEY), told)
    except (RedisError, OSError) as error:
        _log.warning("nobody is told what became of a message", why=str(error))


def _note(  # noqa: PLR0913, PLR0917 - what a report says
    context: Context, provider_sid: str, status: str, error_code: str, key: str, told_at: float
) -> None:
    if context.database is None:
        return
    report: dict[str, Any] = {"p_status": status, "p_error_code": error_code or None}
    answer = ask(context, "message_status", {"p_provider_sid": provider_sid, **report})
    if answer != {"outcome": "unknown_message"}:
        _log.info("message status", status=status, error_code=error_code)
        return
    logged = ask(context, "message_of", {"p_key": key}) if key else None
    if isinstance(logged, dict) and logged.get("provider_sid") is None:
        # Nobody knew whether it was sent, or it was refused with no sid: now it is known. The row is there, so what else
        # would make one is not used.
        unused = dict.fromkeys(("p_call_sid", "p_body")) | {"p_channel": "whatsapp", "p_direction": "outbound"}
        ask(context, "log_message", {
            "p_key": key, "p_phone": "", "p_provider_sid": provider_sid, **report, **unused
        })  # fmt: skip
    elif time.time() - told_at < EARLY_S:
        raise TryLater("the message is not written down yet")
    else:
        _log.warning("status of a message that is not ours", status=status)
