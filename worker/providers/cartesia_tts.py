"""Cartesia's voice: any number of contexts on one connection; voice and language travel with each text.

Text goes out as it comes from the model (`words`), and the provider decides when it has enough of it to begin, at the latest
`CARTESIA_TTS_BUFFER_MS` after the first word. With 0 it is sent by the sentence and spoken as it is.

Source: Cartesia docs, "TTS (WebSocket)" (the messages), "Concurrency limits and timeouts" (5 min without a generation; pings do
not count), "Contexts" (one ends 1 s after its last sound), "Context flushing", "Buffering", "SSML tags". What a context was
sent when it was gone is answered by an error with status 400, which is the context's and not the connection's.
"""

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from pipecat.services.settings import TTSSettings
from websockets.asyncio.client import ClientConnection

from shared.settings import Settings
from worker.providers.connection import connected
from worker.providers.languages import base_language
from worker.providers.line import Failed
from worker.providers.retry import Trouble
from worker.providers.socket_voice import Act, SocketVoice
from worker.providers.spoken import Utterance

API_VERSION: Final = "2026-03-01"
"""As Pipecat's services of this vendor."""

OUTLIVED_S: Final = 0.7
"""After so much silence another context is taken: one is gone after 1 s, and refuses what is on its way to it."""

FIRST_WORDS: Final = 2
"""How many words are spoken at once: half a second of sound, in which the rest comes in pieces with a better melody."""

BAD_REQUEST: Final = 400

_TAG: Final = re.compile(r"</?(?:spell|emotion|break|volume|speed)\b[^>]*>", re.IGNORECASE)
_PARTING: Final = re.compile(rf"(?<=[^\W_])(?:{_TAG.pattern})+(?=[^\W_])", re.IGNORECASE)


class CartesiaVoice(SocketVoice):
    """The voice."""

    def __init__(self, settings: Settings, on_lost: Callable[[str], None], trouble: Trouble | None = None) -> None:
        self._model = settings.cartesia_tts_model
        self._buffer_ms = settings.cartesia_tts_buffer_ms
        super().__init__(
            TTSSettings(model=self._model, voice=settings.cartesia_voice_id, language=None),
            on_lost,
            trouble,
            by_sentence=not self._buffer_ms,
        )
        self._url = settings.cartesia_tts_url
        self._key = settings.cartesia_api_key.get_secret_value()

    async def _connected(self) -> ClientConnection:
        return await connected(self._url, {"X-API-Key": self._key, "Cartesia-Version": API_VERSION})

    # --- words out ----------------------------------------------------------------------------------------------------

    def _outlived(self, utterance: Utterance) -> bool:
        return time.monotonic() - utterance.heard_at > OUTLIVED_S

    def _messages(self, act: Act, utterance: Utterance, text: str = "") -> Iterator[str]:
        match act:
            case "begin":
                pass
            case "text":
                yield self._input(utterance, text, **self._first_words(utterance, text))
            case "end":
                yield self._input(utterance, "", **{"continue": False})
            case "cancel":
                yield json.dumps({"context_id": utterance.wire, "cancel": True})

    def _input(self, utterance: Utterance, text: str, **more: bool) -> str:
        said = {
            "transcript": text,
            "continue": True,
            "context_id": utterance.wire,
            "model_id": self._model,
            "voice": {"mode": "id", "id": self._voice},
            "language": base_language(self._language),
            "output_format": {"container": "raw", "encoding": "pcm_s16le", "sample_rate": self.sample_rate},
            "add_timestamps": True,
            "use_normalized_timestamps": False,
            "max_buffer_delay_ms": self._buffer_ms,  # it would be 3 s
        }
        return json.dumps(said | more)

    def _first_words(self, utterance: Utterance, text: str) -> dict[str, bool]:
        """Have the first words of a context spoken without waiting for more."""
        if self._by_sentence or utterance.words_sent >= FIRST_WORDS:
            return {}
        utterance.words_sent += len(text.split())
        return {"flush": utterance.words_sent >= FIRST_WORDS}

    # --- sound in -----------------------------------------------------------------------------------------------------

    async def _hear(self, message: str | bytes) -> None:
        said = json.loads(message)
        kind, wire = said.get("type"), said.get("context_id") or ""
        name, utterance = self._utterance(wire)
        if utterance is None:
            if kind == "error" and not wire:
                raise self._failed(_failure(said))
            return  # of a context that was interrupted
        match kind:
            case "chunk":
                await self._sound(name, utterance, base64.b64decode(said["data"]))
            case "timestamps":
                _note_words(utterance, said["word_timestamps"])
                await self._words(name, utterance.whole())
            case "flush_done" if self._by_sentence:
                await self._words(name, utterance.text_done())
            case "done":
                await self._done(name, utterance)
            case "error":
                await self._refused(name, utterance, _failure(said))
            case _:
                pass
        self._review()

    async def _refused(self, name: str, utterance: Utterance, error: Failed) -> None:
        """Give up a context that was refused: what it did not say is said in another one."""
        if error.status != BAD_REQUEST:
            raise self._failed(error)
        self._note(error)
        utterance.refusals += bool(utterance.unsaid)
        await self._settle(name, utterance)
        await self._ask_again()


def _note_words(utterance: Utterance, times: dict[str, Any]) -> None:
    ends = times.get("end") or [*times["start"][1:], float("inf")]
    words = [_TAG.sub("", _PARTING.sub(" ", word)).strip() for word in times["words"]]
    timed = [one for one in zip(words, times["start"], ends, strict=False) if one[0]]
    utterance.timed([word for word, _, _ in timed], [start for _, start, _ in timed], [end for _, _, end in timed])


def _failure(said: dict[str, Any]) -> Failed:
    """Read an error message."""
    return Failed(str(said.get("message") or said.get("error") or said), said.get("status_code"))
