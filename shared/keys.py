"""Every Redis key: its type, who writes it, how long it lives. Commands of Redis 6.2 only.

| key | type | writer | TTL |
|---|---|---|---|
| `offhook:pool:<id>` | string, JSON `readiness.PoolRecord` | that pool, every second: its lease | 3 s |
| `offhook:pools` | set of pool ids, some of them gone | every pool, beside its lease | 60 s |
| `offhook:customer:<call>` | stream, one field `result` (JSON `prefetch.Result`) | the prefetch job | 300 s |
| `offhook:wake:<pool>` | stream, at most 1 entry | that pool, to end its own blocking read | 60 s |
| `offhook:end:<call>:<attempt>` | string, the end reason, and whom to dial | the pool that held the call (*) | 900 s |
| `offhook:journal:<call>` | list of JSON `messages.Entry` | the pool that holds the call (*) | 900 s, deleted at the end |
| `offhook:records` | list of JSON `callrecord.CallRecord`, to be made jobs | workers without a pool | none |
| `offhook:records:taken` | the same, while they are made jobs | prefetchers | none |
| `offhook:recorded:<what>:<call>` | string, how many attempts are in what was `stored` or `posted` | after-call jobs | 2 days |
| `offhook:hold:line` | sorted set of calls by arrival (us) | routers, by `lua/hold.lua` alone | 120 s |
| `offhook:hold:due` | sorted set of calls by when they will have stopped asking (us) | as above | 120 s |
| `offhook:message:<slot>` | string, JSON `letters.Told`: how far a message to a customer has come | the message job | 86,400 s |
| `offhook:told:<slot>` | stream, one field `told` (JSON `letters.Told`) | the message job, and the status job | 300 s |
| `rq:*` | RQ's own | router (enqueue), prefetchers | RQ's |

(*) The call's worker instead, once that pool is gone.
"""

from typing import Final

from shared.calls import CallSid
from shared.workers import PoolId

LEASE_MS: Final = 3_000
POOLS: Final = "offhook:pools"
"""The pools to ask for leases: listing them by SCAN would walk over every job of RQ."""
POOLS_TTL_S: Final = 60
CUSTOMER_TTL_S: Final = 300
WAKE_TTL_S: Final = 60
END_TTL_S: Final = 900
JOURNAL_TTL_S: Final = 900
RECORDS: Final = "offhook:records"
RECORDS_TAKEN: Final = "offhook:records:taken"
RECORDED_TTL_S: Final = 172_800
"""Twice as long as a job is tried."""
HOLD_LINE: Final = "offhook:hold:line"
HOLD_DUE: Final = "offhook:hold:due"
HOLD_TTL_S: Final = 120
"""Callers ask again within seconds; this only clears a line whose routers are all gone."""

MESSAGE_TTL_S: Final = 86_400
"""The same message cannot be asked for again later than that: its call is long over."""
TOLD_TTL_S: Final = 300


def pool(pool_id: PoolId) -> str:
    """Name the lease and directory entry of a pool."""
    return f"offhook:pool:{pool_id}"


def customer(call_sid: CallSid) -> str:
    """Name the stream on which a call's prefetch result arrives."""
    return f"offhook:customer:{call_sid}"


def wake(pool_id: PoolId) -> str:
    """Name the stream that ends a pool's own blocking read."""
    return f"offhook:wake:{pool_id}"


def end(call_sid: CallSid, attempt: int) -> str:
    """Name the end reason of one attempt of a call."""
    return f"offhook:end:{call_sid}:{attempt}"


def journal(call_sid: CallSid) -> str:
    """Name the copy of a call's journal."""
    return f"offhook:journal:{call_sid}"


def message(slot: str) -> str:
    """Name what is known of a message to a customer; `letters.slot` gives the slot."""
    return f"offhook:message:{slot}"


def told(slot: str) -> str:
    """Name the stream on which is told what became of a message."""
    return f"offhook:told:{slot}"


def recorded(what: str, call_sid: CallSid) -> str:
    """Name what says that a call's record was stored, or posted: `what` is `stored` or `posted`."""
    return f"offhook:recorded:{what}:{call_sid}"
