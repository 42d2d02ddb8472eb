"""Reading a request of Twilio's: whole, in time, of the right size, and signed."""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from starlette.requests import ClientDisconnect, Request

from router.twilio import FORM_TYPE, Form, MalformedRequest, Signatures

MAX_BODY_BYTES: Final = 65_536
"""Twilio's forms have about 1 kB."""

BODY_TIMEOUT_S: Final = 5.0
"""From the head to the end of the body; Twilio sends both at once."""


class Refused(Exception):
    """A request that is not acted upon; `reason` is one word from a closed set, a metric label."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Signed:
    """A request Twilio signed: `form` is what it says, in body or query; `query` only what stands in its URL."""

    form: Form
    query: Form


@dataclass(frozen=True, slots=True)
class Intake:
    """Reads signed requests; without `signatures` they are not looked at."""

    signatures: Signatures | None

    async def read(self, request: Request) -> Signed:
        """Read a request.

        Raises:
            Refused: 400, 403, 408 or 413 and why.
        """
        try:
            query = Form.decode(request.scope["query_string"])
            form = Form.decode(await _body(request)) if request.method == "POST" else None
        except MalformedRequest as error:
            raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
        refusal = self.signatures.webhook(_target(request), form, request.headers) if self.signatures else None
        if refusal is not None:
            raise Refused(HTTPStatus.FORBIDDEN, refusal)
        return Signed(query if form is None else form, query)


def _target(request: Request) -> str:
    """Give path and query as they were sent: percent-escapes take part in the signature as they are."""
    raw_path: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    return (raw_path + (b"?" + query if query else b"")).decode("ascii")


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", FORM_TYPE).partition(";")[0].strip().lower()
    if kind != FORM_TYPE:
        raise MalformedRequest("content_type")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_size")
    except TimeoutError as error:
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, "body_time") from error
    except ClientDisconnect as error:
        raise MalformedRequest("disconnected") from error
    return bytes(body)
