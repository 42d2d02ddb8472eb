"""What becomes of a call whose worker is lost: another one resumes it, or it waits for one, or it ends.

The caller's connection never closes for it: the keeper's duplicate holds it, and the next ready worker gets that, the journal
and the tape. A call that kills its workers must not take the pool with it: after three resumes in quick succession it is
given up, and from its second death on it never gets the last ready worker.
"""

import asyncio
import time
from enum import StrEnum
from typing import Final

from websockets.frames import CloseCode

from shared import logs, tracing_spans
from shared.calls import CallEvent, EndReason
from shared.clips import Clip
from shared.messages import Bind, Resume
from shared.metrics import Failover, Loss
from worker.pool.book import Call
from worker.pool.house import House
from worker.pool.plan import BEAT_LIMIT_S
from worker.pool.roster import Worker
from worker.pool.waiting import Waiting
from worker.providers.languages import speaks

HEALTHY_S: Final = 10.0
"""A worker that served a call so long did not die of it."""

MOST_DEATHS: Final = 3
"""In quick succession; the next one ends the call."""

CAREFUL_FROM: Final = 2
"""From this death on a call never gets the last ready worker."""

WAIT_S: Final = 30.0
"""How long a caller waits for a worker, hearing bridging words now and then. A replacement is ready in 0.3 s."""

_log = logs.get(__name__)


class Fate(StrEnum):
    """What a call that lost its worker gets."""

    WORKER = "worker"  # is when a ready worker may take it
    WAIT = "wait"  # is when none may
    END = "end"  # is when it has cost too many


def fate(deaths: int, ready: int) -> Fate:
    """Decide about a call on its `deaths`-th death in quick succession, with so many workers ready. Pure."""
    if deaths > MOST_DEATHS:
        return Fate.END
    return Fate.WORKER if ready > (deaths >= CAREFUL_FROM) else Fate.WAIT


class Rescue:
    """Resumes calls. `bridging` is what callers hear who wait, in its language; None when there is no such clip.

    It may be changed.
    """

    def __init__(self, house: House, bridging: Clip | None) -> None:
        self._house = house
        self.bridging = bridging
        self._waiting: dict[Call, Waiting] = {}

    @property
    def waiting(self) -> int:
        """How many workers the calls that wait need: one each, and one more while one of them may not have the last."""
        return len(self._waiting) + any(call.deaths >= CAREFUL_FROM for call in self._waiting)

    def worker_lost(self, call: Call, loss: Loss) -> None:
        """Do what can be done for a call whose worker is gone."""
        house, now = self._house, time.monotonic()
        call.deaths = call.deaths + 1 if now - call.bound_at < HEALTHY_S else 1
        call.lost_at, call.loss, call.worker, call.bridged = now, loss, None, False
        house.book.step(call, CallEvent.WORKER_LOST)
        if call.stream is None or loss is Loss.DRAINED:
            self._give_up(call, EndReason.DRAINED if loss is Loss.DRAINED else EndReason.WORKER_LOST)
        elif fate(call.deaths, ready=0) is Fate.END:
            self._give_up(call, EndReason.POISONED)
        elif not self._resume(call):
            self._wait(call)

    def ready(self) -> None:
        """Give a worker that can be given to the call that waits longest; called before anything else may take it."""
        for call in list(self._waiting):
            if not self._resume(call):
                return

    def resumed(self, call: Call, at: float) -> None:
        """Note that a successor serves a call since `at`."""
        self._house.metrics.failover(call.loss, Failover.RESUMED)
        self._house.metrics.resumed_after(at - call.lost_at)
        tracing_spans.resumed(call.incoming, call.lost_at, at, call.loss)

    def forget(self, call: Call) -> None:
        """Stop waiting for a call that has ended."""
        waiting = self._waiting.pop(call, None)
        if waiting is not None:
            waiting.leave()

    def _resume(self, call: Call) -> bool:
        house, now = self._house, time.monotonic()
        ready = [each for each in house.roster if each.available and now - each.beat_at < BEAT_LIMIT_S]
        if fate(call.deaths, len(ready)) is not Fate.WORKER or call.stream is None:
            return False
        for worker in sorted(ready, key=lambda each: each.parked_at):
            if self._give(call, worker):
                self.forget(call)
                self._bound(call, worker, now)
                return True
        return False

    def _give(self, call: Call, worker: Worker) -> bool:
        assert call.stream is not None  # noqa: S101 - asked by the caller
        bind = Bind(
            call=call.incoming,
            agent=call.agent,
            accepted_at=call.accepted_at,
            reserved_at=call.reserved_at,
            resume=Resume(
                number=call.resumes + 1,
                stream_sid=call.stream_sid,
                bridged=call.bridged,
                hung=call.loss is Loss.STALLED,
            ),
            seat=call.seat,
        )
        tape = () if call.tape is None else (call.tape,)
        return worker.give(bind, call.journal, call.stream.fileno(), *tape)

    def _bound(self, call: Call, worker: Worker, now: float) -> None:
        call.resumes += 1
        self._house.bind(call, worker, now)
        _log.warning(
            "call resumed",
            call_sid=call.sid,
            trace_id=call.incoming.trace_id,
            worker=worker.id,
            loss=call.loss.value,
            number=call.resumes,
            deaths=call.deaths,
            after_s=round(now - call.lost_at, 4),
        )

    def _wait(self, call: Call) -> None:
        assert call.stream is not None  # noqa: S101 - asked by the caller
        _log.warning("call waits for a worker", call_sid=call.sid, trace_id=call.incoming.trace_id, deaths=call.deaths)
        clip = self.bridging
        fits = clip is not None and speaks(clip.language, call.agent.language)
        self._waiting[call] = Waiting(call, clip.audio if clip is not None and fits else b"", self._hung_up)
        asyncio.get_running_loop().call_later(WAIT_S, self._waited, call, call.lost_at)

    def _waited(self, call: Call, lost_at: float) -> None:
        if call in self._waiting and call.lost_at == lost_at:
            self._give_up(call, EndReason.WORKER_LOST)

    def _hung_up(self, call: Call, why: EndReason) -> None:
        """Note that the caller left while waiting."""
        self._house.metrics.failover(call.loss, Failover.HUNG_UP)
        tracing_spans.resumed(call.incoming, call.lost_at, time.monotonic(), call.loss, ended=why)
        self.forget(call)
        self._house.ended(call, why)
        self._house.keeper.drop(call)

    def _give_up(self, call: Call, reason: EndReason) -> None:
        self._house.metrics.failover(call.loss, Failover.ENDED)
        tracing_spans.resumed(call.incoming, call.lost_at, time.monotonic(), call.loss, ended=reason)
        self.forget(call)
        self._house.ended(call, reason)
        self._house.keeper.close(call, CloseCode.INTERNAL_ERROR)
