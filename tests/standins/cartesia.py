"""A stand-in for Cartesia: its WebSockets on one port.

    python -m tests.standins.cartesia --port 0 --connect-ms 150 --lexicon tests/data/speech
    python -m tests.standins.cartesia --speech local        # really speaks and really listens

`POST /_control` knows the settings of `CartesiaSettings` and the actions `close_all` and `drop_all` ("tts", "stt" or "all"):
with a close frame, and without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import WebSocketRoute

from tests.standins import speech_desk
from tests.standins.cartesia_socket import CartesiaSettings, Desk
from tests.standins.cartesia_stt import SttSession, options_from
from tests.standins.cartesia_tts import TtsSession
from tests.standins.cartesia_turns import TurnsSession, turn_options_from
from tests.standins.cartesia_wire import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.applications import Starlette
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

    routes = [
        WebSocketRoute("/tts/websocket", tts),
        WebSocketRoute("/stt/websocket", stt),
        WebSocketRoute("/stt/turns/websocket", turns),
    ]
    return speech_desk.application(desk, routes)


def main() -> None:
    """Run the stand-in."""
    speech_desk.run("cartesia", "Cartesia TTS and STT", CartesiaSettings, application)


if __name__ == "__main__":
    main()
