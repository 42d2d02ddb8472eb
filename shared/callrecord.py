"""The record of a call: what is kept of it when it is over, and the transcript its journal makes. Pure.

A record is made from the journal alone, beside what every party of a call knows of it: the journal outlives the worker that
wrote it, its pool and the stream, so a record is whole whoever makes it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from shared.calls import CallSid, EndReason, IncomingCall, TraceId
from shared.messages import Entry
from shared.metrics import Stage, Timing

Speaker = Literal["caller", "agent", "tool"]

EVENT: Final = "call.ended"
"""What the webhook's body says it tells of. Source: Standard Webhooks specification, "Payload structure"."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What a call used, as far as anybody charges for it.

    Attributes:
        completions: answers the model was asked for, also those that failed or that the caller interrupted.
        prompt_tokens, cached_tokens, completion_tokens: as the model's provider counted them; it says nothing of a completion
            that was broken off. `cached_tokens` are among the `prompt_tokens`.
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
    tts_characters: int = 0
    stt_seconds: float = 0.0
    turns: int = 0
    tool_calls: int = 0
    resumes: int = 0


class ToolUse(msgspec.Struct, kw_only=True):
    """A tool call of the transcript; `result` and `duration_s` are None for one whose end nobody saw."""

    id: str
    name: str
    arguments: dict[str, Any]
    result: Any = None
    duration_s: float | None = None


class Turn(msgspec.Struct, kw_only=True):
    """Who said what when (`at`: unix seconds), or a tool that ran.

    What the agent said is `text`; what of it was heard is `heard`, as marks proved it or, of a greeting or sentence the
    caller spoke over, as the play-out clock has it. `cut_off`: the caller spoke over it. `heard` is None where nobody asks.
    """

    position: int
    at: float
    speaker: Speaker
    text: str
    heard: str | None = None
    cut_off: bool = False
    tool: ToolUse | None = None


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


class _Outcome(msgspec.Struct):
    name: str = ""
    arguments: dict[str, Any] | None = None


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
                total.update(_amounts(entry.text))
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


def transcript(entries: Iterable[Entry]) -> list[Turn]:
    """Read a journal as a conversation, oldest entry first. Never raises, whatever the entries say."""
    reading = _Reading()
    for entry in entries:
        reading.take(entry)
    return reading.turns()


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


