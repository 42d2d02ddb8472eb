"""What both rivals share: the webhook that answers with TwiML, the media WebSocket, and the one process around them.

A rival is started by the bench with the addresses of the stand-ins as flags, prints `{"port": ...}` when it listens, and
`{"event": "ready", ...}` when a call's pipeline runs with its ear and voice connected. Twilio's signature is not checked: the
examples do not.

Source: Pipecat's documentation of its Twilio WebSocket integration (TwiML with `<Connect><Stream>`, one FastAPI application
under uvicorn), and the names of the installed release.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import quoteattr

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket
from loguru import logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MEDIA_PATH: Final = "/ws"


@dataclass(frozen=True, slots=True)
class Options:
    """Where the stand-ins are, and what a rival calls its model, so that the stand-in's log tells the rivals apart."""

    cartesia: int
    openai: int
    supabase: int
    tools: int
    model: str
    public_host: str


@dataclass(eq=False, slots=True)
class Connected:
    """Waits for the parts of one call's pipeline and says once that all of them stand."""

    call_sid: str
    missing: set[str] = field(default_factory=lambda: {"pipeline", "stt", "tts"})

    def have(self, part: str) -> None:
        """Note a part; a later connection of the same part says nothing."""
        if part in self.missing:
            self.missing.discard(part)
            if not self.missing:
                say(event="ready", call_sid=self.call_sid, at=time.monotonic())


def say(**fields: object) -> None:
    """Tell the bench something: one JSON line."""
    print(json.dumps(fields), flush=True)


def options() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    for name in ("cartesia", "openai", "supabase", "tools"):
        parser.add_argument(f"--{name}", type=int, default=0, help="port of the stand-in on loopback")
    parser.add_argument("--model", default="gpt-4o")
    parser.add_argument("--public-host", default="voice.example.test")
    return Options(**vars(parser.parse_args()))


def serve(chosen: Options, bot: Callable[[WebSocket, Options], Awaitable[None]]) -> None:
    """Serve calls with `bot` until SIGTERM, or until whoever started this process has gone."""
    logger.remove()
    logger.add(sys.stderr, level="INFO")  # the examples' DEBUG writes a line for each link and context
    app = FastAPI()

    @app.post("/")
    async def start_call(request: Request) -> Response:
        caller = str((await request.form()).get("From", ""))
        stream = f"wss://{chosen.public_host}{MEDIA_PATH}"
        parameter = f'<Parameter name="caller" value={quoteattr(caller)}/>'
        return Response(
            f"<Response><Connect><Stream url={quoteattr(stream)}>{parameter}</Stream></Connect></Response>",
            media_type="application/xml",
        )

    @app.websocket(MEDIA_PATH)
    async def media(websocket: WebSocket) -> None:
        await websocket.accept()
        await bot(websocket, chosen)

    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    asyncio.run(run(server, listening))


async def run(server: uvicorn.Server, listening: socket.socket) -> None:
    """Say where it listens, and serve."""
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _leave_with_parent)
    say(port=listening.getsockname()[1])
    await server.serve([listening])


def _leave_with_parent() -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        os._exit(0)
