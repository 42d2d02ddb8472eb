"""Run a call: fetch TwiML, execute its verbs, follow what they lead to, until the call is over.

Source: Twilio docs, TwiML <Connect>, <Stream>, <Reject>, <Redirect>, <Dial>; errors 31901 to 31951.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, assert_never
from urllib.parse import urlsplit

from tests.standins import carrier_fetch, carrier_verbs
from tests.standins.carrier_fetch import Document, FetchFailed
from tests.standins.carrier_requests import Post, absolute
from tests.standins.carrier_twiml import Dial, Hangup, Pause, Play, Redirect, Reject, Say, Stream, Unknown, Verb

if TYPE_CHECKING:
    from tests.standins.carrier_call import Call, Order

REJECTED = {"busy": "busy"}  # reason -> final status; any other reason: no-answer
FINAL = ("failed", "busy", "no-answer")


class Over(Exception):
    """The call ends here."""


async def run(call: Call) -> None:
    """Execute `call` from its first webhook to its last callback."""
    try:
        await status_event(call, "initiated", "ringing")
        document: Document | None = await first(call)
        while document is not None:
            document = await execute(call, document)
            if call.order.done():
                document = await obeyed(call)
    except Over:
        pass
    except Exception as error:
        call.notice(0, f"the stand-in itself failed: {error!r}")
        call.status, call.ended_by = "failed", "error"
        raise
    finally:
        await finish(call)


async def first(call: Call) -> Document:
    """The first document: the number's webhook, or what a REST request said. Raises `Over`."""
    own = call.dialling
    if own.direction != "inbound":
        await status_event(call, "answered", "in-progress")
        answer(call)
    if own.document is not None:
        return own.document
    url = absolute(call.settings, own.url or call.settings.webhook_path)
    return await fetched(call, "incoming", Post(url, call.parameters(), own.method or call.settings.method, own.sign))


async def fetched(call: Call, purpose: str, post: Post) -> Document:
    """Fetch TwiML, from the fallback URL when the first try failed. Raises `Over` when there is none to be had."""
    try:
        return await _document(call, purpose, post)
    except FetchFailed as failed:
        if not call.settings.fallback_url or purpose == "fallback":
            call.status, call.ended_by = "failed", "error"
            raise Over from failed
        extra = {"ErrorCode": str(failed.code), "ErrorUrl": post.url}
    url = absolute(call.settings, call.settings.fallback_url)
    return await fetched(call, "fallback", Post(url, call.parameters(extra), post.method))


async def _document(call: Call, purpose: str, post: Post) -> Document:
    try:
        document = await carrier_fetch.document(call.settings, purpose, post)
    except FetchFailed as failed:
        call.exchanges.append(failed.exchange)
        call.notice(failed.code, str(failed))
        raise
    if document.exchange is not None:
        call.exchanges.append(document.exchange)
        call.documents.append(document.exchange.body)
        call.changed()
    return document


async def execute(call: Call, document: Document) -> Document | None:
    """Run the verbs of `document`; return the one to go on with, or None at its end or when an order came."""
    for verb in document.verbs:
        if call.order.done():
            return None
        call.verbs.append(type(verb).__name__)
        if len(call.verbs) > call.settings.verb_limit:
            call.notice(0, f"more than {call.settings.verb_limit} verbs: the TwiML loops")
            call.status, call.ended_by = "failed", "error"
            raise Over
        if isinstance(verb, Reject):
            if call.answered_at is None:
                call.status = REJECTED.get(verb.reason, "no-answer")
            raise Over
        answer(call)
        following = await perform(call, document, verb)
        if following is not None:
            return following
    if not call.order.done():
        answer(call)
    return None


async def perform(call: Call, document: Document, verb: Verb) -> Document | None:
    """Execute one verb; return the document it leads to, if it leads to one. Raises `Over`."""
    match verb:
        case Say():
            await carrier_verbs.say(call, verb)
        case Play():
            await carrier_verbs.play(call, document, verb)
        case Pause():
            await carrier_verbs.pause(call, verb)
        case Redirect():
            url = absolute(call.settings, verb.url, document.url)
            return await fetched(call, "redirect", Post(url, call.parameters(), verb.method))
        case Dial():
            extra = await carrier_verbs.dial(call, verb)
            return await action(call, document, (verb.action, verb.method), extra)
        case Stream():
            return await stream(call, document, verb)
        case Hangup() | Reject():
            raise Over
        case Unknown():
            call.notice(12200, f"<{verb.name}> is not something this stand-in runs")
        case _:
            assert_never(verb)
    return None


async def stream(call: Call, document: Document, verb: Stream) -> Document | None:
    """Run <Connect><Stream> and ask its action what comes next."""
    end = await carrier_verbs.stream(call, document, verb)
    if call.order.done():
        return None
    settings = call.settings
    lost = end in {"lost", "violation"} and not settings.continue_after_loss
    refused = end in {"refused", "unreachable"} and not settings.continue_after_refusal
    if lost or refused:
        raise Over
    call.pending_action = None
    return await action(call, document, (verb.action, verb.action_method), {})


async def action(call: Call, document: Document, target: tuple[str, str], extra: dict[str, str]) -> Document | None:
    """Request the action URL of a verb that ended by itself; None when it has none."""
    url, method = target
    if not url or call.order.done():
        return None
    if not document.url and not urlsplit(url).netloc:
        call.notice(15004, f"action {url} in the TwiML of a call update is not absolute")
        call.status, call.ended_by = "failed", "error"
        raise Over
    return await fetched(
        call, "action", Post(absolute(call.settings, url, document.url), call.parameters(extra), method)
    )


async def obeyed(call: Call) -> Document:
    """Do what interrupted the TwiML: go on with another document, or end the call. Raises `Over`."""
    order: Order = call.order.result()
    if order.document is None and order.post is None:
        call.ended_by = order.by
        raise Over
    call.order = asyncio.get_running_loop().create_future()
    call.pending_action = None
    if order.document is not None:
        return order.document
    assert order.post is not None
    return await fetched(call, "update", order.post)


def answer(call: Call) -> None:
    """Mark the call answered, once."""
    if call.answered_at is None:
        call.answered_at = time.monotonic()
        call.status = "in-progress"
        call.changed()


async def finish(call: Call) -> None:
    """Settle the final status, make the last requests and let the call be over."""
    if call.status not in FINAL:
        call.status = "completed" if call.answered_at is not None else "no-answer"
    if call.pending_action is not None and call.settings.action_after_hangup:
        url, method = call.pending_action
        call.spawn(carrier_verbs.tell(call, "action", Post(url, call.parameters(), method)))
    await call.settle()
    ended_at = time.monotonic()
    await status_event(call, "completed", call.status, {"CallDuration": str(_seconds(call, ended_at))})
    call.ended_at = ended_at
    call.changed()


def _seconds(call: Call, ended_at: float) -> int:
    return 0 if call.answered_at is None else round(ended_at - call.answered_at)


async def status_event(call: Call, event: str, status: str, extra: dict[str, str] | None = None) -> None:
    """Post a call-progress event where it was asked for; its answer does not matter to the call.

    Source: Twilio docs, Call resource.
    """
    own = call.dialling
    url = own.status_callback or call.settings.status_callback
    if not url or event not in own.status_events:
        return
    params = call.parameters({
        "CallStatus": status,
        "CallbackSource": "call-progress-events",
        "SequenceNumber": str(call.callbacks),
        "Timestamp": time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime()),
        **(extra or {}),
    })  # fmt: skip
    call.callbacks += 1
    await carrier_verbs.tell(call, "status", Post(absolute(call.settings, url), params))
