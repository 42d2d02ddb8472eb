"""The roster: every live worker and its slot. The only place where a worker's state changes.

Slots are numbers from 0; a worker has one for life, and the next worker takes it over: metrics have a bounded label.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from shared.agents import Agent, Agents
from shared.channel import Channel
from shared.journal import packed
from shared.machine import advance
from shared.messages import Bind, Entry, Message
from shared.metrics import Loss, PoolMetrics
from shared.workers import WORKER_TABLE, Resource, WorkerEvent, WorkerId, WorkerState
from worker.pool.book import Call
from worker.pool.plan import Candidate, Seen, choose
from worker.pool.vitals import StackFile


@dataclass(slots=True, eq=False)
class Worker:
    """A live worker. `since`, `parked_at`, `beat_at` and so on are seconds of CLOCK_MONOTONIC, as in `plan.Seen`.

    `early` holds what it said before the zygote's word of its birth was read; `loss` is what its end will be called when
    it comes during a call; `stack` is there from its `Ready` on; `heavy` is whether its memory was above the soft limit.
    `generation` is the number of the zygote that has forked it, and `agents` are whom it can serve; it is `outdated` when
    there is a newer generation.
    """

    id: WorkerId
    slot: int
    since: float
    spawned_at: float
    channel: Channel | None = None
    state: WorkerState = WorkerState.SPAWNED
    pid: int | None = None
    pidfd: int | None = None
    warm: dict[Resource, bool] = field(default_factory=dict)
    parked_at: float = 0.0
    beat_at: float = 0.0
    recycle_at: float = math.inf
    refill_at: float = -math.inf
    leaving_at: float | None = None
    killed: bool = False
    loss: Loss = Loss.DIED
    call: Call | None = None
    early: list[Any] = field(default_factory=list)
    stack: StackFile | None = None
    heavy: bool = False
    generation: int = 0
    agents: Agents = field(default_factory=lambda: Agents(default=Agent()))
    outdated: bool = False

    @property
    def available(self) -> bool:
        """Whether a call can be given to it."""
        return self.state is WorkerState.READY and not self.killed and self.channel is not None and self.channel.open

    @property
    def of_call(self) -> dict[str, str]:
        """Name its call, as fields of the log; nothing when it has none."""
        if self.call is None:
            return {}
        return {"call_sid": self.call.sid, "trace_id": self.call.incoming.trace_id}

    def tell(self, message: Message) -> bool:
        """Send it a message; False when it cannot be reached any more."""
        return self.channel is not None and self.channel.send(message)

    def give(self, bind: Bind, journal: Iterable[Entry], *fds: int) -> bool:
        """Give it a call, after what was said in that before; False when it cannot be reached any more."""
        for part in packed(journal):
            self.tell(part)
        return self.channel is not None and self.channel.send(bind, *fds)

    def seen(self) -> Seen:
        """Give it as the plan sees it."""
        deadline = self.call.deadline if self.call is not None else math.inf
        recycle_at = -math.inf if self.outdated else self.recycle_at
        return Seen(self.id, self.state, self.since, recycle_at, self.refill_at, deadline, self.leaving_at, self.killed)


class Roster:
    """Live workers by id, in at most `slots` slots."""

    def __init__(self, slots: int, metrics: PoolMetrics) -> None:
        self._metrics = metrics
        self._free = list(range(slots - 1, -1, -1))
        self._workers: dict[WorkerId, Worker] = {}
        self._serial = 0
        self._touched: set[int] = set()

    def __iter__(self) -> Iterator[Worker]:
        """List the live workers; they may come and go meanwhile."""
        return iter(list(self._workers.values()))

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, worker: WorkerId | None) -> Worker | None:
        """Find a live worker."""
        return None if worker is None else self._workers.get(worker)

    def add(self, now: float) -> Worker:
        """Make room for a new worker in the lowest free slot.

        Raises:
            IndexError: all slots are taken; the plan never asks for that.
        """
        slot = self._free.pop()
        self._serial += 1
        worker = Worker(WorkerId(f"{slot}-{self._serial}"), slot, now, now)
        self._workers[worker.id] = worker
        self._touched.add(slot)
        return worker

    def step(self, worker: Worker, event: WorkerEvent, now: float) -> None:
        """Bring a worker to its next state; one that has exited leaves the roster.

        Raises:
            IllegalTransition: the worker does not take this event now; nothing has changed.
        """
        worker.state = advance(WORKER_TABLE, worker.state, event)
        worker.since = now
        self._touched.add(worker.slot)
        if worker.state is WorkerState.EXITED:
            del self._workers[worker.id]
            self._free.append(worker.slot)
            self._free.sort(reverse=True)

    def warmed(self, worker: Worker, warm: dict[Resource, bool]) -> bool:
        """Note what is warm in a worker; say whether that is news."""
        if warm == worker.warm:
            return False
        worker.warm = warm
        self._touched.add(worker.slot)
        return True

    def choose(self, now: float, behind: int = 0) -> Worker | None:
        """Choose a ready worker for a call, if `behind` others would be left; None otherwise."""
        ready = [Candidate(each.id, each.parked_at, each.beat_at, each.outdated) for each in self if each.available]
        return self.get(choose(ready, now)) if len(ready) > behind else None

    def counts(self) -> Counter[WorkerState]:
        """Count the workers in each state."""
        return Counter(worker.state for worker in self._workers.values())

    def show(self) -> None:
        """Bring the metrics up to date with what has changed since the last time."""
        if not self._touched:
            return
        by_slot = {worker.slot: worker for worker in self._workers.values()}
        for slot in self._touched:
            worker = by_slot.get(slot)
            if worker is None:
                self._metrics.show_worker(slot, None, {})
            else:
                self._metrics.show_worker(slot, worker.state, worker.warm)
        self._touched.clear()
        self._metrics.show_states(dict(self.counts()))
