"""Our MCP server over HTTP: where it listens, who may come, and how it ends."""

import asyncio
import contextlib
import hmac
import ipaddress
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import uvicorn
from mcp.server import Server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from shared import logs
from shared.errors import SettingsError, system_words

PATH: Final = "/mcp"

MOST_BODY_BYTES: Final = 262_144
"""Of a request: arguments are what a person has said."""

LEAVE_S: Final = 5
"""How long requests that are being answered may take at the end; streams that wait for news are cut off then."""

LOOPBACK_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
BACKLOG: Final = 64
LAST_PORT: Final = 65_535

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen, and the names under which clients may ask for it."""

    host: str
    port: int
    names: tuple[str, ...] = LOOPBACK_NAMES

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"

    @property
    def security(self) -> TransportSecuritySettings:
        """What the SDK refuses: another `Host`, so that no web page can point a name of its own here, and another `Origin`."""
        hosts = [each for name in self.names for each in (name, f"{name}:*")]
        origins = [f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts]
        return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)


def address(written: str, names: list[str], token: str) -> Address:
    """Read `HOST:PORT`; an IPv6 address stands in brackets. `names` are further ones that clients use.

    Raises:
        SettingsError: it is none, or others can reach it and there is no token, or no name to reach it by.
    """
    host, _, port = written.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > LAST_PORT:
        raise SettingsError(f"--http: {written}: must be HOST:PORT")
    bare = host.removeprefix("[").removesuffix("]")
    everywhere = bare in {"0.0.0.0", "::"}
    found = Address(bare, int(port), tuple(dict.fromkeys((*LOOPBACK_NAMES, *([] if everywhere else [host]), *names))))
    if not found.local and not token:
        raise SettingsError(f"MCP_TOKEN: missing, and others can reach {written}")
    if everywhere and not names:
        raise SettingsError(f"--http: {written}: say with --allow-host by which names clients reach it")
    return found


def listen(where: Address) -> socket.socket:
    """Bind the port.

    Raises:
        SettingsError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    try:
        return socket.create_server((where.host, where.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(f"--http: {where.host}:{where.port}: {system_words(error)}") from None


async def serve(server: Server[Any], sock: socket.socket, where: Address, token: str) -> None:
    """Answer until the process is asked to end."""
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        transport_security=where.security,
        max_request_body_size=MOST_BODY_BYTES,
        host=where.host,
    )
    config = uvicorn.Config(
        _Guarded(app, token),
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=LEAVE_S,
    )
    http = _Http(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, http.end)
    _log.info("MCP server is up", host=where.host, port=sock.getsockname()[1], path=PATH)
    await http.serve(sockets=[sock])


class _Http(uvicorn.Server):
    """A server whose end is asked for by us: uvicorn would raise the signal anew when it is done."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    def end(self) -> None:
        """Take no more requests, and end."""
        self.should_exit = True


class _Guarded:
    """Lets in who brings the token, if there is one."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"bearer {token}".encode() if token else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._expected and not self._known(Headers(scope=scope)):
            refusal = PlainTextResponse("", HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return hmac.compare_digest(f"{scheme.lower()} {token.strip()}".encode(), self._expected)
