"""The recorded caller: interrupts the greeting, asks the time, asks what only the record answers, says goodbye.

What the agent answered is kept as audio, the way it was played; others judge it by ear.
"""

import tomllib
from dataclasses import dataclass
from typing import Final

from deploy.demo.trouble import RECORDINGS, Trouble
from tests.bench.measure import Asked, ask, reply_s, reply_spans
from tests.standins.carrier_call import Call
from tests.standins.carrier_playout import RATE_HZ, SILENCE, Playout, Span
from tests.standins.carrier_record import CallRecord, StreamRecord
from tests.standins.carrier_settings import CallFailed

SCRIPT: Final = ("interrupt", "what-time", "my-code", "goodbye")
GREETING_HEARD_S: Final = 1.5
"""How much of the greeting the caller listens to before speaking over it."""

STREAM_DEADLINE_S: Final = 30.0
REPLY_DEADLINE_S: Final = 40.0
"""Two calls on two cores, each waiting for speech recognition, answer within 3 s; a busy machine takes longer."""

QUIET_S: Final = 1.5
"""A reply is over when nothing was played for so long: longer than the pause between two of its sentences."""

UNFINISHED_S: Final = 5.0
"""The same where the last sentence has no mark behind it: on a busy machine a voice stops in the middle of one."""


MOST_SILENCE_S: Final = 0.3
"""Measured: after "It is" and 2 s of silence the ear hears nothing of what follows."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the caller said (empty for the greeting), what was played in return, and how long that took to begin."""

    recording: str
    said: str
    answer: bytes  # 8 kHz mu-law, as played
    reply_s: float | None


def texts() -> dict[str, str]:
    """Read what each recording says."""
    rows = tomllib.loads((RECORDINGS / "lexicon.toml").read_text(encoding="utf-8"))["recording"]
    return {row["id"]: row["text"] for row in rows}


async def converse(call: Call, name: str, see: str) -> list[Turn]:
    """Play the whole script on a call that was dialled; return when the agent has hung up. `see` is where to look otherwise.

    Raises:
        Trouble: a step did not happen; the call's name is in it.
    """
    try:
        await call.streaming(timeout_s=STREAM_DEADLINE_S)
        await call.hears(lambda heard: heard.duration_s >= GREETING_HEARD_S, STREAM_DEADLINE_S)
    except CallFailed as error:
        raise Trouble(f"{name}: no greeting was heard: {error}", see) from error
    words = texts()
    asked = [(recording, await _step(call, name, recording, words[recording], see)) for recording in SCRIPT]
    greeting = [span for span in call.heard.spans if span.utterance < asked[0][1].utterances_before]
    turns = [Turn("", "", line(greeting), None)]
    ends = [one.utterances_before for _, one in asked[1:]] + [call.heard.utterances]
    for (recording, one), end in zip(asked, ends, strict=True):
        answer = line([span for span in reply_spans(call, one) if span.utterance < end])
        turns.append(Turn(recording, words[recording], answer, reply_s(call, one)))
    return turns


async def _step(call: Call, name: str, recording: str, said: str, see: str) -> Asked:
    """Say one thing and wait until the answer was played, or after the goodbye until the agent has hung up."""
    last = recording == SCRIPT[-1]
    wanted = "the agent did not hang up after" if last else "nothing was answered to"
    try:
        asked = await ask(call, (RECORDINGS / f"{recording}.ulaw").read_bytes())
        if last:
            if not hung_up(await call.ended(REPLY_DEADLINE_S)):
                raise Trouble(f"{name}: {wanted} {said!r}: the call was lost", see)
            if reply_s(call, asked) is None:
                raise Trouble(f"{name}: nothing was answered to {said!r}", see)
        else:
            await call.hears(lambda heard: answered(heard, asked, call.streams[-1]), REPLY_DEADLINE_S)
    except CallFailed as error:
        raise Trouble(f"{name}: {wanted} {said!r}: {error}", see) from error
    if recording == SCRIPT[0] and not any(stream.clears for stream in call.streams):
        raise Trouble(f"{name}: the greeting went on when the caller spoke over it", see)
    return asked


def hung_up(record: CallRecord) -> bool:
    """Whether the agent ended the call: it closed the stream, and the TwiML that followed had nothing to say."""
    last = record.streams[-1]
    said = any(last.closed_at is not None and spoken.at > last.closed_at for spoken in record.spoken)
    return record.ended_by == "twiml" and last.closed_by == "server" and not said


def answered(heard: Playout, asked: Asked, stream: StreamRecord) -> bool:
    """Whether the agent has answered and has come to an end."""
    finished = bool(stream.marks and stream.media) and stream.marks[-1].received_at >= stream.media[-1].at
    quiet_s = QUIET_S if finished else UNFINISHED_S
    return heard.utterances > asked.utterances_before and not heard.playing and heard.quiet_s >= quiet_s


def line(spans: list[Span]) -> bytes:
    """Put pieces of audio together as they were heard, with the silence between them as far as an ear bears it."""
    heard = bytearray()
    for before, span in zip([None, *spans], spans, strict=False):
        silence_s = span.start_s - before.end_s if before is not None else 0.0
        heard += SILENCE * round(min(silence_s, MOST_SILENCE_S) * RATE_HZ) + span.audio
    return bytes(heard)
