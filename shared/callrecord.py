"""The record of a call: what is kept of it when it is over. Pure.

A record is made from the journal alone, beside what every party of a call knows of it: the journal outlives the worker that
wrote it, its pool and the stream, so a record is whole whoever makes it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from shared.calls import CallSid, EndReason, IncomingCall, TraceId
from shared.messages import Entry
from shared.metrics import Stage, Timing
from shared.transcript import transcript

EVENT: Final = "call.ended"
"""What the webhook's body says it tells of. Source: Standard Webhooks specification, "Payload structure"."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What a call used, as far as anybody charges for it.

    Attributes:
        completions: answers the model was asked for, also those that failed or that the caller interrupted.
        prompt_tokens, cached_tokens, completion_tokens: as the model's provider counted them; it says nothing of a completion
            that was broken off. `cached_tokens` are among the `prompt_tokens`. What was read ahead is in all of them.
        llm_read_ahead: requests that only made the provider read the agent's prompt before the first answer.
        llm_connections: opened to the model's provider; `llm_connections_awaited` are those among them an answer waited for.
        tts_characters: sent to the voice, those sent again after a lost connection too.
        stt_seconds: of sound sent to the ear, as above.
        turns: how often the caller said something that was answered.
        tool_calls: tools that were run.
        resumes: how often another worker took the call over.
    """

    completions: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    llm_read_ahead: int = 0
    llm_connections: int = 0
    llm_connections_awaited: int = 0
    tts_characters: int = 0
    stt_seconds: float = 0.0
    turns: int = 0
    tool_calls: int = 0
    resumes: int = 0


class CallRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a call. Times are unix seconds; `attempts` counts streams, so it is 1 for a call that was never cut off."""

    call_sid: CallSid
    trace_id: TraceId
    caller: str
    called: str
    agent: str
    started_at: float
    ended_at: float
    end_reason: EndReason
    attempts: int
    entries: tuple[Entry, ...] = ()


def record_of(
    call: IncomingCall, agent: str, reason: EndReason, entries: Sequence[Entry], times: tuple[float, float]
) -> CallRecord:
    """Make the record of a call; `times` are when its (last) stream was accepted and when it ended, in unix seconds."""
    accepted_at, now = times
    return CallRecord(
        call_sid=call.call_sid,
        trace_id=call.trace_id,
        caller=call.caller,
        called=call.called,
        agent=agent,
        started_at=min([accepted_at, now, *(entry.at for entry in entries)]),
        ended_at=now,
        end_reason=reason,
        attempts=call.attempt + 1,
        entries=tuple(entries),
    )


def counts(entries: Iterable[Entry]) -> Counts:
    """Add up what a call used; an entry that cannot be read counts nothing."""
    total: Counter[str] = Counter()
    for entry in entries:
        match entry.kind:
            case "used":
                total.update(amounts(entry.text))
            case "user":
                total["turns"] += 1
            case "tool":
                total["tool_calls"] += 1
            case _:
                pass
    whole = {name: int(total[name]) for name in Counts.__struct_fields__ if name != "stt_seconds"}
    return Counts(**whole, stt_seconds=round(total["stt_seconds"], 2))


def timings(entries: Iterable[Entry]) -> dict[str, Any]:
    """Give what was measured, in seconds: the first of what happens once, and `turns` with every value of each stage."""
    once: dict[str, float] = {}
    turns: defaultdict[str, list[float]] = defaultdict(list)
    stages = {f"{Timing.TURN}_{stage}": f"{stage}_s" for stage in Stage}
    for entry in entries:
        if entry.kind != "timing":
            continue
        try:
            seconds = round(float(entry.text), 4)
        except ValueError:
            continue
        if entry.key in stages:
            turns[stages[entry.key]].append(seconds)
        else:
            once.setdefault(f"{entry.key}_s", seconds)
    return {**once, "turns": dict(turns)}


def call_document(record: CallRecord, recording: str = "") -> dict[str, Any]:
    """Write a record as `store_call` and the webhook want it: times in ISO 8601. `recording` is a file's name."""
    used = msgspec.structs.asdict(counts(record.entries))
    return {
        "call_sid": record.call_sid,
        "trace_id": record.trace_id,
        "caller": record.caller,
        "called": record.called,
        "agent": record.agent,
        "started_at": _iso(record.started_at),
        "ended_at": _iso(record.ended_at),
        "end_reason": record.end_reason.value,
        "attempts": record.attempts,
        "resumes": used.pop("resumes"),
        "timings": timings(record.entries),
        "counts": used,
        "recording": recording or None,
    }


def turn_documents(record: CallRecord) -> list[dict[str, Any]]:
    """Write a record's transcript as `store_call` and the webhook want it."""
    return [_clean({**msgspec.to_builtins(turn), "at": _iso(turn.at)}) for turn in transcript(record.entries)]


def encode(record: CallRecord) -> str:
    """Write a record as it waits in Redis."""
    return msgspec.json.encode(record).decode()


def decode(text: str | bytes) -> CallRecord:
    """Read what `encode` wrote.

    Raises:
        ValueError: it is not a record.
    """
    return msgspec.json.decode(text, type=CallRecord)


def amounts(text: str) -> dict[str, float]:
    """Read an entry of what was used, by the names in `Counts`; empty for one that cannot be read."""
    try:
        read = msgspec.json.decode(text, type=dict[str, float])
    except msgspec.DecodeError:
        return {}
    return {name: amount for name, amount in read.items() if name in Counts.__struct_fields__}


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _clean(value: Any) -> Any:
    """Take out what PostgreSQL's `jsonb` refuses: the character NUL, and halves of surrogate pairs."""
    match value:
        case str():
            return value.replace("\0", "").encode(errors="replace").decode()
        case dict():
            return {_clean(key): _clean(each) for key, each in value.items()}
        case list():
            return [_clean(each) for each in value]
        case _:
            return value
