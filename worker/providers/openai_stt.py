"""OpenAI's ear: a transcription session over a WebSocket.

Sound goes out as it comes from the telephone (mu-law, 8 kHz), and only while the caller speaks: the vendor is paid for what it
hears, and its models find words in silence. Where speech begins, what was said before the voice detector saw it goes first; where
it ends, the transcript is asked for (`input_audio_buffer.commit`). Whole transcripts of several turns may come in any order, and
are given on in the order of the turns.

There is no second way by `POST /audio/transcriptions`: a file can be sent when a turn is over and not before, so that every
answer would wait for all of its transcription, and the same account and host would have to answer that did not answer here.

Source: OpenAI docs, "Realtime transcription" (`intent=transcription` without a model, no order between turns,
`gpt-live-transcribe` takes no turn detection), "Realtime conversations" (a session lasts 60 minutes); openai 3.54 SDK
(`types/realtime`: formats, events, `event_id` of an error); issues of public clients for `input_audio_buffer_commit_empty` (less
than 100 ms), `session_expired`, and a wrong key, which shows in an error event behind an upgrade that succeeded.
"""

import base64
import contextlib
import itertools
import json
import time
import warnings
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from pipecat.frames.frames import CancelFrame, EndFrame, InterimTranscriptionFrame, TranscriptionFrame
from pipecat.services.settings import STTSettings
from pipecat.services.stt_latency import OPENAI_REALTIME_TTFS_P99
from pipecat.utils.time import time_now_iso8601
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from shared.agents import Agent
from shared.logs import get
from shared.settings import Settings
from shared.turns import Turns
from worker.providers.call_ear import CallEar
from worker.providers.languages import base_language
from worker.providers.line import Failed
from worker.providers.retry import Trouble
from worker.providers.tls import websocket_options

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gone in 3.13, where audioop-lts provides it
    import audioop

log = get(__name__)

BYTES_PER_S: Final = 8000
"""Mu-law at 8 kHz."""

LEAD_S: Final = 0.6
"""How much of what came before the voice detector began to see speech belongs to it: soft beginnings are not seen. What it sees
and does not take for speech yet (`Turns.start`) comes on top. More than the 0.1 s that the vendor wants of a turn."""

RENEW_S: Final = 55 * 60.0
"""A session is made anew between two turns, before the vendor ends it after 60 minutes, perhaps in the middle of one."""

STATUS: Final = {"invalid_api_key": 401, "insufficient_quota": 402, "model_not_found": 404, "rate_limit_exceeded": 429}
"""What the codes of error events would be in HTTP."""

BAD_REQUEST: Final = 400
REFUSED_CLOSE: Final = 3000
"""The close code of what is refused; the reason ends with what would be the code of an error event, which may be missed."""

EMPTY: Final = "input_audio_buffer_commit_empty"
ITEM: Final = "conversation.item.input_audio_transcription"
SEVERAL_LANGUAGES: Final = ("gpt-live-transcribe", "gpt-transcribe")
"""Models that are told a list of languages."""


@dataclass(slots=True)
class Turn:
    """A transcript that was asked for on the present connection.

    Attributes:
        event: our name for it, which an error bears.
        item: the vendor's name for it; empty until it has taken note.
        text: the transcript; None until it came.
    """

    event: str
    item: str = ""
    text: str | None = None


