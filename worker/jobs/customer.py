"""The prefetch job: look a caller up, publish what is known to the call's stream.

A plain function: RQ calls it by name with JSON arguments, tests call it directly. What it needs (a warm Supabase client,
a Redis connection) cannot be an argument of a queued job, and must not be made at import or per job; so the thread that
runs jobs sets `CONTEXT` once, before its first one. A context variable, because several threads run jobs in one process,
each with a connection of its own.
"""

import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog
from redis import Redis
from redis.exceptions import RedisError

from shared import keys, logs, tracing_spans
from shared.calls import CallSid
from shared.prefetch import Outcome, Result
from worker.jobs.lookup import MAX_BODY_BYTES, LookupFailed

_E164: Final = re.compile(r"\+[1-9][0-9]{6,14}")
"""Source: ITU-T E.164, at least 7 digits. A withheld number may come as a word, or as a number nobody has."""

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Context:
    """What a thread that runs prefetch jobs has ready.

    `lookup` gives what is known of a number (None: of nobody) or raises LookupFailed; it is None itself when there is
    nothing to ask. `redis` is a command client. `observe` takes each outcome with its seconds since the webhook.
    """

    lookup: Callable[[str], Any] | None
    redis: Redis
    observe: Callable[[Outcome, float], None]


CONTEXT: Final[ContextVar[Context]] = ContextVar("prefetch context")


def prefetch(call_sid: str, phone: str, trace_id: str, queued_at: float) -> None:
    """Look up who calls and publish a `Result`; `queued_at` is unix seconds at the webhook.

    Whatever Supabase or Redis do, nothing is raised: a call waits for the outcome, not for a success.
    """
    context = CONTEXT.get()
    with structlog.contextvars.bound_contextvars(call_sid=call_sid, trace_id=trace_id):
        began = time.time()
        outcome, record = look_up(context.lookup, phone)
        looked_up = began, time.time()
        result = Result(
            outcome=outcome, record=record, queued_at=queued_at, took_s=round(max(0.0, time.time() - queued_at), 6)
        )
        if _publish(context.redis, CallSid(call_sid), result):
            context.observe(outcome, result.took_s)
            tracing_spans.prefetched(trace_id, call_sid, outcome, queued_at, looked_up)
            _log.info("customer prefetched", outcome=outcome, took_s=result.took_s)


def look_up(lookup: Callable[[str], Any] | None, phone: str) -> tuple[Outcome, dict[str, Any] | None]:
    """Give the outcome of a lookup, and the record when it is `found`. Never raises."""
    if lookup is None:
        return "unavailable", None
    if not _E164.fullmatch(phone):
        return "unknown", None
    try:
        document = lookup(phone)
    except LookupFailed as error:
        _log.warning("customer lookup failed", why=str(error))
        return "failed", None
    if document is None:
        return "unknown", None
    problem = _problem(document)
    if problem:
        _log.warning("customer lookup failed", why=problem)
        return "failed", None
    return "found", document


def _problem(document: Any) -> str:
    """Say why a document cannot go on its way; empty when it can."""
    if not isinstance(document, dict) or not document:
        return f"not an object: {type(document).__name__}"
    try:
        size = len(msgspec.json.encode(document))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:  # lone surrogates, depth, huge numbers
        return f"cannot be passed on: {type(error).__name__}"
    return f"document of {size} bytes" if size > MAX_BODY_BYTES else ""


def _publish(redis: Redis, call_sid: CallSid, result: Result) -> bool:
    stream = keys.customer(call_sid)
    try:
        with redis.pipeline(transaction=True) as pipe:
            pipe.xadd(stream, {"result": msgspec.json.encode(result).decode()})
            pipe.expire(stream, keys.CUSTOMER_TTL_S)
            pipe.execute()
    except (RedisError, OSError) as error:
        _log.warning("prefetch result not published", why=str(error))
        return False
    return True
