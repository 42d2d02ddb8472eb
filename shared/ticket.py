"""The ticket: a signed path segment that admits one media upgrade for one call. Pure.

`<Stream url>` drops query strings and its parameters arrive only after the upgrade, so what the router must know at the
upgrade stands in the path. The signature (HMAC-SHA256, by itsdangerous) proves that this installation wrote it; single
use is enforced by the pool it names. Nothing in it is secret, and nothing personal is in it: paths are logged.

Source: Twilio docs, TwiML Stream ("url": no query string; custom parameters arrive in `start`).
"""

import hashlib
from typing import Any, Final

import msgspec
from itsdangerous import BadData, URLSafeSerializer

from shared.calls import CallSid, TraceId
from shared.errors import TicketRefused
from shared.workers import PoolId, WorkerId

MAX_TICKET_CHARS: Final = 1024
"""Far above a real one (about 250): longer input is refused before any hashing."""


class Ticket(msgspec.Struct, frozen=True, array_like=True):
    """What a ticket says.

    `boot` is the pool's nonce: a restarted pool does not know the tickets of its former life. `expires_at` is in unix
    seconds; it limits the upgrade, not later questions about the call's end.
    """

    call_sid: CallSid
    attempt: int
    pool: PoolId
    boot: str
    worker: WorkerId
    trace_id: TraceId
    expires_at: int


class TicketOffice:
    """Signs and opens tickets with one key.

    The key is derived from the secret by itsdangerous with a salt of ours, so that a ticket reveals nothing about the
    Twilio token it may be derived from.
    """

    def __init__(self, secret: str) -> None:
        self._serializer = URLSafeSerializer(
            secret,
            salt="offhook media ticket",
            signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
        )

    def sign(self, ticket: Ticket) -> str:
        """Write a ticket as one URL-safe path segment. The same ticket always gives the same segment."""
        return str(self._serializer.dumps(msgspec.to_builtins(ticket)))

    def open(self, segment: str) -> Ticket:
        """Read a ticket, expired or not; use `admit` for an upgrade.

        Raises:
            TicketRefused: `garbled` when it is not a ticket of ours, `forged` when its signature is wrong.
        """
        if len(segment) > MAX_TICKET_CHARS or "." not in segment:
            raise TicketRefused("garbled")
        try:
            content: Any = self._serializer.loads(segment)
            return msgspec.convert(content, Ticket)
        except BadData as error:
            raise TicketRefused("forged") from error
        except msgspec.ValidationError as error:
            raise TicketRefused("garbled") from error

    def admit(self, segment: str, now: float) -> Ticket:
        """Read a ticket for an upgrade at `now` (unix seconds).

        Raises:
            TicketRefused: as `open`, or `expired`.
        """
        ticket = self.open(segment)
        if now >= ticket.expires_at:
            raise TicketRefused("expired")
        return ticket
