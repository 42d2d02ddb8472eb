"""The jobs after a call: store its record, post it to the webhook, tell the database that a recording is gone.

Plain functions, run by name with JSON arguments, as `worker.jobs.customer` is, with what their thread set as `CONTEXT`. RQ runs
them again when they raise, which they do without a word of what was said: a record that waits for its database is in its
arguments and nowhere else. Each may be run more than once, and does its work once.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import httpx
import msgspec
import structlog
from redis import Redis
from standardwebhooks import Webhook

from shared import keys, logs
from shared.callrecord import EVENT, CallRecord, call_document, decode, turn_documents
from shared.calls import CallSid
from worker.jobs import recordings
from worker.jobs.later import TryLater
from worker.jobs.lookup import LookupFailed

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Receiver:
    """Who is told of calls: `url`, and what signs for us. `client` bounds every step."""

    client: httpx.Client
    url: str
    signer: Webhook


@dataclass(frozen=True, slots=True)
class Context:
    """What a thread that runs these jobs has ready.

    `database` calls a function of the migrations by name and raises LookupFailed. None where there is no such thing.
    """

    database: Callable[[str, Mapping[str, Any]], Any] | None
    receiver: Receiver | None
    redis: Redis
    recordings_dir: Path


CONTEXT: Final[ContextVar[Context]] = ContextVar("after-call context")


def store(text: str) -> None:
    """Store a record (`callrecord.encode`) in the database, with its recording made ready.

    Raises:
        TryLater: the database does not take it now.
    """
    context, record = CONTEXT.get(), decode(text)
    if context.database is None:
        raise TryLater("there is no SUPABASE_URL here")
    with structlog.contextvars.bound_contextvars(call_sid=record.call_sid, trace_id=record.trace_id):
        if _done(context, "stored", record):
            return
        call = call_document(record, _recording(context, record))
        _ask(context, "store_call", {"p_call": call, "p_turns": turn_documents(record)})
        _note(context, "stored", record)
        _log.info("call record stored", entries=len(record.entries))


def post(text: str) -> None:
    """Post a record to the webhook.

    Raises:
        TryLater: it was not taken: no answer, or one that is not 2xx.
    """
    context, record = CONTEXT.get(), decode(text)
    if context.receiver is None:
        raise TryLater("there is no RECORDS_WEBHOOK_URL here")
    with structlog.contextvars.bound_contextvars(call_sid=record.call_sid, trace_id=record.trace_id):
        if _done(context, "posted", record):
            return
        _deliver(context.receiver, record, body(record, _recording(context, record)))
        _note(context, "posted", record)
        _log.info("call record posted")


def recording_gone(call_sid: str) -> None:
    """Have the database know that a recording was deleted.

    Raises:
        TryLater: it does not answer now.
    """
    context = CONTEXT.get()
    if context.database is not None:
        _ask(context, "recording_deleted", {"p_call_sid": call_sid})


def body(record: CallRecord, recording: str) -> bytes:
    """Write what the webhook is posted. Source: Standard Webhooks specification, "Payload structure"."""
    call = call_document(record, recording)
    data = {"call": call, "turns": turn_documents(record)}
    return msgspec.json.encode({"type": EVENT, "timestamp": call["ended_at"], "data": data})


def _deliver(receiver: Receiver, record: CallRecord, content: bytes) -> None:
    """Post once. The id is the same at each try of a record. Source: Standard Webhooks specification, "Webhook headers"."""
    name, now = f"call_{record.call_sid}_{record.attempts}", datetime.now(UTC)
    headers = {
        "content-type": "application/json",
        "webhook-id": name,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": receiver.signer.sign(name, now, content.decode()),
    }
    try:
        with receiver.client.stream("POST", receiver.url, content=content, headers=headers) as answer:
            status = answer.status_code  # nobody reads what it says beside
    except httpx.HTTPError as error:
        raise _later(f"the webhook does not answer: {type(error).__name__}") from None
    if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's own limits
        raise _later(f"the webhook answered {status}")


def _recording(context: Context, record: CallRecord) -> str:
    """Have the recording finished, if there is one; what cannot be encoded is left as it is, and the record goes without."""
    try:
        return recordings.finish(context.recordings_dir, record.call_sid, record.ended_at, record.attempts)
    except OSError as error:
        raise _later(f"the recording is not finished: {error.strerror}") from None
    except (ValueError, RuntimeError):
        _log.exception("the recording cannot be finished")
        return ""


def _ask(context: Context, function: str, arguments: Mapping[str, Any]) -> None:
    assert context.database is not None  # noqa: S101 - asked by the callers
    try:
        context.database(function, arguments)
    except LookupFailed as error:
        raise _later(str(error)) from None


def _later(why: str) -> TryLater:
    _log.warning("what is left of a call waits", why=why)
    return TryLater(why)


def _done(context: Context, what: Literal["stored", "posted"], record: CallRecord) -> bool:
    """Say whether this record, or one that tells of more attempts of the call, was dealt with."""
    noted = context.redis.get(keys.recorded(what, CallSid(record.call_sid)))
    return noted is not None and int(str(noted)) >= record.attempts


def _note(context: Context, what: Literal["stored", "posted"], record: CallRecord) -> None:
    context.redis.set(keys.recorded(what, record.call_sid), record.attempts, ex=keys.RECORDED_TTL_S)
