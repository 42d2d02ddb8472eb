"""Listens for beats that do not come: keeps the suspects, asks the system about them, and carries out the verdicts.

`stall` decides; this is its shell. There is one timer, set to the moment at which the earliest beat would be missed, so a
pool whose workers are well reads nothing. How late that timer runs is also how the pool knows that it was not listening.
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, assert_never

from shared import logs
from shared.calls import CallState
from shared.metrics import Loss
from shared.workers import PARKED_STATES, STACK_SIGNAL, WorkerId, WorkerState
from worker.pool import vitals
from worker.pool.plan import BEAT_LIMIT_S
from worker.pool.roster import Roster, Worker
from worker.pool.stall import KILL_WAIT_S, LATE_S, SUSPICION_S, Case, Reading, Scene, Verdict, judge, own_s
from worker.pool.watch import Watch

_STOPPED: Final = frozenset({"T", "t"})
_DOING: Final = {"T": "stopped", "t": "stopped", "R": "busy"}

_log = logs.get(__name__)


@dataclass(slots=True)
class _Suspect:
    """A worker that has missed a beat, as in `stall.Case`."""

    since: float
    first: Reading
    accused: Reading | None = None


class Pulse:
    """Finds stuck workers. `kill` is called with each one that must be ended."""

    def __init__(self, roster: Roster, watch: Watch, kill: Callable[[Worker], None]) -> None:
        self._roster = roster
        self._watch = watch
        self._kill = kill
        self._loop = asyncio.get_running_loop()
        self._suspects: dict[WorkerId, _Suspect] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._fresh_at = 0.0
        self._killed: WorkerId | None = None
        self._killed_at = 0.0
        if vitals.read(os.getpid()) is None:
            _log.warning("stuck workers stay: this system does not say how long a process waits for a CPU")

    def listen(self) -> None:
        """Listen as long as there are workers; call it when there is a new one."""
        if self._timer is None:
            self._set(time.monotonic() + SUSPICION_S)

    def close(self) -> None:
        """Listen no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _set(self, due: float) -> None:
        self._timer = self._loop.call_at(due, self._look, due)

    def _look(self, due: float) -> None:
        self._timer = None
        now = time.monotonic()
        again_at = now + SUSPICION_S
        if now - due > LATE_S:
            self._fresh_at = now  # what was said meanwhile has not been heard yet: all clocks start anew
        try:
            again_at = self._judge_all(now)
        finally:  # whatever went wrong: nobody else looks
            if len(self._roster):
                self._set(again_at)

    def _judge_all(self, now: float) -> float:
        """Do what is due about everybody, and say when to look again."""
        ready = sum(each.available and now - each.beat_at <= BEAT_LIMIT_S for each in self._roster)
        judged = {worker.id: worker for worker in self._roster if _should_beat(worker)}
        for name in self._suspects.keys() - judged.keys():
            del self._suspects[name]
        looks = [self._judge(worker, Scene(now, ready, self._ending(now))) for worker in judged.values()]
        return min(looks, default=now + SUSPICION_S)

    def _ending(self, now: float) -> bool:
        return self._roster.get(self._killed) is not None and now - self._killed_at < KILL_WAIT_S

    def _judge(self, worker: Worker, scene: Scene) -> float:
        """Do what is due about one worker, and say when to look again."""
        now = scene.now
        since = max(worker.beat_at, self._fresh_at)
        suspect = self._suspects.get(worker.id)
        if suspect is not None and suspect.since != since:
            self._acquit(worker, suspect, now)
            suspect = None
        case = Case(worker.state is WorkerState.IN_CALL, since)
        if suspect is not None and worker.pid is not None:
            case = Case(case.in_call, since, suspect.first, vitals.read(worker.pid), suspect.accused)
        judgement = judge(case, scene)
        match judgement.verdict:
            case Verdict.TRUST:
                pass
            case Verdict.SUSPECT:
                self._suspect(worker, since)
            case Verdict.ACCUSE:
                self._accuse(worker, case.last)
            case Verdict.KILL:
                self._end(worker, case, now)
            case _:
                assert_never(judgement.verdict)
        return judgement.look_at

    def _suspect(self, worker: Worker, since: float) -> None:
        if worker.id not in self._suspects and worker.pid is not None:
            first = vitals.read(worker.pid)
            if first is not None:
                self._suspects[worker.id] = _Suspect(since, first)

    def _accuse(self, worker: Worker, seen: Reading | None) -> None:
        self._suspects[worker.id].accused = seen
        if worker.stack is not None and worker.pidfd is not None and seen is not None and seen.state not in _STOPPED:
            worker.stack.lines()  # what was asked before is answered
            self._watch.send(worker.pidfd, STACK_SIGNAL)

    def _acquit(self, worker: Worker, suspect: _Suspect, now: float) -> None:
        del self._suspects[worker.id]
        if suspect.accused is not None:
            silence_s = round(now - suspect.since, 3)
            _log.warning("worker was silent", worker=worker.id, silence_s=silence_s, **_evidence(worker, None))

    def _end(self, worker: Worker, case: Case, now: float) -> None:
        del self._suspects[worker.id]
        self._killed, self._killed_at = worker.id, now
        if case.in_call:
            worker.loss = Loss.STALLED
        own = own_s(case.since, case.first, case.last) if case.first and case.last else 0.0
        _log.error(
            "worker stalled",
            worker=worker.id,
            pid=worker.pid,
            worker_state=worker.state.value,
            silence_s=round(now - worker.beat_at, 3),
            own_s=round(own, 3),
            **_evidence(worker, case.last),
        )
        self._kill(worker)


def _should_beat(worker: Worker) -> bool:
    if worker.killed or worker.pidfd is None:
        return False
    if worker.state is WorkerState.IN_CALL:
        ended = worker.call is None or worker.call.state is CallState.ENDED
        return worker.leaving_at is None and not ended  # else the plan gives it its time to exit
    return worker.state in PARKED_STATES


def _evidence(worker: Worker, seen: Reading | None) -> dict[str, Any]:
    """Give what is known of where a worker is, as fields of the log."""
    said: dict[str, Any] = {**worker.of_call}
    if seen is not None and worker.pid is not None:
        said |= {"doing": _DOING.get(seen.state, "blocked"), "process_state": seen.state}
        said |= {"sleeps_in": vitals.sleeps_in(worker.pid)}
    lines = worker.stack.lines() if worker.stack is not None else []
    if lines:
        return said | {"stack": lines}
    stopped = seen is not None and seen.state in _STOPPED
    return said | {"no_stack": "a stopped process cannot say where it is" if stopped else "it did not answer"}
