"""The STT socket with manual commits: audio in, transcripts out when the client says so.

Source: the vendor's docs, "Transcripts and commit strategies" and "Event reference", and frames of the live service that others
published: each commit is answered by one transcript, an empty one when there were no words; the words of a committed transcript
come once more as a partial one, some ms later; a commit of under 0.3 s of audio ends the session; audio that nobody commits is
committed by the service. Not built: commits by the service's own voice detector, entities, redaction.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.standins import elevenlabs_wire as wire
from tests.standins.cartesia_stt import spoken_part
from tests.standins.speech import ScriptedSpeech

if TYPE_CHECKING:
    from starlette.datastructures import QueryParams

    from tests.standins.elevenlabs_socket import Desk, Socket

KEPT_S = 0.5  # of audio without words, so that a word that is just being spoken is not cut
ISO_639_3 = {"deu": "de", "eng": "en", "fra": "fr", "ita": "it", "jpn": "ja", "nld": "nl", "por": "pt", "spa": "es"}
ECHO_S = 0.005  # from a committed transcript to its repetition as a partial one


@dataclass(frozen=True, slots=True)
class SttOptions:
    """What the query string of the upgrade said."""

    model: str
    language: str
    audio_format: str
    timestamps: bool

    @property
    def given(self) -> wire.AudioFormat:
        """The format of the audio."""
        return wire.FORMATS[self.audio_format]

    @property
    def bytes_per_s(self) -> int:
        """How much audio one second is."""
        return self.given.rate_hz * self.given.sample_bytes

    def config(self) -> dict[str, object]:
        """Give what the first message repeats of it."""
        return {
            "model_id": self.model,
            "audio_format": self.audio_format,
            "sample_rate": self.given.rate_hz,
            "language_code": self.language,
            "vad_commit_strategy": False,
            "include_timestamps": self.timestamps,
        }


def options_from(query: QueryParams) -> SttOptions:
    """Read the query string. Raises Refused."""
    audio_format, strategy = query.get("audio_format", "pcm_16000"), query.get("commit_strategy", "manual")
    if not query.get("model_id", "").startswith("scribe_") or audio_format not in wire.FORMATS or strategy != "manual":
        raise wire.Refused("invalid_request")
    timestamps = query.get("include_timestamps") == "true"
    language = query.get("language_code", "en")  # of two letters or three
    return SttOptions(query["model_id"], ISO_639_3.get(language, language), audio_format, timestamps)


@dataclass(frozen=True, slots=True)
class Commit:
    """Audio that is to be transcribed, and when that was asked."""

    audio: bytes
    asked_at: float
    asked: bool = True  # by the client; otherwise the service did it


class SttSession:
    """One STT socket."""

    def __init__(self, desk: Desk, socket: Socket, options: SttOptions) -> None:
        self._desk = desk
        self._socket = socket
        self._options = options
        self._audio = bytearray()  # since the last commit, silence at its front left out
        self._received = 0  # bytes since the last commit
        self._heard = 0  # bytes since the beginning
        self._looked_at = 0  # bytes received when a partial transcript was last tried
        self._partial = ""
        self._commits: asyncio.Queue[Commit] = asyncio.Queue()

    async def run(self) -> None:
        """Serve the socket until it closes."""
        await self._socket.send(wire.session_started(self._socket.request_id, self._options.config()))
        async with asyncio.TaskGroup() as tasks:
            answering = tasks.create_task(self._answer())
            try:
                async for text in self._socket.messages():
                    chunk, audio = wire.audio_chunk(text)
                    await self._take(audio)
                    if chunk.commit:
                        self._commit()
            except wire.Refused as refused:
                await self._refuse(refused)
            answering.cancel()

    async def _refuse(self, refused: wire.Refused) -> None:
        self._desk.control.note("stt_error", code=refused.code)
        await self._socket.refuse(refused)

    async def _take(self, audio: bytes) -> None:
        settings, per_s = self._desk.settings, self._options.bytes_per_s
        self._audio += audio
        self._received += len(audio)
        self._heard += len(audio)
        if settings.stt_auto_commit_s and self._received >= settings.stt_auto_commit_s * per_s:
            self._desk.control.counters["auto_commits"] += 1
            self._cut(asked=False)
        elif settings.stt_partial_ms and self._received - self._looked_at >= settings.stt_partial_ms / 1000 * per_s:
            self._looked_at = self._received
            await self._try_partial()

    async def _try_partial(self) -> None:
        """Send a partial transcript when there are more words than before. Local speech would need a core for it."""
        speech, options = self._desk.speech, self._options
        enough = self._heard >= wire.PARTIALS_FROM_S * options.bytes_per_s
        if not isinstance(speech, ScriptedSpeech) or self._desk.settings.stall_stt or not enough:
            return
        pcm = wire.decoded(bytes(self._audio), options.given)
        text = speech.recognise(pcm, options.given.rate_hz, options.language)  # under a millisecond
        if not text:
            kept = int(KEPT_S * options.given.rate_hz) * options.given.sample_bytes
            del self._audio[: max(0, len(self._audio) - kept)]
        elif text != self._partial:
            self._partial = text
            await self._socket.send(wire.transcript("partial_transcript", text))

    def _commit(self) -> None:
        uncommitted_s = self._received / self._options.bytes_per_s
        if uncommitted_s < wire.LEAST_COMMIT_S:
            raise wire.Refused("commit_throttled", seconds=uncommitted_s)
        self._desk.control.counters["commits"] += 1
        self._cut(asked=True)

    def _cut(self, *, asked: bool) -> None:
        self._commits.put_nowait(Commit(bytes(self._audio), time.monotonic(), asked))
        self._audio, self._received, self._looked_at, self._partial = bytearray(), 0, 0, ""

    async def _answer(self) -> None:
        """Answer the commits in order."""
        while True:
            commit = await self._commits.get()
            desk = self._desk
            if desk.settings.stall_stt:
                desk.control.counters["stt_stalled"] += 1
                continue
            if commit.asked and desk.settings.stt_error:
                refused = wire.Refused(desk.settings.stt_error)
                desk.spend("stt_error_next", "stt_error")
                await self._refuse(refused)
                continue
            text = await self._recognised(commit.audio)
            await asyncio.sleep(commit.asked_at + desk.settings.stt_final_ms / 1000 - time.monotonic())
            desk.control.note("stt_final", request_id=self._socket.request_id, text=text, asked_at=commit.asked_at)
            desk.control.counters["finals"] += bool(text)
            if commit.asked and desk.settings.stt_never_next:
                desk.spend("stt_never_next")
                continue
            await self._send_final(text)
            if commit.asked and desk.settings.stt_twice_next:
                desk.spend("stt_twice_next")
                await self._send_final(text)
                desk.control.counters["repeated"] += 1

    async def _send_final(self, text: str) -> None:
        await self._socket.send(wire.transcript("committed_transcript", text))
        if self._options.timestamps:
            more = {"language_code": self._options.language, "words": []}
            await self._socket.send(wire.transcript("committed_transcript_with_timestamps", text, **more))
        if text:
            await asyncio.sleep(ECHO_S)
            await self._socket.send(wire.transcript("partial_transcript", text))

    async def _recognised(self, audio: bytes) -> str:
        given = self._options.given
        pcm = spoken_part(wire.decoded(audio, given), given.rate_hz)
        if not pcm:
            return ""
        return await asyncio.get_running_loop().run_in_executor(
            self._desk.threads, self._desk.speech.recognise, pcm, given.rate_hz, self._options.language
        )
