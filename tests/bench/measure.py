"""What one call took: the carrier's own moments, and what its worker wrote when the call ended.

Everything is seconds. The carrier's figures are those of the caller's side; the worker's are named as in `shared.metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.standins.carrier_call import Call
    from tests.standins.carrier_playout import Span

RATE_HZ: Final = 8000
QUIET_EXPONENT: Final = 1  # of a mu-law byte: at most 372 of 32767, -39 dBFS, below any speech of the recordings
FRAME_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Measured:
    """One finished call; None where something did not happen, or was not said by the worker."""

    call_sid: str
    webhook: float | None  # connecting to the router until its TwiML was read
    dialled_to_media: float | None  # media upgrade written (TCP connected) until the first audio was read
    upgrade_to_media: float | None  # 101 read until the first audio was read
    start_to_media: float | None  # `start` written until the first audio was read
    worker: Mapping[str, float]  # the worker's timings, `agent_ready_s` and others
    greeting_gaps: tuple[float, ...]  # silences of at least a frame inside the greeting, by the play-out clock
    frames_late: int  # of the carrier: when it is late itself, its figures mean less
    end_reason: str


def measured(call: Call, ended: Mapping[str, Any]) -> Measured:
    """Gather what is known about a call that is over; `ended` is the worker's last log line, or empty."""
    record = call.record()
    return Measured(
        call_sid=call.call_sid,
        webhook=_between(record.webhook_sent, record.webhook_answered),
        dialled_to_media=_between(record.upgrade_sent, record.first_media_received),
        upgrade_to_media=_between(record.upgrade_accepted, record.first_media_received),
        start_to_media=_between(record.start_sent, record.first_media_received),
        worker={name: float(value) for name, value in ended.items() if name.endswith("_s")},
        greeting_gaps=tuple(gap.duration_s for gap in call.heard.gaps(FRAME_S) if gap.utterance == 0),
        frames_late=record.stream.frames_late,
        end_reason=str(ended.get("end_reason", "")),
    )


def last_words(lines: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Find the line each worker wrote when its call ended, by call SID."""
    return {line["call_sid"]: line for line in lines if line.get("event") == "call ended" and "end_reason" in line}


def trailing_quiet_s(ulaw: bytes) -> float:
    """How long a recording goes on after its last audible sample (8 kHz mu-law)."""
    for index in range(len(ulaw) - 1, -1, -1):
        if (~ulaw[index] >> 4) & 7 > QUIET_EXPONENT:
            return (len(ulaw) - 1 - index) / RATE_HZ
    return len(ulaw) / RATE_HZ


def leading_quiet_s(ulaw: bytes) -> float:
    """How long a recording goes on before its first audible sample (8 kHz mu-law)."""
    first = next((index for index, byte in enumerate(ulaw) if (~byte >> 4) & 7 > QUIET_EXPONENT), len(ulaw))
    return first / RATE_HZ


@dataclass(frozen=True, slots=True)
class Asked:
    """A recording that was said: when its last audible sample was sent, and which utterances came before any reply."""

    at: float
    utterances_before: int


async def ask(call: Call, ulaw: bytes) -> Asked:
    """Say a recording and note when the caller's voice really ended. Raises `CallFailed`."""
    before = call.heard.utterances
    sent = await call.say(ulaw)
    padding = -len(ulaw) % int(FRAME_S * RATE_HZ) / RATE_HZ  # the carrier fills the last frame
    return Asked(sent - padding - trailing_quiet_s(ulaw), before)


def reply_spans(call: Call, asked: Asked) -> list[Span]:
    """What was played since: the utterances that began after the caller had."""
    return [span for span in call.heard.spans if span.utterance >= asked.utterances_before]


def reply_s(call: Call, asked: Asked) -> float | None:
    """The caller's silence: last audible sample said to first sample of the reply played. None without a reply."""
    spans = reply_spans(call, asked)
    return max(0.0, spans[0].start_s - asked.at) if spans else None


def _between(begin: float | None, end: float | None) -> float | None:
    return end - begin if begin is not None and end is not None else None
