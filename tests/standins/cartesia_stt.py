"""The STT socket with manual finalize: audio in, transcripts out when the client says so.

Source: docs.cartesia.ai, "STT manual finalize". Audio costs nothing but a copy until something is asked: a bench
sends 50 frames a second on each of 30 sockets. Finalize with no words in the audio is answered by `flush_done` alone.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from tests.standins import cartesia_wire as wire
from tests.standins.speech import ScriptedSpeech

if TYPE_CHECKING:
    from starlette.datastructures import QueryParams

    from tests.standins.cartesia_socket import Desk, Socket

LONGEST_S = 30  # audio kept since the last final transcript
KEPT_S = 0.5  # of audio without words, so that a word that is just being spoken is not cut
FRAME_S = 0.02  # silence is looked for in frames of this length
LOUD = 300.0  # root mean square of a frame with speech in it
MARGIN_FRAMES = 15  # kept around the speech


@dataclass(frozen=True, slots=True)
class SttOptions:
    """What the query string of the upgrade said."""

    model: str
    language: str
    encoding: wire.SttEncoding
    rate_hz: int

    @property
    def bytes_per_s(self) -> int:
        """How much audio one second is."""
        return self.rate_hz * wire.STT_SAMPLE_BYTES[self.encoding]


def options_from(query: QueryParams) -> SttOptions:
    """Read the query string. Raises Refused."""
    model, language = query.get("model", ""), query.get("language", "en")
    encoding, rate = query.get("encoding", ""), query.get("sample_rate", "")
    if not model.startswith("ink-"):
        raise wire.Refused(404, f"model {model!r} does not exist")
    if model.startswith("ink-2") and language.partition("-")[0] != "en":
        raise wire.Refused(400, f"{model} does not know the language {language!r}")
    for known in get_args(wire.SttEncoding):
        if encoding == known and rate.isdecimal() and int(rate):
            return SttOptions(model, language, known, int(rate))
    raise wire.Refused(400, f"encoding {encoding!r} at sample rate {rate!r} is not supported")


class SttSession:
    """One STT socket."""

    def __init__(self, desk: Desk, socket: Socket, options: SttOptions) -> None:
        self._desk = desk
        self._socket = socket
        self._options = options
        self._audio = bytearray()  # since the last final transcript, silence at its front left out
        self._received = 0  # bytes since the last final transcript
        self._looked_at = 0  # bytes received when an interim transcript was last tried
        self._interim = ""
        self._finals = 0
        self._requests: asyncio.Queue[tuple[str, float, bytes, int]] = asyncio.Queue()

    async def run(self) -> None:
        """Serve the socket until it closes."""
        async with asyncio.TaskGroup() as tasks:
            answering = tasks.create_task(self._answer())
            async for message in self._socket.messages():
                self._socket.active_at = time.monotonic()
                if isinstance(message, bytes):
                    await self._take(message)
                else:
                    await self._command(message)
            answering.cancel()

    async def _take(self, audio: bytes) -> None:
        self._audio += audio
        self._received += len(audio)
        interim_ms, per_s = self._desk.settings.stt_interim_ms, self._options.bytes_per_s
        every = int(interim_ms / 1000 * per_s)
        if interim_ms and self._received - self._looked_at >= every:
            self._looked_at = self._received
            await self._try_interim()
        elif len(self._audio) > (LONGEST_S + 1) * per_s:
            del self._audio[: len(self._audio) - LONGEST_S * per_s]

    async def _try_interim(self) -> None:
        """Send an interim transcript when there are more words than before. Local speech would need a core for it."""
        speech, options = self._desk.speech, self._options
        if not isinstance(speech, ScriptedSpeech) or self._desk.settings.stall_stt:
            return
        pcm = wire.decoded(bytes(self._audio), options.encoding)
        text = speech.recognise(pcm, options.rate_hz, options.language)  # under a millisecond
        if not text:
            kept = int(KEPT_S * options.rate_hz) * wire.STT_SAMPLE_BYTES[options.encoding]
            del self._audio[: max(0, len(self._audio) - kept)]
        elif text != self._interim:
            self._interim = text
            await self._send_transcript(text, self._received, final=False)

    async def _command(self, word: str) -> None:
        if word not in ("finalize", "close", "done"):  # `done` is the older word for close
            await self._socket.refuse(wire.Refused(400, f"unknown command {word[:40]!r}"))
            return
        audio, self._audio = bytes(self._audio), bytearray()
        self._requests.put_nowait((word, time.monotonic(), audio, self._received))
        self._received = self._looked_at = 0
        self._interim = ""

    async def _answer(self) -> None:
        """Answer the commands in order."""
        while True:
            word, asked_at, audio, received = await self._requests.get()
            settings = self._desk.settings
            if settings.stall_stt:
                self._desk.control.counters["stt_stalled"] += 1
                continue
            if settings.stt_error_code:
                self._desk.spend("stt_error_next", "stt_error_code")
                await self._socket.refuse(wire.Refused(settings.stt_error_code, "made to fail"))
                continue
            text = await self._recognised(audio)
            if word == "finalize" or text:
                await asyncio.sleep(asked_at + settings.stt_final_ms / 1000 - time.monotonic())
            self._desk.control.note("stt_final", request_id=self._socket.request_id, text=text, asked_at=asked_at)
            if text:
                self._desk.control.counters["finals"] += 1
                await self._send_transcript(text, received, final=True)
                self._finals += 1
            kind: Literal["flush_done", "done"] = "flush_done" if word == "finalize" else "done"
            await self._socket.send(wire.acknowledgement(kind, self._socket.request_id))
            if kind == "done":
                await self._socket.close(1000)

    async def _recognised(self, audio: bytes) -> str:
        options = self._options
        pcm = spoken_part(wire.decoded(audio, options.encoding), options.rate_hz)
        if not pcm:
            return ""
        return await asyncio.get_running_loop().run_in_executor(
            self._desk.threads, self._desk.speech.recognise, pcm, options.rate_hz, options.language
        )

    async def _send_transcript(self, text: str, received: int, *, final: bool) -> None:
        """Send the words after the last final transcript; clients join the finals without adding spaces."""
        spaced = f" {text}" if self._finals else text
        duration_s = received / self._options.bytes_per_s
        language = self._options.language.partition("-")[0]
        await self._socket.send(wire.transcript(self._socket.request_id, spaced, language, duration_s, final=final))


def spoken_part(pcm: bytes, rate_hz: int) -> bytes:
    """Cut the silence before and after the speech, leaving a margin; empty when there is no speech."""
    frame = int(FRAME_S * rate_hz)
    samples: np.ndarray[Any, np.dtype[np.int16]] = np.frombuffer(pcm, dtype="<i2")
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame).astype(np.float32)
    loud = np.flatnonzero(np.sqrt((frames**2).mean(axis=1)) > LOUD)
    if not len(loud):
        return b""
    first, last = max(0, int(loud[0]) - MARGIN_FRAMES), int(loud[-1]) + 1 + MARGIN_FRAMES
    return samples[first * frame : last * frame].tobytes()
