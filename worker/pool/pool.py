"""The pool: puts the plan into effect, looks after the zygote, and ends in good order.

Everything that happens changes something and calls `changed`; once per turn of the loop the plan is then asked what is
due, routers are told what is new, and the metrics are brought up to date. Nothing is polled.
"""

import asyncio
import math
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, assert_never

from prometheus_client import CollectorRegistry

from shared import logs, redis_door, tracing_spans
from shared.agents import Agents
from shared.calls import EndReason
from shared.clips import Clip
from shared.messages import (
    PROTOCOL_VERSION,
    Ended,
    EndStored,
    Readiness,
    Welcome,
)
from shared.metrics import PoolMetrics, Timing
from shared.outage import Outage
from shared.prefetch import ResultReader
from shared.readiness import PoolRecord
from shared.readiness import Readiness as Directory
from shared.records import Records
from shared.settings import Settings
from shared.tool_metrics import ToolMetrics
from shared.workers import PoolId, WorkerEvent, WorkerState, parked_resources
from worker.pool import plan
from worker.pool.aftercall import AfterCall
from worker.pool.book import Book, Call
from worker.pool.checking import Checked
from worker.pool.control import Control
from worker.pool.copies import Copies
from worker.pool.crew import Crew
from worker.pool.customers import Customers
from worker.pool.door import Door
from worker.pool.house import House
from worker.pool.http import Health, serve
from worker.pool.keeper import Keeper
from worker.pool.lookups import Lookups
from worker.pool.memory import Limits, Memory
from worker.pool.nursery import Nursery
from worker.pool.recall import Recall
from worker.pool.reload import Reload
from worker.pool.rescue import Rescue
from worker.pool.roster import Roster, Worker
from worker.pool.toolhost import ToolHost
from worker.pool.troubles import Troubles
from worker.pool.watch import reap_orphans
from worker.tools.wanted import unplaced

TICK_S: Final = 0.5
"""How often the loop's lateness is measured."""

_FITS: Final = {WorkerEvent.RECYCLE: WorkerState.READY, WorkerEvent.EXPIRE: WorkerState.RESERVED}

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Given:
    """What `__main__` has checked and opened before the pool begins; `bridging` is for callers without a worker."""

    settings: Settings
    agents: Agents
    pool: PoolId
    door: socket.socket
    http: socket.socket
    registry: CollectorRegistry
    child: str
    bridging: Clip | None = None


