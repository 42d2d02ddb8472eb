"""The media upgrade: checked here, then the accepted socket is given to a pool. The router never sees a frame.

uvicorn builds this protocol when a request asks for a WebSocket and feeds it the request head. For `/media/{ticket}` the
socket's descriptor leaves for the pool and the transport is aborted, which only closes our descriptor: the connection
lives on in the pool. Upgrades of other paths stay with uvicorn's own protocol.
"""

import base64
import binascii
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, assert_never

import h11
from starlette.datastructures import Headers
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from router.pools import Pools
from router.twilio import MalformedRequest, Signatures
from shared import logs, tracing_spans
from shared.errors import TicketRefused
from shared.metrics import UpgradeRefusal
from shared.metrics_router import RouterMetrics
from shared.ticket import Ticket, TicketOffice

MEDIA_PATH: Final = "/media/"
DOOR: Final = "door"
"""Where the lifespan state of the application keeps the `Door`."""

MAX_HEAD_BYTES: Final = 16_384
"""Twilio's are under 2 KiB, with a ticket in the path; a hand-off message has room for 64 KiB."""

_PREFIX: Final = b"GET " + MEDIA_PATH.encode()
_KEY_BYTES: Final = 16  # Source: RFC 6455, 4.1 (7)

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Door:
    """What decides about an upgrade; without `signatures` they are not looked at."""

    office: TicketOffice
    signatures: Signatures | None
    pools: Pools
    metrics: RouterMetrics


@dataclass(frozen=True, slots=True)
class Head:
    """A request head: the target as it was sent, path and query, and the headers."""

    target: str
    headers: Headers


class MediaUpgrade(WebSocketsSansIOProtocol):
    """What uvicorn builds for each upgrade."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._decided = False

    def data_received(self, data: bytes) -> None:
        """Take the head, which comes first and whole; what follows is for uvicorn's protocol or for nobody."""
        if self._decided:
            return
        if data.startswith(_PREFIX):
            self._decided = True
            self._media(data, time.monotonic())
        elif not self.handshake_initiated and data.partition(b" ")[2].startswith(MEDIA_PATH.encode()):
            self._decided = True
            self._refuse(UpgradeRefusal.MALFORMED, "method", None)
        else:
            super().data_received(data)

    def _media(self, data: bytes, accepted_at: float) -> None:
        door: Door = self.app_state[DOOR]
        try:
            head = read_head(data)
        except MalformedRequest as error:
            self._refuse(UpgradeRefusal.MALFORMED, str(error), None)
            return
        refusal = door.signatures.upgrade(head.target, head.headers) if door.signatures else None
        if refusal is not None:
            self._refuse(UpgradeRefusal.SIGNATURE, refusal, None)
            return
        try:
            ticket = door.office.admit(head.target.removeprefix(MEDIA_PATH), time.time())
        except TicketRefused as error:
            self._refuse(UpgradeRefusal(str(error)), str(error), None)
            return
        self._hand_off(door, ticket, data, accepted_at)

    def _hand_off(self, door: Door, ticket: Ticket, data: bytes, accepted_at: float) -> None:
        self.transport.pause_reading()
        fd = self.transport.get_extra_info("socket").fileno()
        taker = door.pools.hand_off(ticket, data, fd, accepted_at)
        if taker is None:
            self._refuse(UpgradeRefusal.NO_POOL, "no_pool", ticket)
            return
        self.transport.abort()
        door.metrics.upgrade(handed_off=True)
        tracing_spans.handed_off(ticket, accepted_at)
        log.info("media handed off", call_sid=ticket.call_sid, trace_id=ticket.trace_id, pool=taker,
                 worker=ticket.worker)  # fmt: skip

    def _refuse(self, refusal: UpgradeRefusal, why: str, ticket: Ticket | None) -> None:
        """Answer and close. Neither the ticket nor the signature is logged: both open doors."""
        metrics: RouterMetrics = self.app_state[DOOR].metrics
        metrics.upgrade(handed_off=False)
        metrics.refused("media", refusal)
        status = status_of(refusal)
        log.warning("media refused", reason=refusal, why=why, status=int(status), peer=self.client and self.client[0],
                    call_sid=ticket and ticket.call_sid)  # fmt: skip
        body = f"{status.phrase}\n".encode()
        lines = (
            f"HTTP/1.1 {status.value} {status.phrase}",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()


def status_of(refusal: UpgradeRefusal) -> HTTPStatus:
    """Give the HTTP status that tells a client of a refusal."""
    match refusal:
        case UpgradeRefusal.MALFORMED:
            return HTTPStatus.BAD_REQUEST
        case UpgradeRefusal.NO_POOL:
            return HTTPStatus.SERVICE_UNAVAILABLE
        case (
            UpgradeRefusal.SIGNATURE
            | UpgradeRefusal.GARBLED
            | UpgradeRefusal.FORGED
            | UpgradeRefusal.EXPIRED
            | UpgradeRefusal.SPENT
        ):
            return HTTPStatus.FORBIDDEN
    assert_never(refusal)


def read_head(data: bytes) -> Head:
    """Read the head of a WebSocket upgrade.

    Raises:
        MalformedRequest: it is not one, or is larger than 16 KiB; what is wrong, in one word.

    Source: RFC 6455, 4.2.1.
    """
    if len(data) > MAX_HEAD_BYTES:
        raise MalformedRequest("oversize")
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    try:
        parser.receive_data(data)
        request, end = parser.next_event(), parser.next_event()
    except h11.RemoteProtocolError as error:
        raise MalformedRequest("head") from error
    if not isinstance(request, h11.Request) or not isinstance(end, h11.EndOfMessage):
        raise MalformedRequest("head")  # incomplete, or with a body
    headers = Headers(raw=list(request.headers))
    if headers.getlist("Sec-WebSocket-Version") != ["13"]:
        raise MalformedRequest("version")
    keys = headers.getlist("Sec-WebSocket-Key")
    if len(keys) != 1 or not _is_key(keys[0]):
        raise MalformedRequest("key")
    return Head(request.target.decode("ascii"), headers)


def _is_key(value: str) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False
