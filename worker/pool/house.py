"""What all parts of a pool share. A value: made once, when the pool is built."""

from collections.abc import Callable
from dataclasses import dataclass

from shared.agents import Agents
from shared.calls import EndReason
from shared.metrics import PoolMetrics
from shared.workers import PoolId
from worker.pool.book import Book, Call
from worker.pool.customers import Customers
from worker.pool.keeper import Keeper
from worker.pool.roster import Roster


@dataclass(frozen=True, slots=True)
class House:
    """The parts of one pool.

    Attributes:
        boot: the nonce of this life of the pool, as in tickets.
        stt_most: how many workers may hold an STT connection (those given to a call); 0 for any number.
        recycle_after_s: how long a worker stays parked.
        ended: called to end a call for a reason; harmless when it has ended.
        changed: called after every change that the plan, routers or metrics depend on.
    """

    pool: PoolId
    boot: str
    agents: Agents
    stt_most: int
    recycle_after_s: float
    roster: Roster
    book: Book
    keeper: Keeper
    customers: Customers
    metrics: PoolMetrics
    ended: Callable[[Call, EndReason], None]
    changed: Callable[[], None]
