"""What workers say, and what follows when one is gone.

A worker's word is checked against its state: one that was killed or told to leave may still have words under way.
"""

import os
import random
import time
from typing import Any, Final

from shared import logs
from shared.callrecord import amounts
from shared.calls import CallState, EndReason
from shared.channel import close_all
from shared.messages import (
    Beat,
    Closed,
    Counted,
    Ending,
    Entry,
    FirstMedia,
    Observed,
    ProviderLost,
    Ready,
    Resumed,
    Retire,
    Retried,
    Started,
    WarmFailed,
)
from shared.metrics import PROVIDERS, Loss, Oddity, Setback, Timing
from shared.workers import PARKED_STATES, Resource, WorkerEvent, WorkerState
from worker.pool import plan
from worker.pool.control import Control
from worker.pool.copies import Copies
from worker.pool.house import House
from worker.pool.rescue import Rescue
from worker.pool.roster import Worker
from worker.pool.troubles import Troubles
from worker.pool.vitals import StackFile

_S, _E = WorkerState, WorkerEvent

AWAY: Final = "away"
"""What keeps workers that are ready from serving some of the agents."""

_log = logs.get(__name__)


class Crew:
    """Hears workers, and does what follows from their words and their ends."""

    def __init__(self, house: House, control: Control, rescue: Rescue, copies: Copies, troubles: Troubles) -> None:
        self._house = house
        self._control = control
        self._rescue = rescue
        self._copies = copies
        self._troubles = troubles
        self._jitter = random.Random(os.urandom(8))  # noqa: S311 - spreads work, hides nothing

    def receive(self, worker: Worker, message: Any, fds: list[int]) -> None:
        """Take a message of a worker."""
        if isinstance(message, Ready) and len(fds) == 1 and worker.stack is None:
            worker.stack = StackFile(fds.pop())
        close_all(fds)
        if worker.state is _S.SPAWNED:
            worker.early.append(message)
            return
        self._hear(worker, message)

    def born(self, worker: Worker, pid: int, pidfd: int) -> None:
        """Note that the zygote has forked a worker, then hear what it had said by then."""
        worker.pid, worker.pidfd = pid, pidfd
        if worker.state is _S.SPAWNED:
            self._house.roster.step(worker, _E.FORKED, time.monotonic())
        early, worker.early = worker.early, []
        for message in early:
            self._hear(worker, message)
        self._house.changed()

    def _hear(self, worker: Worker, message: Any) -> None:
        now = time.monotonic()
        match message:
            case Beat():
                self._beat(worker, message, now)
            case Observed():
                self._observed(message)
            case Counted():
                self._counted(message)
            case Retried():
                self._retried(message)
            case Ready():
                self._ready(worker, message, now)
            case WarmFailed():
                self.fail(worker, message.resource, message.detail, message.traceback, limited=message.limited)
            case ProviderLost():
                self._provider_lost(worker, message.resource, message.detail)
            case _:
                self._hear_of_call(worker, message, now)

    def _hear_of_call(self, worker: Worker, message: Any, now: float) -> None:
        call = worker.call
        if call is None or worker.state is not _S.IN_CALL:
            return
        match message:
            case FirstMedia():
                worker.refill_at = now
                self._house.changed()
            case Started():
                call.stream_sid = message.stream_sid
                self._house.customers.begun(call)
            case Resumed():
                self._rescue.resumed(call, message.at)
            case Entry() if call.state is not CallState.ENDED:
                call.journal.append(message)
                self._copies.append(call)
                if message.kind == "used":
                    self._house.metrics.used(amounts(message.text))
            case Ending():
                self._house.ended(call, message.reason)
            case Closed():
                self._house.ended(call, EndReason.STREAM_LOST)  # unless it said why: without a stream no call goes on
                self._house.keeper.drop(call)
                self.leaving(worker, message.busy_s)

    def _beat(self, worker: Worker, beat: Beat, now: float) -> None:
        worker.beat_at = now
        if self._house.roster.warmed(worker, beat.warm):
            self._house.changed()
        self._house.metrics.observe(Timing.LOOP_LAG, beat.lag_s)
        cold = [resource for resource in self._house.parked if not beat.warm.get(resource, False)]
        if cold and worker.state is _S.READY:
            self._provider_lost(worker, cold[0], "the worker's own check says it is not warm")
        if worker.state is _S.READY:
            self._rescue.ready()  # it may have been passed over for its silence

    def _observed(self, message: Observed) -> None:
        try:
            self._house.metrics.observe(Timing(message.timing), message.seconds, message.stage)
        except ValueError:
            _log.error("unknown observation", timing=message.timing, stage=message.stage)

    def _counted(self, message: Counted) -> None:
        try:
            self._house.metrics.oddity(Oddity(message.oddity), message.times)
        except ValueError:
            _log.error("unknown oddity", oddity=message.oddity)

    def _retried(self, message: Retried) -> None:
        if message.provider in PROVIDERS and message.cause in {*Setback}:
            self._house.metrics.provider_retried(Resource(message.provider), Setback(message.cause))
        else:
            _log.error("unknown retry", provider=message.provider, cause=message.cause)

    def _ready(self, worker: Worker, message: Ready, now: float) -> None:
        if worker.state is not _S.WARMING or worker.killed:
            return
        self._house.roster.step(worker, _E.PARK, now)
        self._house.roster.warmed(worker, {**worker.warm, **dict.fromkeys(self._house.parked, True)})
        worker.parked_at = worker.beat_at = now
        worker.recycle_at = plan.recycle_at(now, self._house.recycle_after_s, self._jitter.random())
        self._house.metrics.observe(Timing.PIPELINE_CREATION, now - worker.spawned_at)
        self._troubles.over()
        for problem in self._troubles.unheard(AWAY, message.problems):
            _log.warning("some agents cannot be served", resource=problem.resource, detail=problem.detail)
        self._troubles.stand(AWAY, message.problems)
        _log.info("parked", worker=worker.id, pid=worker.pid, build_s=round(message.build_s, 3))
        self._rescue.ready()
        self._house.changed()

    def fail(self, worker: Worker, resource: str, detail: str, trace: str = "", *, limited: bool = False) -> None:
        """Note that a worker will not become ready, and why."""
        if worker.state not in {_S.SPAWNED, _S.WARMING}:
            return
        now = time.monotonic()
        self._house.roster.step(worker, _E.FAIL, now)
        self._house.metrics.warmup_failed(resource)
        self._troubles.note(resource, detail, trace, now, limited=limited)
        self._house.changed()
        _log.error("warm-up failed", worker=worker.id, resource=resource, detail=detail)

    def _provider_lost(self, worker: Worker, resource: str, detail: str) -> None:
        if worker.state is _S.RETIRED:  # its beat was faster; its own words are better
            self._troubles.note(resource, detail, "", None)
        if worker.state not in PARKED_STATES:
            return
        self._troubles.note(resource, detail, "", None)
        _log.warning("provider lost", worker=worker.id, resource=resource, detail=detail)
        self.retire(worker, _E.PROVIDER_LOST, "provider_lost")

    def retire(self, worker: Worker, event: WorkerEvent | None, why: str) -> None:
        """Tell a worker to leave; a call that was promised to it gets another, or ends when its time is over."""
        call, now = worker.call, time.monotonic()
        worker.tell(Retire(why=why))
        if event is None:
            self.leaving(worker, plan.GOODBYE_LIMIT_S)
            return
        self._house.roster.step(worker, event, now)
        worker.call = None
        if call is not None and event is _E.EXPIRE:
            self._house.metrics.reservation_expired()
            self._house.ended(call, EndReason.NEVER_CONNECTED)
        elif call is not None:
            self._control.promise_again(call)
        self._house.changed()

    def leaving(self, worker: Worker, goodbye_s: float = 0.0) -> None:
        """Give a worker whose call is over, or ends within `goodbye_s`, its time to leave."""
        until = time.monotonic() + goodbye_s
        if worker.leaving_at is None or (goodbye_s and worker.leaving_at < until):
            worker.leaving_at = until
            self._house.changed()

    def gone(self, worker: Worker) -> None:
        """Do what follows from the end of a worker's process."""
        if worker.state in {_S.SPAWNED, _S.WARMING}:
            self.fail(worker, "process", "the worker died while warming")
        call, bound = worker.call, worker.state is _S.IN_CALL
        finished = bound and call is not None and call.state is CallState.ENDED
        self._house.roster.step(worker, _E.END if finished else _E.DIE, time.monotonic())
        if not finished:
            _log.info("worker gone", worker=worker.id, pid=worker.pid, in_call=bound, **_last_words(worker))
        if worker.stack is not None:
            worker.stack.close()
        if worker.channel is not None:
            worker.channel.close()
        worker.call = None
        if call is not None:
            call.worker = None
            if finished:
                self._house.keeper.drop(call)
            elif bound:
                self._rescue.worker_lost(call, Loss.DRAINED if worker.leaving_at is not None else worker.loss)
            else:
                self._control.promise_again(call)
        self._house.changed()


def _last_words(worker: Worker) -> dict[str, list[str]]:
    """Give the stack of a worker that crashed, as a field of the log; nothing of one that ended otherwise."""
    lines = worker.stack.lines() if worker.stack is not None else []
    return {"stack": lines} if lines else {}
