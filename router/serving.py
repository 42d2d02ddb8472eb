"""uvicorn as the router needs it: bounded heads, patience with a limit, media upgrades to our own protocol."""

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from router.handoff import MAX_HEAD_BYTES, MediaUpgrade
from shared.errors import SettingsError, blames_host, system_words

HEAD_TIMEOUT_S: Final = 10.0
"""From the connection, or the last answer, to the end of the next head. uvicorn alone waits for ever for the first."""

MOST_CONNECTIONS: Final = 768
"""A flood beyond this closes its own eldest: the usual 1024 descriptors hold these and everything else the router has."""

LEAVING_S: Final = 3
"""How long answers under way may take when the router stops; whole seconds."""

BACKLOG: Final = 1024
MAX_CONSOLE_FRAME: Final = 65_536


class PatientHttp(H11Protocol):
    """uvicorn's protocol, whose patience has an end: clients that neither finish a head nor read an answer are let go.

    However many such clients there are, a new connection is served: beyond `MOST_CONNECTIONS` the one that has kept us
    waiting longest makes room for it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._since = 0.0
        self._unread = 0

    @property
    def waited_for_since(self) -> float | None:
        """Since when (of the loop) it is the client's turn; None while we owe an answer."""
        cycle = cast("RequestResponseCycle | None", self.cycle)  # declared without the None it begins as
        theirs = cycle is None or cycle.response_complete or cycle.more_body or self.flow.write_paused
        return self._since if theirs else None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        """Begin to wait for the first head; when there are too many, let go of whoever has kept us waiting longest."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > MOST_CONNECTIONS:
            self._make_room()

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

    def _make_room(self) -> None:
        # Those that are closing are in the set until the next turn, and a flood comes in one turn.
        open_ = [each for each in self.connections if isinstance(each, PatientHttp) and not each.transport.is_closing()]
        waited_for = [each for each in open_ if each.waited_for_since is not None]
        if len(open_) > MOST_CONNECTIONS:
            min(waited_for, key=lambda each: each._since).transport.abort()  # noqa: SLF001 - of our own kind

    def _wait(self) -> None:
        self._since = self.loop.time()
        self._look_later()

    def _look_later(self) -> None:
        self._stop_waiting()
        self._unread = self.transport.get_write_buffer_size()
        self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._waited)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _waited(self) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread and unread == self._unread:
            self.transport.abort()  # it has not read a byte since the last look, and closing would wait for it to read all
        elif self.waited_for_since is None or unread:
            self._look_later()  # an answer is under way
        else:
            self.transport.close()


class PatientPages(PatientHttp):
    """The same where no upgrade is served: a request for one is a request for a page."""

    def _should_upgrade(self) -> bool:
        return False  # uvicorn would say in the log, for each, that it has no library for it


def listen(host: str, port: int, setting: str = "ROUTER_PORT", *, shared: bool = False) -> socket.socket:
    """Bind a socket of the router; what it accepts sends without delay (the option is inherited).

    A `shared` port may be listened on by several routers of one user, to which the kernel gives its connections in turn.

    Raises:
        SettingsError: the address is taken or not ours; `setting` is the name of the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)
    except OSError as error:
        name = "ROUTER_HOST" if blames_host(error) else setting
        raise SettingsError(f"{name}: cannot listen on {host}:{port}: {system_words(error)}") from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def listen_at(path: Path) -> socket.socket:
    """Bind a Unix socket for health checks, for our own user; one that was left there is removed.

    Raises:
        SettingsError: it cannot be made.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise SettingsError(f"ROUTER_HEALTH_SOCKET: {path}: {system_words(error)}") from error
    return sock


class Server(uvicorn.Server):
    """Serves the router's application, and another one `beside` it on sockets of its own.

    They have one count of connections, because it is one process that has the descriptors, and end together.
    """

    def __init__(self, config: uvicorn.Config, beside: Starlette | None, sockets: Sequence[socket.socket]) -> None:
        super().__init__(config)
        self._beside = beside
        self._sockets = sockets

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on all sockets; the other application has no lifespan: it is of the same parts."""
        await super().startup(sockets=sockets)
        if self._beside is None:
            return
        config = _config(self._beside, PatientPages)
        config.load()
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            return PatientPages(config=config, server_state=self.server_state, app_state={}, _loop=loop)

        for sock in self._sockets:
            create = loop.create_unix_server if sock.family is socket.AF_UNIX else loop.create_server
            self.servers.append(await create(protocol, sock=sock, backlog=BACKLOG))


def server(app: Starlette, beside: Starlette | None = None, sockets: Sequence[socket.socket] = ()) -> Server:
    """Make the server for an application of `app.build`; start it with `serve(sockets=[listen(...)])`.

    `beside` is one of `health.beside`, `sockets` are those it listens on. Access lines are off because a path of ours may hold
    a ticket.
    """
    return Server(_config(app, PatientHttp, ws=MediaUpgrade, lifespan="on"), beside, sockets)


def _config(app: Starlette, http: type[PatientHttp], **others: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=http,
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ws_max_size=MAX_CONSOLE_FRAME,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=LEAVING_S,
        **({"ws": "none", "lifespan": "off"} | others),
    )
