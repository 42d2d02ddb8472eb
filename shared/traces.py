"""What an attempt of a call and its pool have left in Redis: the evidence of whether a call ended or was cut off.

Read in one transaction, so that all of it is true at one moment; what follows from it is the router's to judge.
"""

from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared import keys, logs, redis_door
from shared.calls import EndReason
from shared.errors import ReadinessUnavailable
from shared.readiness import read_record
from shared.records import read_end
from shared.ticket import Ticket

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Traces:
    """What stands in Redis about one attempt of a call.

    Attributes:
        ended: an end reason is stored.
        reason: which; None also for one that this version does not know.
        lease_s: for how long the lease of its pool, in the life that took the call, still stands; 0 when it is gone.
        journal: a copy of the call's journal exists: the call had begun, and nobody has ended it.
        dial: whom a transferred caller is to be connected to; empty for nobody.
    """

    ended: bool = False
    reason: EndReason | None = None
    lease_s: float = 0.0
    journal: bool = False
    dial: str = ""


async def traces_of(client: Redis, ticket: Ticket) -> Traces:
    """Look what an attempt of a call has left.

    Raises:
        ReadinessUnavailable: Redis does not answer.
    """
    async with client.pipeline(transaction=True) as pipe:
        pipe.get(keys.pool(ticket.pool))
        pipe.pttl(keys.pool(ticket.pool))
        pipe.get(keys.end(ticket.call_sid, ticket.attempt))
        pipe.exists(keys.journal(ticket.call_sid))
        try:
            lease, lease_ms, end, journal = await pipe.execute()
        except (RedisError, OSError) as error:
            raise ReadinessUnavailable(redis_door.words(error)) from error
    reason, dial = read_end(ticket.call_sid, end)
    return Traces(
        ended=end is not None,
        reason=reason,
        dial=dial,
        lease_s=_lease_s(ticket, lease, lease_ms),
        journal=bool(journal),
    )


def _lease_s(ticket: Ticket, text: str | None, lease_ms: int) -> float:
    if text is None:
        return 0.0
    record = read_record(text)
    if record is not None and record.boot != ticket.boot:
        return 0.0  # that pool lives another life: the one that took the call is over
    # an unreadable lease is somebody's, and one without an expiry is not ours to judge: both stand
    return (lease_ms if lease_ms >= 0 else keys.LEASE_MS) / 1000
