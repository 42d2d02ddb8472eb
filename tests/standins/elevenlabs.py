"""A stand-in for ElevenLabs: its WebSockets for speech and for recognition, on one port.

    python -m tests.standins.elevenlabs --port 0 --connect-ms 150 --lexicon tests/data/speech
    python -m tests.standins.elevenlabs --speech local      # really speaks and really listens

`POST /_control` knows the settings of `ElevenLabsSettings` and the actions `close_all` and `drop_all` ("tts", "stt" or "all"):
with a close frame, and without. Built of text to speech: `multi-stream-input`, which the product uses, and `stream-input`,
which the vendor's SDK uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import WebSocketRoute

from tests.standins import elevenlabs_wire as wire
from tests.standins import speech_desk
from tests.standins.elevenlabs_socket import Desk, ElevenLabsSettings
from tests.standins.elevenlabs_stt import SttSession, options_from
from tests.standins.elevenlabs_tts import MODELS_ELSEWHERE, TtsSession

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.websockets import WebSocket

    from tests.standins.speech import Speech

BAD_REQUEST = 400


def application(settings: ElevenLabsSettings, speech: Speech) -> Starlette:
    """Build the ASGI application."""
    desk = Desk(settings, speech)

    async def tts(websocket: WebSocket) -> None:
        query = websocket.query_params
        elsewhere = query.get("model_id", "").startswith(MODELS_ELSEWHERE)
        unknown = query.get("output_format", "pcm_8000") not in wire.FORMATS  # MP3 and Opus are not built
        async with desk.admitted("tts", websocket, BAD_REQUEST if elsewhere or unknown else 0) as socket:
            if socket is not None:
                await TtsSession(desk, socket, single=websocket.url.path.endswith("/stream-input")).run()

    async def stt(websocket: WebSocket) -> None:
        async with desk.admitted("stt", websocket) as socket:
            if socket is None:
                return
            try:
                if not desk.knows(websocket):
                    raise wire.Refused("auth_error")  # noqa: TRY301 - refused like what else is not right
                options = options_from(websocket.query_params)
            except wire.Refused as refused:
                await socket.refuse(refused)
                return
            await SttSession(desk, socket, options).run()

    routes = [
        WebSocketRoute("/v1/text-to-speech/{voice_id}/multi-stream-input", tts),
        WebSocketRoute("/v1/text-to-speech/{voice_id}/stream-input", tts),
        WebSocketRoute("/v1/speech-to-text/realtime", stt),
    ]
    return speech_desk.application(desk, routes)


def main() -> None:
    """Run the stand-in."""
    speech_desk.run("elevenlabs", "ElevenLabs TTS and STT", ElevenLabsSettings, application)


if __name__ == "__main__":
    main()
