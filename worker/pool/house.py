"""What all parts of a pool share. A value: made once, when the pool is built."""

from collections.abc import Callable
from dataclasses import dataclass

from shared.agents import Agents
from shared.calls import CallEvent, EndReason
from shared.metrics import PoolMetrics
from shared.workers import PARKED_RESOURCES, PoolId, Resource, WorkerEvent
from worker.pool.book import Book, Call
from worker.pool.customers import Customers
from worker.pool.keeper import Keeper
from worker.pool.plan import REFILL_DELAY_S
from worker.pool.roster import Roster, Worker


@dataclass(frozen=True, slots=True)
class House:
    """The parts of one pool.

    Attributes:
        agents: gives whom workers that are forked now serve.
        boot: the nonce of this life of the pool, as in tickets.
        stt_most: how many workers may hold an STT connection (those given to a call); 0 for any number.
        recycle_after_s: how long a worker stays parked.
        ended: called to end a call for a reason; harmless when it has ended.
        parked: what a READY worker has warm.
        changed: called after every change that the plan, routers or metrics depend on.
    """

    pool: PoolId
    boot: str
    agents: Callable[[], Agents]
    stt_most: int
    recycle_after_s: float
    roster: Roster
    book: Book
    keeper: Keeper
    customers: Customers
    metrics: PoolMetrics
    ended: Callable[[Call, EndReason], None]
    changed: Callable[[], None]
    parked: tuple[Resource, ...] = PARKED_RESOURCES

    def bind(self, call: Call, worker: Worker, now: float) -> bool:
        """Note that a worker was given a call's stream; tell one that was not promised to it what the promised one knew.

        Says whether it was the promised one.
        """
        prepared = call.worker == worker.id
        self.book.step(call, CallEvent.BIND)
        self.roster.step(worker, WorkerEvent.BIND, now)
        call.worker, worker.call, call.bound_at = worker.id, call, now
        if not prepared:
            worker.refill_at = now + REFILL_DELAY_S
            self.customers.repeat(call)
        self.changed()
        return prepared
