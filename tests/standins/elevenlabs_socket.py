"""What ElevenLabs' sockets have of their own: its settings, how it admits an upgrade, and how it refuses."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.standins import elevenlabs_wire as wire
from tests.standins import speech_desk
from tests.standins.speech_desk import SpeechSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.websockets import WebSocket

    from tests.standins.speech_desk import Kind


@dataclass(frozen=True, slots=True)
class ElevenLabsSettings(SpeechSettings):
    """Latencies in ms and faults. 0 means never or no limit where that is the sensible reading."""

    voices: str = ""  # the only ones there are, separated by commas; empty: any
    tts_odd_bytes: bool = False  # messages end in the middle of a sample
    tts_each_aligned: bool = (
        False  # times come with each message, as with `sync_alignment`; otherwise with a segment's first
    )
    tts_final_ms: float = 0.0  # from the end of a closed context's sound to its `isFinal`
    tts_idle_close_s: float = float(wire.INACTIVITY_S)  # unless `inactivity_timeout` says otherwise
    tts_max_contexts: int = wire.CONTEXTS
    tts_error: str = ""  # answer texts with this error
    tts_error_next: int = 0  # only so many texts, then all is well again
    stt_partial_ms: float = 500.0  # audio between partial transcripts; scripted speech only
    stt_idle_close_s: float = 15.0  # since the last message; Source: measured by others, the docs do not say
    stt_auto_commit_s: float = 36.0  # audio that nobody commits; Source: measured, the docs say 90
    stt_error: str = ""  # answer commits with this error
    stt_error_next: int = 0  # only so many, then all is well again
    stt_twice_next: int = 0  # answer so many commits twice
    stt_never_next: int = 0  # leave so many commits without an answer


@dataclass(eq=False, slots=True, kw_only=True)
class Socket(speech_desk.Socket):
    """One accepted WebSocket, which may be idle for its own time."""

    idle_s: float = 0.0

    async def refuse(self, refused: wire.Refused) -> None:
        """Send an error frame and close, as the vendor does after every error."""
        if self.kind == "tts":
            message, reason = wire.tts_error(refused)
            await self.send(message)
            await self.close(wire.POLICY_VIOLATION, reason)
        else:
            await self.send(wire.stt_error(refused))
            await self.close(wire.NORMAL, refused.code if refused.code == "commit_throttled" else "")

    async def messages(self) -> AsyncIterator[str]:
        """Yield text frames until either side closes; each starts the idle clock anew."""
        while not self.closed:
            event = await self.websocket.receive()
            if event["type"] == "websocket.disconnect":
                self.closed = True
                return
            self.active_at = time.monotonic()
            yield event.get("text") or ""


class Desk(speech_desk.Desk[ElevenLabsSettings, Socket]):
    """Admits sockets as this vendor does: a wrong key is told after the 101."""

    def knows(self, websocket: WebSocket, given: str | None = None) -> bool:
        """Say whether a key is good: the one of the header, or the one in a message."""
        key = websocket.headers.get("xi-api-key") or given
        return bool(key) and self.settings.api_key in ("", key)

    def speaks(self, voice: str) -> bool:
        """Say whether there is such a voice."""
        return not self.settings.voices or voice in self.settings.voices.split(",")

    def _denial(self, status: int) -> Mapping[str, object]:
        del status
        return {"detail": {"status": "refused", "message": "made to fail"}}

    def _socket(self, kind: Kind, websocket: WebSocket) -> Socket:
        idle_s = self.settings.tts_idle_close_s if kind == "tts" else self.settings.stt_idle_close_s
        asked = websocket.query_params.get("inactivity_timeout", "")
        if kind == "tts" and asked.isdecimal():
            idle_s = min(float(asked), wire.MOST_INACTIVITY_S)
        return Socket(kind=kind, websocket=websocket, request_id=uuid.uuid4().hex, idle_s=idle_s)

    def _noted(self, socket: Socket) -> Mapping[str, object]:
        return {"path": socket.websocket.url.path, "query": dict(socket.websocket.query_params)}

    def _idle_s(self, socket: Socket) -> float:
        return socket.idle_s

    async def _idle(self, socket: Socket) -> None:
        if socket.kind == "tts":
            socket.active_at = float("inf")
            await socket.refuse(wire.Refused("input_timeout_exceeded", seconds=socket.idle_s))
        else:
            await socket.close(wire.NORMAL)
