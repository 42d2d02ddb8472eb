"""The pool's own port: `/metrics` for Prometheus, `/readyz` for people and orchestrators. Open to whoever can reach it."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from shared.errors import SettingsError, blames_host, system_words
from shared.messages import Readiness
from worker.pool.troubles import Trouble

BACKLOG: Final = 64

PATIENCE_S: Final = 30.0
"""How long a connection may last: a scrape takes milliseconds, and the next one makes a new connection."""

MOST_CONNECTIONS: Final = 64
"""The port is open: whoever holds more connections than this must not take the descriptors that calls need."""


@dataclass(frozen=True, slots=True)
class Health:
    """What `/readyz` says. `loading`: no zygote is ready to fork; `standing`: what is wrong but in nobody's way."""

    readiness: Readiness
    troubles: tuple[Trouble, ...]
    loading: bool
    standing: tuple[Trouble, ...] = ()

    @property
    def reason(self) -> str:
        """Why no worker can be promised, in one word; empty when one can."""
        if self.readiness.draining:
            return "draining"
        if self.readiness.ready:
            return ""
        if self.troubles:
            return self.troubles[0].resource
        if self.loading:
            return "loading"
        return "warming" if self.readiness.warming else "all_taken"


def listen(host: str, port: int) -> socket.socket:
    """Bind the port.

    Raises:
        SettingsError: it cannot be had.
    """
    try:
        return socket.create_server((host, port), family=_family(host, port), backlog=BACKLOG)
    except OSError as error:
        name = "POOL_METRICS_HOST" if blames_host(error) else "POOL_METRICS_PORT"
        msg = f"{name}: {host}:{port}: {system_words(error)}"
        raise SettingsError(msg) from None


def _family(host: str, port: int) -> socket.AddressFamily:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]


class _Brief(H11Protocol):
    """uvicorn's protocol for connections that are few and short."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        """Give it its time, and none when there are too many."""
        super().connection_made(transport)
        crowded = len(self.connections) > MOST_CONNECTIONS
        self._end = self.loop.call_later(0.0 if crowded else PATIENCE_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time."""
        self._end.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """A server among other work: signals are the pool's, which ends this one when it has drained."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def serve(sock: socket.socket, registry: CollectorRegistry, health: Callable[[], Health]) -> None:
    """Answer until cancelled."""

    async def metrics(_request: Request) -> Response:
        return Response(await exposition(registry), media_type=CONTENT_TYPE_LATEST)

    async def readyz(_request: Request) -> Response:
        return answer(health())

    app = Starlette(routes=[Route("/metrics", metrics), Route("/readyz", readyz)])
    config = uvicorn.Config(
        app, http=_Brief, ws="none", lifespan="off", log_config=None, log_level="warning", access_log=False
    )
    server = _Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[sock]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = server.force_exit = True
        await serving


def answer(health: Health) -> Response:
    """Write the answer of `/readyz`: 200 when a worker can be promised, else 503 and why."""
    readiness = health.readiness
    content = {
        "ready": readiness.ready,
        "warming": readiness.warming,
        "draining": readiness.draining,
        "reason": health.reason,
        "problems": [
            {"resource": each.resource, "detail": each.detail, "traceback": each.traceback}
            for each in (*health.troubles, *health.standing)
        ],
    }
    return JSONResponse(content, HTTPStatus.SERVICE_UNAVAILABLE if health.reason else HTTPStatus.OK)


class _One(Collector):
    """A registry of one family, because that is what the client library can write."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        """Give the family."""
        yield self._family


async def exposition(registry: CollectorRegistry) -> bytes:
    """Write all metrics, letting the loop turn between families: 200 workers take 25 ms, a hand-off must not wait."""
    parts: list[bytes] = []
    for family in registry.collect():
        parts.append(generate_latest(_One(family)))
        await asyncio.sleep(0)
    return b"".join(parts)