class _Reading:
    """Goes through a journal once. `_saying` are the marks of agent sentences whose fate is open, with their turns."""

    def __init__(self) -> None:
        self._turns: list[Turn] = []
        self._said: dict[int, list[str]] = defaultdict(list)  # by position
        self._heard: dict[int, list[str]] = defaultdict(list)
        self._open: Turn | None = None
        self._greeting: Turn | None = None
        self._saying: dict[str, tuple[Turn, str]] = {}
        self._marks: set[str] = set()
        self._tools: dict[str, Turn] = {}

    def turns(self) -> list[Turn]:
        """Give what was understood; what the agent took back unheard and said again is there once."""
        kept: list[Turn] = []
        for turn in self._turns:
            if turn.speaker == "agent":
                turn.text = " ".join(self._said[turn.position])
                turn.heard = " ".join(self._heard[turn.position])
                if not turn.text:
                    continue
            kept.append(turn)
        for position, turn in enumerate(kept):
            turn.position = position
        return kept

    def take(self, entry: Entry) -> None:
        """Take the next entry."""
        match entry.kind:
            case "user":
                self._add(entry, "caller", entry.text)
                self._open = self._greeting = None
            case "greeting":
                self._greeting = self._open = self._add(entry, "agent")
                self._say(self._open, entry.text, entry.key)
            case "agent":
                self._open = self._open or self._add(entry, "agent")
                self._say(self._open, entry.text, entry.key)
            case "consent":
                self._consent(entry)
            case "tool":
                self._tool(entry)
            case "result":
                self._result(entry)
            case _:
                self._fate(entry)

    def _fate(self, entry: Entry) -> None:
        """Take what tells what became of something said."""
        match entry.kind:
            case "heard":
                self._was_heard(entry)
            case "cut":
                self._cut(entry)
            case "interrupted":
                self._interrupted(entry)
            case "spoken":
                self._open = None
            case "cleared" | "came_back":
                self._broke_off(said_again=entry.kind == "cleared")
            case _:
                pass

    def _add(self, entry: Entry, speaker: Speaker, text: str = "") -> Turn:
        turn = Turn(position=len(self._turns), at=entry.at, speaker=speaker, text=text)
        self._turns.append(turn)
        return turn

    def _consent(self, entry: Entry) -> None:
        """Put the words about the recording in front of the greeting: they are written down when they were heard."""
        turn = self._add(entry, "agent")
        self._said[turn.position] = self._heard[turn.position] = [entry.text]
        if self._greeting is not None and entry.at <= self._greeting.at:
            self._turns.insert(self._turns.index(self._greeting), self._turns.pop())

    def _say(self, turn: Turn, text: str, mark: str) -> None:
        if text and mark:  # a greeting of the voice has none of its own: its sentences follow
            self._said[turn.position].append(text)
            self._saying[mark] = (turn, text)
            self._marks.add(mark)

    def _was_heard(self, entry: Entry) -> None:
        """Note a mark that came back: it proves what was said before it too."""
        if entry.key not in self._saying:
            if entry.text and entry.key not in self._marks:  # the sentence itself was not written down in time
                turn = self._open = self._open or self._add(entry, "agent")
                self._said[turn.position].append(entry.text)
                self._heard[turn.position].append(entry.text)
                self._marks.add(entry.key)
            return
        for mark in list(self._saying):
            turn, text = self._saying.pop(mark)
            self._heard[turn.position].append(text)
            if mark == entry.key:
                return

    def _cut(self, entry: Entry) -> None:
        try:
            cut = msgspec.json.decode(entry.text, type=dict[str, str])
        except msgspec.DecodeError:
            return
        if cut.get("said"):
            self._open = self._open or self._add(entry, "agent")
            self._said[self._open.position].append(cut["said"])
            self._open.cut_off = True
            if cut.get("heard"):
                self._heard[self._open.position].append(cut["heard"])

    def _interrupted(self, entry: Entry) -> None:
        if self._greeting is not None and entry.text:
            self._heard[self._greeting.position] = [entry.text]
        for turn, _text in self._saying.values():
            turn.cut_off = True
        self._saying.clear()
        self._open = self._greeting = None

    def _broke_off(self, *, said_again: bool) -> None:
        """Take what the carrier had not played: what a successor says again is there once, what broke with the line stays."""
        for turn, text in self._saying.values() if said_again else ():
            _drop(self._said[turn.position], text)
        self._saying.clear()
        self._open = self._greeting = None

    def _tool(self, entry: Entry) -> None:
        try:
            asked = msgspec.json.decode(entry.text, type=_Outcome)
        except msgspec.DecodeError:
            asked = _Outcome(name="?")  # cut: it was longer than an entry may be
        turn = self._add(entry, "tool", asked.name)
        turn.tool = ToolUse(id=entry.key, name=asked.name, arguments=asked.arguments or {})
        self._tools[entry.key] = turn
        self._open = None

    def _result(self, entry: Entry) -> None:
        turn = self._tools.pop(entry.key, None)
        self._open = None
        if turn is None or turn.tool is None:
            return
        try:
            turn.tool.result = msgspec.json.decode(entry.text)
        except msgspec.DecodeError:
            turn.tool.result = entry.text
        turn.tool.duration_s = round(max(0.0, entry.at - turn.at), 3)


def _drop(texts: list[str], text: str) -> None:
    """Take the last of these texts out."""
    if text in texts:
        del texts[len(texts) - 1 - texts[::-1].index(text)]


def _amounts(text: str) -> dict[str, float]:
    try:
        amounts = msgspec.json.decode(text, type=dict[str, float])
    except msgspec.DecodeError:
        return {}
    return {name: amount for name, amount in amounts.items() if name in Counts.__struct_fields__}


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
