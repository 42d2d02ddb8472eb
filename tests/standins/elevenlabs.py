"""A stand-in for ElevenLabs: its WebSockets for speech and for recognition, on one port.

    python -m tests.standins.elevenlabs --port 0 --connect-ms 150 --lexicon tests/data/speech
    python -m tests.standins.elevenlabs --speech local      # really speaks and really listens

`POST /_control` knows the settings of `ElevenLabsSettings` and the actions `close_all` and `drop_all` ("tts", "stt" or "all"):
with a close frame, and without. Built of text to speech: `multi-stream-input`, which the product uses, and `stream-input`,
which the vendor's SDK uses.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from tests.standins import elevenlabs_wire as wire
from tests.standins.control import parser, serve, settings_from
from tests.standins.elevenlabs_socket import Desk, ElevenLabsSettings
from tests.standins.elevenlabs_stt import SttSession, options_from
from tests.standins.elevenlabs_tts import MODELS_ELSEWHERE, TtsSession
from tests.standins.speech import ScriptedSpeech

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

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

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(desk.watch())
            yield
            watching.cancel()

    routes = [
        desk.control.route(),
        WebSocketRoute("/v1/text-to-speech/{voice_id}/multi-stream-input", tts),
        WebSocketRoute("/v1/text-to-speech/{voice_id}/stream-input", tts),
        WebSocketRoute("/v1/speech-to-text/realtime", stt),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _speech(options: argparse.Namespace) -> Speech:
    if options.speech == "scripted":
        return ScriptedSpeech.from_folder(options.lexicon)
    from tests.standins.local_speech import LocalSpeech  # half a gigabyte of models, and an optional extra

    return LocalSpeech()


def main() -> None:
    """Run the stand-in."""
    arguments = parser("elevenlabs", "ElevenLabs TTS and STT", ElevenLabsSettings)
    arguments.add_argument("--speech", choices=["scripted", "local"], default="scripted")
    arguments.add_argument("--lexicon", type=Path, help="folder of known recordings, for --speech scripted")
    options = arguments.parse_args()
    serve("elevenlabs", application(settings_from(options, ElevenLabsSettings), _speech(options)), options)


if __name__ == "__main__":
    main()
