"""How providers are reached: one WebSocket, or one streamed answer, as the workers have them."""

import contextlib
import json
import ssl
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect

from worker.doctor.trouble import Refused

OPEN_S: Final = 8.0
"""For one step; a check as a whole has a little more."""

CLOSE_S: Final = 0.5
WORDS_KEPT: Final = 4096


@contextlib.asynccontextmanager
async def socket_to(
    url: str, headers: Mapping[str, str], tls: ssl.SSLContext
) -> AsyncGenerator[ClientConnection, None]:
    """Hold a WebSocket open; raises what went wrong."""
    secure: dict[str, Any] = {"ssl": tls} if urlsplit(url).scheme == "wss" else {}
    socket = await connect(
        url, additional_headers=headers, compression=None, open_timeout=OPEN_S, close_timeout=CLOSE_S, **secure
    )
    try:
        yield socket
    finally:
        await socket.close()


async def said_by(socket: ClientConnection) -> dict[str, Any]:
    """Give the next message that is JSON."""
    while True:
        text = await socket.recv()
        with contextlib.suppress(ValueError):
            said = json.loads(text)
            if isinstance(said, dict):
                return said


@contextlib.asynccontextmanager
async def answer_to(
    url: str, headers: Mapping[str, str], body: Mapping[str, object], tls: ssl.SSLContext
) -> AsyncGenerator[httpx.Response, None]:
    """Hold an answer to a POST open whose body is still coming; raises what went wrong.

    Raises:
        Refused: it is no success.
    """
    async with (
        httpx.AsyncClient(verify=tls, timeout=OPEN_S) as client,
        client.stream("POST", url, headers=dict(headers), json=body) as answer,
    ):
        if not answer.is_success:
            raise Refused(answer.status_code, words_of(await answer.aread()))
        yield answer


def words_of(body: bytes) -> str:
    """Give the words of an error as APIs write them; what is no JSON is given as it is."""
    text = body[:WORDS_KEPT].decode(errors="replace")
    try:
        said = json.loads(text)
    except ValueError:
        return text
    error = said.get("error", said) if isinstance(said, dict) else said
    if isinstance(error, dict):
        words = [error.get(name) for name in ("code", "message")]
        return ": ".join(str(word) for word in words if word) or str(error)
    return str(error)