class Pool:
    """A pool of workers. Build it on a running loop; `run` ends when it has drained."""

    def __init__(self, given: Given) -> None:
        settings = given.settings
        self._given = given
        self._loop = asyncio.get_running_loop()
        self._most = min(settings.max_workers, settings.tts_max_connections or math.inf)
        self._boot = secrets.token_hex(8)
        self._path = settings.handoff_dir / f"{given.pool}.sock"
        self._metrics = PoolMetrics(given.registry, settings.pool_ready)
        self._roster = Roster(settings.max_workers, self._metrics)
        self._book = Book()
        self._troubles = Troubles()
        self._redis = redis_door.commands(settings.redis_url)
        outage = Outage("redis")
        self._reader: ResultReader | None = None
        if settings.supabase_url:
            self._reader = ResultReader(settings.redis_url, given.pool, self._result, self._linked, outage)
        self._lookups = Lookups(settings)
        late = not settings.parallel_context_prefetch
        self._customers = Customers(self._book, self._roster, self._reader, self._lookups.ask, late=late)
        records = Records(self._redis)
        self._copies = Copies(
            records,
            Directory(self._redis),
            self._record,
            lambda up: self._metrics.redis_up(up=up),
            journals=settings.journal_in_redis,
            outage=outage,
        )
        house = House(
            pool=given.pool,
            boot=self._boot,
            agents=lambda: self._nursery.agents,
            stt_most=settings.stt_max_connections,
            recycle_after_s=settings.recycle_after,
            roster=self._roster,
            book=self._book,
            keeper=Keeper(),
            customers=self._customers,
            metrics=self._metrics,
            ended=self._ended,
            changed=self.changed,
            parked=parked_resources(eager_tools=settings.eager_tool_loading),
        )
        self._keeper = house.keeper
        self._control = Control(house, Recall(records, self._copies.append))
        self._rescue = Rescue(house, given.bridging)
        self._crew = Crew(house, self._control, self._rescue, self._copies, self._troubles)
        welcome = Welcome(version=PROTOCOL_VERSION, pool=given.pool, boot=self._boot)
        self._door = Door(given.door, self._path, welcome, self._control.receive)
        self._nursery = Nursery(given.child, given.agents, house, self._crew, self._troubles)
        self._reload = Reload(settings, self._nursery, self._troubles, self._metrics, self._reloaded)
        self._tool_host = ToolHost(
            settings, given.agents.mcp, self._roster, ToolMetrics(given.registry), self._troubles
        )
        limits = Limits(settings.worker_memory_soft_mb, settings.worker_memory_hard_mb)
        self._memory = Memory(self._roster, self._metrics, limits, self._replace_heavy, self._kill_heavy)
        self._aftercall = AfterCall(settings, self._metrics, outage)
        self._tasks: asyncio.TaskGroup | None = None
        self._settling = False
        self._hosted = False
        self._wake: asyncio.TimerHandle | None = None
        self._drain_until: float | None = None
        self._drained = asyncio.Event()
        self._empty_since: float | None = time.monotonic()

    # --- life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until drained."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.drain)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload.ask, "SIGHUP")
        if os.getpid() == 1:
            self._loop.add_signal_handler(signal.SIGCHLD, reap_orphans)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            background = [
                tasks.create_task(self._for_ever(self._copies.run)),
                tasks.create_task(self._for_ever(self._measure)),
                tasks.create_task(self._for_ever(self._memory.run)),
                tasks.create_task(self._for_ever(self._reload.run)),
                tasks.create_task(self._for_ever(self._aftercall.run)),
            ]
            if self._reader is not None:
                background.append(tasks.create_task(self._for_ever(self._reader.run)))
            http = serve(self._given.http, self._given.registry, self._health)
            background.append(tasks.create_task(http))
            self._nursery.start()
            self._look_for_zones(self._given.agents)
            self.changed()
            _log.info(
                "pool is up",
                pid=os.getpid(),
                socket=str(self._path),
                metrics_port=self._given.http.getsockname()[1],
                ready=self._given.settings.pool_ready,
                most=self._most,
            )
            await self._drained.wait()
            for task in background:
                task.cancel()
        await self._leave()

    def drain(self) -> None:
        """Take no new call, finish the present ones, then end; asking again changes nothing."""
        if self._drain_until is None:
            _log.info("draining", calls=self._book.streaming)
            self._drain_until = time.monotonic() + self._given.settings.drain_timeout
            self._control.draining = True
            self._nursery.close()
            self._reload.close()
            self.changed()

    async def _leave(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
        self._door.close()
        await asyncio.gather(self._nursery.leave(), self._tool_host.leave())
        await self._copies.withdraw()
        await self._aftercall.leave()
        self._lookups.close()
        await self._redis.aclose()
        self._keeper.leave()
        _log.info("pool has left")

    async def _for_ever(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run what must not end: an error of ours in it is logged, and it begins anew."""
        while True:
            try:
                await work()
            except Exception:  # noqa: BLE001 - one of the few top-level loops, logged with its traceback
                _log.exception("background work failed")
            await asyncio.sleep(1.0)

    async def _measure(self) -> None:
        while True:
            due = self._loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self._metrics.observe(Timing.LOOP_LAG, self._loop.time() - due)
            self._count_empty(time.monotonic())

    # --- the turn ---------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Look, in the next turn of the loop, at what is due."""
        if not self._settling:
            self._settling = True
            self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        self._settling = False
        if self._nursery.open and not self._hosted:
            self._hosted = True
            self._tool_host.start()  # not beside the zygote: its second of CPU would keep the first worker waiting
        now = time.monotonic()
        view = plan.View(
            now=now,
            ready=self._given.settings.pool_ready,
            most=int(self._most),
            can_fork=self._nursery.open,
            backoff=self._troubles.backoff,
            drain_until=self._drain_until,
            waiting=self._rescue.waiting,
        )
        due = plan.decide((worker.seen() for worker in self._roster), view)
        for action in due.actions:
            self._apply(action)
        self._roster.show()
        self._door.push(self._readiness())
        self._count_empty(now)
        self._metrics.calls_active(self._book.streaming)
        if self._wake is not None:
            self._wake.cancel()
        self._wake = None if math.isinf(due.wake_at) else self._loop.call_at(due.wake_at, self.changed)
        if self._drain_until is not None and not len(self._roster) and not self._rescue.waiting:
            self._drained.set()

    def _apply(self, action: plan.Action) -> None:
        match action:
            case plan.Spawn():
                self._tool_host.attend(self._nursery.spawn())
            case plan.Retire(name, event, why):
                worker = self._roster.get(name)
                if worker is not None and (event is None or worker.state is _FITS.get(event)):
                    self._crew.retire(worker, event, why)
            case plan.Kill(name, why):
                worker = self._roster.get(name)
                if worker is not None:
                    self._nursery.kill(worker, why)
            case _:
                assert_never(action)

    def _reloaded(self, checked: Checked) -> None:
        """Take what does not need a new worker from a change."""
        self._rescue.bridging = checked.bridging
        self._tool_host.serve(checked.agents.mcp)
        self._look_for_zones(checked.agents)
        self.changed()

    def _look_for_zones(self, agents: Agents) -> None:
        """Say which agents book without a time zone: that is allowed, and rarely what is meant."""
        problems = unplaced(agents.all) if self._given.settings.supabase_url else ()
        self._troubles.stand("zones", problems)
        if problems:
            _log.warning("agents book without a time zone", problems=[each.detail for each in problems])

    def _replace_heavy(self, worker: Worker, why: str) -> None:
        """Have it recycled now: it leaves when its replacement is ready, as at any other recycling."""
        self._troubles.note("memory", f"a parked worker had {why}", "", None)
        worker.recycle_at = time.monotonic()
        self.changed()

    def _kill_heavy(self, worker: Worker, why: str) -> None:
        """Kill it; parked ones that grow like this back off, as failed warm-ups do."""
        parked = worker.state is WorkerState.READY
        self._troubles.note("memory", f"a worker had {why}", "", time.monotonic() if parked else None)
        self._nursery.kill(worker, "memory")

    def _count_empty(self, now: float) -> None:
        if self._empty_since is not None:
            self._metrics.empty_for(now - self._empty_since)
        ready = self._roster.counts()[WorkerState.READY]
        self._empty_since = now if not ready and self._drain_until is None else None

    def _readiness(self) -> Readiness:
        counts = self._roster.counts()
        return Readiness(
            ready=sum(worker.available for worker in self._roster),
            warming=counts[WorkerState.SPAWNED] + counts[WorkerState.WARMING],
            draining=self._drain_until is not None,
            problems=tuple(trouble.problem for trouble in self._troubles.present()),
        )

    def _health(self) -> Health:
        troubles = self._troubles
        return Health(self._readiness(), troubles.present(), not self._nursery.open, troubles.standing())

    def _record(self) -> PoolRecord:
        readiness = self._readiness()
        return PoolRecord(
            pool=self._given.pool,
            boot=self._boot,
            ready=readiness.ready,
            socket=str(self._path),
            draining=readiness.draining,
        )

    # --- calls ------------------------------------------------------------------------------------------------------

    def _ended(self, call: Call, reason: EndReason) -> None:
        journal = tuple(call.journal)
        if not self._book.end(call, reason, time.monotonic()):
            return
        self._aftercall.over(call, reason, journal)
        tracing_spans.ended(call.incoming, call.reserved_at, reason, call.agent.name, call.resumes)
        self._door.tell(Ended(call_sid=call.sid, attempt=call.attempt, reason=reason, dial=call.dial))
        self._metrics.call_ended(reason)
        self._customers.forget(call)
        self._rescue.forget(call)
        self._copies.over(call)
        _log.info("call ended", call_sid=call.sid, trace_id=call.incoming.trace_id, reason=reason.value)
        if self._tasks is not None:
            self._tasks.create_task(self._store_end(call, reason))
        self.changed()

    async def _store_end(self, call: Call, reason: EndReason) -> None:
        await self._copies.store_end(call, reason)
        worker = self._roster.get(call.worker)
        if worker is not None and worker.call is call and worker.state is WorkerState.IN_CALL:
            worker.tell(EndStored())
            self._crew.leaving(worker)

    def _result(self, call_sid: Any, result: Any) -> None:
        self._customers.came(call_sid, result)

    def _linked(self, up: bool) -> None:  # noqa: FBT001 - the signature is the reader's
        self._customers.linked(up)
