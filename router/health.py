"""Whether the router lives, whether it can take a call, and its metrics: on its own port, and on one for machines beside it."""

import hmac
import ipaddress
from dataclasses import dataclass
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from router.pools import Pools


@dataclass(frozen=True, slots=True)
class Health:
    """The pages for operators and their machines; `console_token` empty means none was set."""

    pools: Pools
    registry: CollectorRegistry
    console_token: str

    async def healthz(self, _: Request) -> Response:
        """Say that the process answers."""
        return PlainTextResponse("ok\n")

    async def readyz(self, _: Request) -> Response:
        """Say how many workers are ready or, with 503, why none is; and in both cases what is wrong."""
        ready = self.pools.ready
        problems = [{"resource": problem.resource, "detail": problem.detail} for problem in self.pools.problems]
        if ready:
            return JSONResponse({"ready": ready, "problems": problems})
        content = {"ready": 0, "reason": self._reason(), "problems": problems}
        return JSONResponse(content, HTTPStatus.SERVICE_UNAVAILABLE)

    async def metrics(self, request: Request) -> Response:
        """Give the metrics to whoever has the token; without a token only to this machine."""
        return self._refuse(request) or await self.open_metrics(request)

    async def open_metrics(self, _: Request) -> Response:
        """Give the metrics to whoever asks."""
        return Response(generate_latest(self.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    def _reason(self) -> str:
        if not self.pools.count:
            return self.pools.unusable[0].detail if self.pools.unusable else "no pool is connected"
        return "workers do not become ready" if self.pools.problems else "no worker is ready"

    def _refuse(self, request: Request) -> Response | None:
        if not self.console_token:
            # The address of the socket: a header can say anything.
            near = request.client is not None and is_loopback(request.client.host)
            return None if near else PlainTextResponse("Forbidden\n", HTTPStatus.FORBIDDEN)
        given = request.headers.get("authorization", "")
        scheme, _, token = given.partition(" ")
        right = hmac.compare_digest(token.strip().encode(), self.console_token.encode())
        if right and scheme.lower() == "bearer":
            return None
        return PlainTextResponse("Unauthorized\n", HTTPStatus.UNAUTHORIZED, {"www-authenticate": "Bearer"})


def beside(health: Health) -> Starlette:
    """Make the application of `ROUTER_METRICS_PORT`: these three pages for everybody who reaches it, and nothing else."""
    app = Starlette(
        routes=[
            Route("/healthz", health.healthz),
            Route("/readyz", health.readyz),
            Route("/metrics", health.open_metrics),
        ]
    )
    app.router.redirect_slashes = False  # as on the other port
    return app


def is_loopback(host: str) -> bool:
    """Say whether an address is this machine's own, also when written as IPv4 within IPv6."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
