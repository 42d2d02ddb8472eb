"""uvicorn as the router needs it: bounded heads, patience with a limit, media upgrades to our own protocol."""

import asyncio
import socket
from typing import Any, Final, cast

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from router.handoff import MAX_HEAD_BYTES, MediaUpgrade
from shared.errors import SettingsError, blames_host, system_words

HEAD_TIMEOUT_S: Final = 10.0
"""From the connection, or the last answer, to the end of the next head. uvicorn alone waits for ever for the first."""

LEAVING_S: Final = 3
"""How long answers under way may take when the router stops; whole seconds."""

BACKLOG: Final = 1024
MAX_CONSOLE_FRAME: Final = 65_536


class PatientHttp(H11Protocol):
    """uvicorn's protocol, which also closes connections that never finish a request head."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        """Begin to wait for the next head."""
        super().on_response_complete()
        self._wait()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Leave the connection to the protocol of the upgrade."""
        self._stop_waiting()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._waited)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _waited(self) -> None:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # declared without the None it begins as
        if (cycle is None or cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """Bind the router's socket; what it accepts sends without delay (the option is inherited).

    Raises:
        SettingsError: the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        name = "ROUTER_HOST" if blames_host(error) else "ROUTER_PORT"
        raise SettingsError(f"{name}: cannot listen on {host}:{port}: {system_words(error)}") from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def server(app: Starlette) -> uvicorn.Server:
    """Make the server for an application of `app.build`; start it with `serve(sockets=[listen(...)])`.

    Its access lines are off because a path of ours may hold a ticket.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=PatientHttp,
            ws=MediaUpgrade,
            loop="uvloop",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            ws_max_size=MAX_CONSOLE_FRAME,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=LEAVING_S,
        )
    )
