"""The STT socket that knows turns: audio in, and the server says when a turn begins, what was said in it, and when it ends.

Sources: docs.cartesia.ai, "Turn detection" (the order of events; the words of a turn only grow) and "Realtime Speech-to-Text
(Auto)"; the types of the vendor's SDK 4.2 (events, ranges); Pipecat's CartesiaTurnsSTTService (wider ranges: both are taken).

The vendor's model judges meaning. Here a turn begins with sound, and is over after a short silence behind a whole sentence, one
that ends with a full stop or the like; a silence within a sentence may last as long as the client said. Time is counted in
audio: a stream that stops leaves its turn open.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.standins import cartesia_wire as wire
from tests.standins.cartesia_stt import FRAME_S, KEPT_S, LOUD, SttOptions, options_from, spoken_part
from tests.standins.speech import ScriptedSpeech

if TYPE_CHECKING:
    from starlette.datastructures import QueryParams

    from tests.standins.cartesia_socket import CartesiaSettings, Desk, Socket

SENTENCE_ENDS = (".", "?", "!")
MOST_KEYTERMS = 100
MOST_KEYTERM_CHARACTERS = 1200
RANGES: dict[str, tuple[float, float]] = {
    "start_threshold": (0.5, 0.9),
    "eager_end_threshold": (0.3, 0.8),
    "end_threshold": (0.05, 0.5),
    "end_timeout_ms": (640, 11_200),
}


@dataclass(frozen=True, slots=True)
class Detection:
    """How turns are detected; the values are the vendor's defaults as its SDK has them. Thresholds have no effect here."""

    start_threshold: float = 0.8
    eager_end_threshold: float = 0.4
    end_threshold: float = 0.2
    end_timeout_ms: float = 5600

    def changed(self, values: dict[str, object]) -> Detection:
        """Take what a client says. Raises Refused."""
        taken: dict[str, float] = {}
        for name, value in values.items():
            try:
                number = float(str(value))
                least, most = RANGES[name]
            except (KeyError, ValueError):
                raise wire.Refused(400, f"{name}: {value!r} is not known") from None
            if not least <= number <= most:
                raise wire.Refused(400, f"{name}: {number} is not between {least} and {most}")
            taken[name] = number
        made = replace(self, **taken)
        if not made.start_threshold > made.eager_end_threshold > made.end_threshold:
            raise wire.Refused(400, "the thresholds for start, eager end and end must fall in this order")
        return made


def turn_options_from(query: QueryParams) -> tuple[SttOptions, Detection]:
    """Read the query string. Raises Refused."""
    if not query.get("model", "").startswith("ink-2"):
        raise wire.Refused(400, "The model is not valid, make sure it is a valid model ID.")
    terms = query.getlist("keyterm")
    if len(terms) > MOST_KEYTERMS or sum(map(len, terms)) > MOST_KEYTERM_CHARACTERS:
        raise wire.Refused(400, f"at most {MOST_KEYTERMS} keyterms of {MOST_KEYTERM_CHARACTERS} characters")
    given: dict[str, object] = {name: query[f"turn_{name}"] for name in RANGES if query.get(f"turn_{name}") is not None}
    return options_from(query), Detection().changed(given)


