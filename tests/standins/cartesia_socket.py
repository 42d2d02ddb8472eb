"""What Cartesia's sockets have of their own: its settings, how it admits an upgrade, and how it refuses."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.standins import speech_desk
from tests.standins.cartesia_wire import ERRORS, STRUCTURED_ERRORS, Refused, error
from tests.standins.speech_desk import SpeechSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.websockets import WebSocket

    from tests.standins.speech_desk import Kind


@dataclass(frozen=True, slots=True)
class CartesiaSettings(SpeechSettings):
    """Latencies in ms and faults. 0 means never or no limit where that is the sensible reading."""

    tts_chunk_bytes: int = 0  # if not 0, audio in one chunk instead: a sample may be cut, as on any stream of bytes
    tts_tone_hz: float = 0.0  # speak one tone, as long as the words would take, that goes on from input to input
    tts_context_expire_s: float = 1.0  # after its audio would have been heard, if played as it came
    tts_expire_silently: bool = False  # without `done`: what the vendor sends then is not published
    tts_idle_close_s: float = 300.0  # since the last generation
    tts_max_contexts: int = 0  # above: a 429 error event
    tts_error_code: int = 0  # answer inputs with an error event of this status
    tts_error_next: int = 0  # only so many inputs, then all is well again
    stt_interim_ms: float = 500.0  # audio between interim transcripts; scripted speech only
    stt_turn_start_ms: float = 100.0  # turns only: sound until a turn begins
    stt_turn_eager_end_ms: float = 120.0  # silence after a whole sentence until its turn may be over; in steps of 20 ms
    stt_turn_end_ms: float = 240.0  # and until it is
    stt_idle_close_s: float = 180.0  # since the last message
    stt_error_code: int = 0  # answer finalize with an error event of this status
    stt_error_next: int = 0  # only so many, then all is well again


@dataclass(eq=False, slots=True, kw_only=True)
class Socket(speech_desk.Socket):
    """One accepted WebSocket, of a client that speaks a version of the vendor's."""

    version: str

    async def refuse(self, refused: Refused) -> None:
        """Send an error event."""
        await self.send(error(self.version, self.request_id, refused, stt=self.kind == "stt"))

    def touch(self) -> None:
        """Restart the idle clock."""
        self.active_at = time.monotonic()

    async def messages(self) -> AsyncIterator[str | bytes]:
        """Yield text and binary frames until either side closes."""
        while True:
            event = await self.websocket.receive()
            if event["type"] == "websocket.disconnect":
                self.closed = True
                return
            data = event.get("bytes")
            yield event["text"] if data is None else data


class Desk(speech_desk.Desk[CartesiaSettings, Socket]):
    """Admits sockets as this vendor does: a key is looked at in the upgrade, wherever it stands."""

    def _knows(self, websocket: WebSocket) -> bool:
        headers, query = websocket.headers, websocket.query_params
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        key = headers.get("x-api-key") or bearer or query.get("access_token") or query.get("api_key")
        return bool(key) and self.settings.api_key in ("", key)

    def _denial(self, status: int) -> Mapping[str, object]:
        code, title = ERRORS.get(status, ("error", "Error"))
        return {"error_code": code, "title": title, "message": title, "status_code": status}

    def _socket(self, kind: Kind, websocket: WebSocket) -> Socket:
        version = websocket.headers.get("cartesia-version") or websocket.query_params.get("cartesia_version")
        return Socket(kind=kind, websocket=websocket, version=version or STRUCTURED_ERRORS, request_id=uuid.uuid4().hex)

    def _noted(self, socket: Socket) -> Mapping[str, object]:
        return {"version": socket.version, "query": dict(socket.websocket.query_params)}

    def _headers(self, socket: Socket) -> list[tuple[bytes, bytes]]:
        return [(b"x-request-id", socket.request_id.encode())]

    def _idle_s(self, socket: Socket) -> float:
        return self.settings.tts_idle_close_s if socket.kind == "tts" else self.settings.stt_idle_close_s

    async def _idle(self, socket: Socket) -> None:
        await socket.close(self.settings.close_code, "idle timeout")
