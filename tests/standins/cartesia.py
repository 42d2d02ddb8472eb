"""A stand-in for Cartesia: its WebSockets on one port.

    python -m tests.standins.cartesia --port 0 --connect-ms 150 --lexicon tests/data/speech
    python -m tests.standins.cartesia --speech local        # really speaks and really listens

`POST /_control` knows the settings of `CartesiaSettings` and the actions `close_all` and `drop_all` ("tts", "stt" or "all"):
with a close frame, and without.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from tests.standins.cartesia_socket import CartesiaSettings, Desk
from tests.standins.cartesia_stt import SttSession, options_from
from tests.standins.cartesia_tts import TtsSession
from tests.standins.cartesia_turns import TurnsSession, turn_options_from
from tests.standins.cartesia_wire import Refused
from tests.standins.control import parser, serve, settings_from
from tests.standins.speech import ScriptedSpeech

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Callable

    from starlette.websockets import WebSocket

    from tests.standins.cartesia_socket import Socket
    from tests.standins.speech import Speech


def application(settings: CartesiaSettings, speech: Speech) -> Starlette:
    """Build the ASGI application."""
    desk = Desk(settings, speech)

    async def tts(websocket: WebSocket) -> None:
        async with desk.admitted("tts", websocket) as socket:
            if socket is not None:
                await TtsSession(desk, socket).run()

    async def hearing(websocket: WebSocket, session: Callable[[Socket], SttSession | TurnsSession]) -> None:
        async with desk.admitted("stt", websocket) as socket:
            if socket is None:
                return
            try:
                made = session(socket)
            except Refused as refused:
                await socket.refuse(refused)
                await socket.close(1008)
                return
            await made.run()

    async def stt(websocket: WebSocket) -> None:
        await hearing(websocket, lambda socket: SttSession(desk, socket, options_from(websocket.query_params)))

    async def turns(websocket: WebSocket) -> None:
        await hearing(websocket, lambda socket: TurnsSession(desk, socket, *turn_options_from(websocket.query_params)))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(desk.watch())
            yield
            watching.cancel()

    routes = [
        desk.control.route(),
        WebSocketRoute("/tts/websocket", tts),
        WebSocketRoute("/stt/websocket", stt),
        WebSocketRoute("/stt/turns/websocket", turns),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _speech(options: argparse.Namespace) -> Speech:
    if options.speech == "scripted":
        return ScriptedSpeech.from_folder(options.lexicon)
    from tests.standins.local_speech import LocalSpeech  # half a gigabyte of models, and an optional extra

    return LocalSpeech()


def main() -> None:
    """Run the stand-in."""
    arguments = parser("cartesia", "Cartesia TTS and STT", CartesiaSettings)
    arguments.add_argument("--speech", choices=["scripted", "local"], default="scripted")
    arguments.add_argument("--lexicon", type=Path, help="folder of known recordings, for --speech scripted")
    options = arguments.parse_args()
    serve("cartesia", application(settings_from(options, CartesiaSettings), _speech(options)), options)


if __name__ == "__main__":
    main()
