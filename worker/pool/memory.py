"""How much memory each worker has for itself, and what follows when that is too much.

What a worker has for itself is what it does not share with its zygote and its siblings: about 43 MB parked and 47 MB in a
call, of 176 MB resident. Only `smaps_rollup` tells, which takes the kernel 3 to 13 ms per worker (measured); what is
resident takes 0.06 ms from `statm`, and nobody has more than that for itself. So the first is read only of a worker whose
second is over a limit. With the usual limits a look at 200 workers takes 12 ms, in as many turns of the loop.
"""

import asyncio
import resource
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, assert_never

from shared import logs
from shared.metrics import Loss, PoolMetrics
from shared.workers import WorkerState
from worker.pool.roster import Roster, Worker

LOOK_S: Final = 2.0
"""Between two looks: a leak of 100 MB a second is noticed 200 MB later."""

MB: Final = 1 << 20
_PAGE: Final = resource.getpagesize()
_PROC: Final = Path("/proc")

_S = WorkerState
_LOOKED_AT: Final = frozenset({_S.READY, _S.RESERVED, _S.IN_CALL})

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """In MB; 0 is no limit."""

    soft: int
    hard: int

    @property
    def lowest(self) -> int:
        """The lower one of those there are; 0 when there is none."""
        return min((each for each in (self.soft, self.hard) if each), default=0)


class Verdict(StrEnum):
    """What is to be done about a worker."""

    NOTHING = "nothing"
    REPLACE = "replace"  # it is parked: it leaves when another is ready
    REPORT = "report"  # it is promised or in a call: it serves that call, and is gone with it
    KILL = "kill"  # it would take the machine with it


def judge(own_mb: float, state: WorkerState, limits: Limits) -> Verdict:
    """Say what is to be done about a worker that has so much for itself."""
    if state not in _LOOKED_AT:
        return Verdict.NOTHING
    if limits.hard and own_mb > limits.hard:
        return Verdict.KILL
    if not limits.soft or own_mb <= limits.soft:
        return Verdict.NOTHING
    return Verdict.REPLACE if state is _S.READY else Verdict.REPORT


def resident(statm: str) -> float:
    """Read how many MB a process has in memory, shared or not. Source: proc_pid_statm(5)."""
    return int(statm.split()[1]) * _PAGE / MB


def private(rollup: str) -> float:
    """Read how many MB a process has for itself. Source: proc_pid_smaps(5), `Private_*`, in kB."""
    fields = (line.split() for line in rollup.splitlines())
    return sum(int(words[1]) for words in fields if words and words[0].startswith("Private_")) / 1024


def own(pid: int, lowest: int) -> float:
    """Look up how many MB a process has for itself; 0 when that is not above `lowest`, or the process is gone."""
    try:
        if resident((_PROC / str(pid) / "statm").read_text(encoding="ascii")) <= lowest:
            return 0.0
        return private((_PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii"))
    except (OSError, IndexError):
        return 0.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Looks at all workers now and then. `replace` and `kill` are called with a worker and what the operator should read."""

    roster: Roster
    metrics: PoolMetrics
    limits: Limits
    replace: Callable[[Worker, str], None]
    kill: Callable[[Worker, str], None]

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self.limits.lowest:
                for worker in self.roster:
                    self._look(worker)
                    await asyncio.sleep(0)

    def _look(self, worker: Worker) -> None:
        if worker.pid is None or worker.pidfd is None or worker.killed or worker.state not in _LOOKED_AT:
            return
        own_mb = own(worker.pid, self.limits.lowest)
        verdict = judge(own_mb, worker.state, self.limits)
        hard = verdict is Verdict.KILL
        words = f"{own_mb:.0f} MB of its own, the limit is {self.limits.hard if hard else self.limits.soft}"
        match verdict:
            case Verdict.NOTHING:
                return
            case Verdict.REPLACE | Verdict.REPORT if not worker.heavy:
                worker.heavy = True
                self._say(worker, own_mb, hard=False)
                if verdict is Verdict.REPLACE:
                    self.replace(worker, words)
            case Verdict.REPLACE | Verdict.REPORT:
                pass  # it was said, and is on its way out
            case Verdict.KILL:
                self._say(worker, own_mb, hard=True)
                if worker.state is _S.IN_CALL:
                    worker.loss = Loss.MEMORY
                self.kill(worker, words)
            case _:
                assert_never(verdict)

    def _say(self, worker: Worker, own_mb: float, *, hard: bool) -> None:
        self.metrics.over_memory(hard=hard)
        _log.warning(
            "worker is over its memory limit",
            worker=worker.id,
            pid=worker.pid,
            worker_state=worker.state.value,
            own_mb=round(own_mb),
            limit_mb=self.limits.hard if hard else self.limits.soft,
            **worker.of_call,
        )
