"""A stand-in for whoever takes webhooks: keeps what was posted, and answers as it is told to.

python -m tests.standins.webhook --port 0 --status 500
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from tests.standins.control import Control, parser, serve, settings_from

if TYPE_CHECKING:
    from starlette.requests import Request


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """How it answers."""

    status: int = 204
    stall: bool = False  # take requests, never answer


def app(settings: WebhookSettings) -> Starlette:
    """Build it: any path takes a POST; the log has headers and body of each, also of those that were refused."""
    control = Control(settings)

    async def hook(request: Request) -> Response:
        body = (await request.body()).decode()
        control.note("posted", path=request.url.path, headers=dict(request.headers), body=body)
        if control.settings.stall:
            await asyncio.Event().wait()
        return Response(status_code=control.settings.status)

    return Starlette(routes=[control.route(), Route("/{path:path}", hook, methods=["POST"])])


def main() -> None:
    """Serve until SIGTERM."""
    options = parser("webhook", "Takes webhooks", WebhookSettings).parse_args()
    serve("webhook", app(settings_from(options, WebhookSettings)), options)


if __name__ == "__main__":
    main()