class OpenAIEar(CallEar):
    """The ear."""

    def __init__(self, settings: Settings, trouble: Trouble | None = None) -> None:
        super().__init__(
            trouble,
            bytes_per_s=BYTES_PER_S,
            ttfs_p99_latency=OPENAI_REALTIME_TTFS_P99,
            settings=STTSettings(model=settings.openai_stt_model, language=None),
        )
        scheme, _, place = settings.openai_base_url.rstrip("/").partition("://")
        self._url = f"{'ws' if scheme == 'http' else 'wss'}://{place}/realtime?intent=transcription"
        self._headers = {"Authorization": f"Bearer {settings.openai_api_key.get_secret_value()}"}
        self._model = settings.openai_stt_model
        self._language = ""
        self._unheard.speaking = False
        self._lead: deque[bytes] = deque()
        self._lead_bytes = 0
        self._lead_s = LEAD_S + Turns().start
        self._turns: deque[Turn] = deque()
        self._numbers = itertools.count(1)
        self._partial: dict[str, str] = {}  # of items, the words that came early
        self._failures = 0
        self._socket: ClientConnection | None = None
        self._renew_at = 0.0

    def warm(self) -> bool:
        """Say whether speech sent now would be recognised."""
        return self._line.up and not self._trouble.refused

    async def open(self, agent: Agent) -> None:
        """Connect in the language of an agent, and stay connected; returns after the first attempt."""
        self._language = base_language(agent.language)
        self._lead_s = LEAD_S + agent.turns.start
        await self._listen()

    def hear(self, pcm: bytes) -> None:
        """Take a piece of the caller's audio; while the caller speaks it goes out, as soon as there is enough for a message."""
        ulaw = audioop.lin2ulaw(pcm, 2)
        if self._unheard.speaking:
            super().hear(ulaw)
            return
        self._lead.append(ulaw)
        self._lead_bytes += len(ulaw)
        while self._lead_bytes - len(self._lead[0]) >= self._lead_s * BYTES_PER_S:
            self._lead_bytes -= len(self._lead.popleft())

    def speech_began(self) -> None:
        """Note that the caller speaks, and has done so since a little earlier."""
        super().speech_began()
        self._unheard.add(b"".join(self._lead))
        self._lead.clear()
        self._lead_bytes = 0
        self._outgoing.set()

    async def stop(self, frame: EndFrame) -> None:
        """Hear nothing more."""
        await super().stop(frame)
        await self._end()

    async def cancel(self, frame: CancelFrame) -> None:
        """Hear nothing more."""
        await super().cancel(frame)
        await self._end()

    async def cleanup(self) -> None:
        """Leave nothing open."""
        await super().cleanup()
        await self._end()

    async def _end(self) -> None:
        await self._cease()
        if self._socket is not None:
            self._socket.transport.abort()
            self._socket = None

    # --- out ----------------------------------------------------------------------------------------------------------

    async def _ask(self, _word: str) -> bool:
        turn = Turn(f"turn_{next(self._numbers)}")
        self._turns.append(turn)
        sent = await self._line.send(json.dumps({"type": "input_audio_buffer.commit", "event_id": turn.event}))
        if sent:
            self._line.expect()
        return sent

    def _message(self, audio: bytes) -> str:
        return f'{{"type":"input_audio_buffer.append","audio":"{base64.b64encode(audio).decode()}"}}'

    # --- the connection -----------------------------------------------------------------------------------------------

    async def _dial(self) -> ClientConnection:
        # mu-law noise does not shrink: deflate costs CPU on each message and saves nothing
        socket = await connect(
            self._url, additional_headers=self._headers, compression=None, **websocket_options(self._url)
        )
        try:
            await self._configure(socket)
        except ConnectionClosed as closed:
            if closed.rcvd is not None and closed.rcvd.code == REFUSED_CLOSE:
                raise failure({"code": closed.rcvd.reason.rpartition(".")[2]}, BAD_REQUEST) from None
            raise
        except BaseException:
            socket.transport.abort()
            raise
        self._socket = socket
        self._renew_at = time.monotonic() + RENEW_S
        return socket

    async def _configure(self, socket: ClientConnection) -> None:
        """Say what is to be heard, and wait until that holds."""
        await socket.send(json.dumps({"type": "session.update", "session": self._session()}))
        while (said := json.loads(await socket.recv())).get("type") != "session.updated":
            if said.get("type") == "error":
                raise failure(said.get("error"), BAD_REQUEST)

    def _session(self) -> dict[str, Any]:
        several = self._model.startswith(SEVERAL_LANGUAGES)
        language = {"languages": [self._language]} if several else {"language": self._language}
        hearing = {
            "format": {"type": "audio/pcmu"},
            "transcription": {"model": self._model, **language},
            "turn_detection": None,
        }
        return {"type": "transcription", "audio": {"input": hearing}}

    async def _lost(self, why: str) -> bool:
        again = await super()._lost(why)
        self._turns.clear()
        self._partial.clear()
        return again

    # --- in -----------------------------------------------------------------------------------------------------------

    async def _hear(self, message: str | bytes) -> None:
        said = json.loads(message)
        item = said.get("item_id") or ""
        match said.get("type"):
            case "error":
                await self._refused(said.get("error") or {})
            case "input_audio_buffer.committed":
                self._taken(item)
            case kind if kind == f"{ITEM}.delta":
                await self._early(item, said.get("delta") or "")
            case kind if kind == f"{ITEM}.completed":
                self._failures = 0
                await self._transcribed(self._turn(item), said.get("transcript") or "")
            case kind if kind == f"{ITEM}.failed":
                await self._failed(self._turn(item), said.get("error"))

    def _turn(self, item: str) -> Turn | None:
        """Give the turn of an item; None when it is settled."""
        return next((turn for turn in self._turns if turn.item == item), None)

    def _taken(self, item: str) -> None:
        """Note the vendor's name for the oldest turn that has none: commits are taken in order."""
        turn = next((turn for turn in self._turns if not turn.item and turn.text is None), None)
        if turn is not None:
            turn.item = item

    async def _early(self, item: str, words: str) -> None:
        self._trouble.works(time.monotonic())
        self._partial[item] = self._partial.get(item, "") + words
        if self._turn(item) is not None:
            self._line.expect()
        if text := self._partial[item].strip():
            await self.push_frame(InterimTranscriptionFrame(text, "", time_now_iso8601()))

    async def _transcribed(self, turn: Turn | None, text: str) -> None:
        """Take a transcript, and give on those whose turn it is now. One that is not waited for came twice."""
        if turn is None or turn.text is not None:
            return
        self._trouble.works(time.monotonic())
        turn.text = text.strip()
        self._partial.pop(turn.item, None)
        while self._turns and self._turns[0].text is not None:
            self._unheard.flushed()
            if words := self._turns.popleft().text:
                await self.push_frame(TranscriptionFrame(words, "", time_now_iso8601()))
        if self._turns:
            self._line.expect()
            return
        self._line.relax()
        if not self._unheard.turns:
            self._trouble.idle()
            await self._quiet()

    async def _quiet(self) -> None:
        """Say that no more words will come, unless the caller speaks."""
        over = await self._no_more_words()
        if over and self._socket is not None and time.monotonic() > self._renew_at:
            with contextlib.suppress(OSError):
                await self._socket.close()

    async def _failed(self, turn: Turn | None, error: Any) -> None:
        """Have a turn heard once more on another connection; what fails again has no words."""
        if turn is None:
            return
        self._failures += 1
        if self._failures == 1:
            raise failure(error)
        log.warning("the ear cannot transcribe this", error=str(failure(error)))
        self._failures = 0
        await self._transcribed(turn, "")

    async def _refused(self, error: dict[str, Any]) -> None:
        """Take an error: of a turn too short to have words, or of the session."""
        if error.get("code") != EMPTY:
            raise failure(error)
        named = next((turn for turn in self._turns if turn.event == error.get("event_id")), None)
        nameless = next((turn for turn in self._turns if not turn.item and turn.text is None), None)
        await self._transcribed(named or nameless, "")


def failure(error: Any, status: int | None = None) -> Failed:
    """Read an error. `status` is that of HTTP for one whose code says none. Its message is left out: it may repeat the key."""
    given: dict[str, Any] = error if isinstance(error, dict) else {}
    code = str(given.get("code") or given.get("type") or "failed")
    status = STATUS.get(code, status)
    return Failed(f"{status} {code}" if status else code, status)