class TurnsSession:
    """One socket."""

    def __init__(self, desk: Desk, socket: Socket, options: SttOptions, detection: Detection) -> None:
        self._desk = desk
        self._socket = socket
        self._options = options
        self._detection = detection
        self._waiting = b""  # less than one frame
        self._audio = bytearray()  # PCM s16le of the turn, and a little from before
        self._frames = _Frames()
        self._open = False
        self._eager = False
        self._text = ""
        self._given = ""
        self._tried_ms = 0.0

    @property
    def _settings(self) -> CartesiaSettings:
        return self._desk.settings

    async def run(self) -> None:
        """Serve the socket until it closes."""
        if not self._settings.stall_stt:
            await self._say("connected")
        async for message in self._socket.messages():
            self._socket.active_at = time.monotonic()
            if isinstance(message, bytes):
                await self._take(message)
            elif await self._command(message):
                return

    async def _command(self, text: str) -> bool:
        """Do what a client asks; say whether the session is over."""
        try:
            said = json.loads(text)
            kind = said["type"]
            if kind == "config":
                self._detection = self._detection.changed(said.get("turn") or {})
        except (ValueError, KeyError, TypeError):
            kind = text
        except wire.Refused as refused:
            await self._socket.refuse(refused)
        if kind not in ("config", "close"):
            await self._socket.refuse(wire.Refused(400, f"unknown command {kind[:40]!r}"))
        if kind != "close":
            return False
        if self._open:
            await self._end()
        await self._socket.close(1000)
        return True

    async def _take(self, audio: bytes) -> None:
        audio = self._waiting + audio
        frame = int(FRAME_S * self._options.rate_hz) * wire.STT_SAMPLE_BYTES[self._options.encoding]
        whole = len(audio) // frame * frame
        self._waiting = audio[whole:]
        if self._settings.stall_stt:
            self._desk.control.counters["stt_stalled"] += 1
            return
        pcm = wire.decoded(audio[:whole], self._options.encoding)
        step = 2 * int(FRAME_S * self._options.rate_hz)
        for at in range(0, len(pcm), step):
            piece = pcm[at : at + step]
            self._audio += piece
            self._frames.add(piece)
            await (self._in_turn() if self._open else self._between())

    async def _between(self) -> None:
        kept = 2 * int(KEPT_S * self._options.rate_hz)
        if self._frames.loud_ms >= self._settings.stt_turn_start_ms:
            self._open, self._eager, self._text, self._given, self._tried_ms = True, False, "", "", 0.0
            await self._say("turn.start")
        elif len(self._audio) > 2 * kept:
            del self._audio[:-kept]

    async def _in_turn(self) -> None:
        settings, silent_ms = self._settings, self._frames.silent_ms
        self._tried_ms += 1000 * FRAME_S
        if self._eager and not silent_ms:
            self._eager = False
            await self._say("turn.resume")
        if settings.stt_interim_ms and self._tried_ms >= settings.stt_interim_ms and not self._eager:
            self._tried_ms = 0.0
            await self._update()
        if silent_ms == settings.stt_turn_eager_end_ms and not self._eager and await self._whole():
            self._eager, self._given = True, self._text
            await self._say("turn.eager_end", transcript=self._text)
        if silent_ms >= self._detection.end_timeout_ms or (
            silent_ms == settings.stt_turn_end_ms and await self._whole()
        ):
            await self._end()

    async def _whole(self) -> bool:
        """Say whether a sentence is over, or whether nothing was said."""
        await self._recognise()
        return not self._text or self._text.endswith(SENTENCE_ENDS)

    async def _update(self) -> None:
        """Send the words so far when there are more than before. Local speech would need a core for it."""
        if isinstance(self._desk.speech, ScriptedSpeech):
            await self._recognise()
            if self._text != self._given:
                self._given = self._text
                await self._say("turn.update", transcript=self._text)

    async def _recognise(self) -> None:
        options, speech = self._options, self._desk.speech
        if isinstance(speech, ScriptedSpeech):  # under a millisecond
            self._text = speech.recognise(bytes(self._audio), options.rate_hz, "en")
        elif pcm := spoken_part(bytes(self._audio), options.rate_hz):
            loop = asyncio.get_running_loop()
            text = await loop.run_in_executor(self._desk.threads, speech.recognise, pcm, options.rate_hz, "en")
            self._text = text.strip()

    async def _end(self) -> None:
        if self._settings.stt_error_code:
            code = self._settings.stt_error_code
            self._desk.spend("stt_error_next", "stt_error_code")
            await self._socket.refuse(wire.Refused(code, "made to fail"))
            return
        await self._recognise()
        request_id = self._socket.request_id
        self._desk.control.note("stt_final", request_id=request_id, text=self._text, asked_at=time.monotonic())
        self._desk.control.counters["finals"] += bool(self._text)
        self._open = False
        self._audio.clear()
        self._frames = _Frames()
        await self._say("turn.end", transcript=self._text)

    async def _say(self, kind: str, **fields: str) -> None:
        await self._socket.send(wire.turn_event(kind, self._socket.request_id, **fields))


class _Frames:
    """How long sound has lasted, and silence since, in milliseconds of audio."""

    def __init__(self) -> None:
        self.loud_ms = 0.0
        self.silent_ms = 0.0

    def add(self, pcm: bytes) -> None:
        """Take the next frame."""
        samples: np.ndarray[Any, np.dtype[np.float64]] = np.frombuffer(pcm, dtype="<i2").astype(np.float64)
        loud = bool(np.sqrt((samples**2).mean()) > LOUD)
        self.loud_ms = self.loud_ms + 1000 * FRAME_S if loud else 0.0
        self.silent_ms = 0.0 if loud else self.silent_ms + 1000 * FRAME_S
