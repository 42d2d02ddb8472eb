"""The nursery: where workers come from. It keeps a zygote alive, has it fork, and ends what must be ended.

A dead zygote is replaced after a pause; the workers it forked are not touched: their pidfds are the pool's. So it is when
there is something new to load: a second zygote loads it beside the first, and takes its place only when it has loaded it.
The workers of the former generation are outdated then: parked ones are replaced by the plan, calls in progress go on.
"""

import asyncio
import contextlib
import functools
import os
import secrets
import socket
import time
from typing import Any, Final

from shared import logs
from shared.agents import Agents
from shared.channel import Channel, close_all
from shared.framing import FROM_WORKER
from shared.messages import Alive, Forked, ForkRefused, Reaped, WarmFailed
from shared.metrics import Loss
from shared.workers import WorkerEvent, WorkerState
from worker.pool import plan
from worker.pool.crew import Crew
from worker.pool.generation import Generation
from worker.pool.house import House
from worker.pool.pulse import Pulse
from worker.pool.roster import Worker
from worker.pool.troubles import Trouble, Troubles
from worker.pool.watch import Watch

_UNREADY: Final = frozenset({WorkerState.SPAWNED, WorkerState.WARMING})

_log = logs.get(__name__)


class Nursery:
    """Makes and ends workers' processes. `child` is the module that runs in them, `agents` are whom the first ones serve."""

    def __init__(self, child: str, agents: Agents, house: House, crew: Crew, troubles: Troubles) -> None:
        self._child = child
        self._agents = agents
        self._roster = house.roster
        self._metrics = house.metrics
        self._changed = house.changed
        self._crew = crew
        self._troubles = troubles
        self._watch = Watch()
        self._pulse = Pulse(house.roster, self._watch, self._stalled)
        self._zygote: Generation | None = None
        self._coming: Generation | None = None
        self._former: list[Generation] = []
        self._outcome: asyncio.Future[Trouble | None] | None = None  # of the one that is coming
        self._number = 0
        self._backoff = plan.Backoff()
        self._closing = False

    @property
    def open(self) -> bool:
        """Whether a zygote is there to fork."""
        return self._zygote is not None and self._zygote.alive

    @property
    def agents(self) -> Agents:
        """Whom workers that are forked now serve."""
        return self._agents

    def start(self) -> None:
        """Start a zygote, unless there is one or the pool is leaving."""
        if not self._closing and (self._zygote is None or self._zygote.gone):
            try:
                self._zygote = self._generation(self._agents)
            except OSError as error:
                self._troubles.note("zygote", f"it cannot be started: {error.strerror}", "", None)
                self._start_later(f"it cannot be started: {error.strerror}")
                self._changed()

    async def renew(self, agents: Agents) -> Trouble | None:
        """Start another zygote, which takes the place of the present one when it has loaded; gives why it has not.

        One at a time. A renewal that is cancelled has changed nothing.
        """
        try:
            coming = self._coming = self._generation(agents)
        except OSError as error:
            return Trouble("zygote", f"it cannot be started: {error.strerror}", "")
        self._outcome = asyncio.get_running_loop().create_future()
        try:
            return await self._outcome
        finally:
            self._outcome = None
            if self._coming is coming:
                self._coming = None
                coming.kill()

    def close(self) -> None:
        """Start no other zygote: the pool drains."""
        self._closing = True

    async def leave(self) -> None:
        """Let the zygotes go, and watch nobody any more."""
        for generation in (self._zygote, self._coming, *self._former):
            if generation is not None:
                await generation.leave()
        self._pulse.close()
        self._watch.close()

    def spawn(self) -> Worker:
        """Have a worker forked; gives it, though it is not born yet."""
        worker = self._roster.add(time.monotonic())
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self._unborn(worker, f"no channel to it can be made: {error.strerror}")
            return worker
        receive = functools.partial(self._crew.receive, worker)
        worker.channel = Channel(ours, FROM_WORKER, receive, functools.partial(self._silent, worker))
        zygote = self._zygote
        if zygote is not None:
            worker.generation, worker.agents = zygote.number, zygote.agents
        with theirs:
            asked = zygote is not None and zygote.fork(worker.id, theirs.fileno())
        if not asked:
            self._unborn(worker, "the zygote is gone")
        return worker

    def _generation(self, agents: Agents) -> Generation:
        self._number += 1
        made = Generation(self._number, agents, self._child, self._watch, self)
        _log.info("zygote started", pid=made.pid, generation=made.number)
        return made

    def _take_over(self, coming: Generation) -> None:
        """Have workers forked by another zygote from now on."""
        former, self._zygote, self._coming = self._zygote, coming, None
        self._agents = coming.agents
        if former is not None and not former.gone:
            self._former.append(former)
        for worker in self._roster:
            worker.outdated = worker.generation != coming.number
        self._settle_outcome(None)

    def _refuse(self, trouble: Trouble) -> None:
        """Give up a zygote that is coming; the first reason counts."""
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.kill()
        self._settle_outcome(trouble)

    def _settle_outcome(self, trouble: Trouble | None) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(trouble)

    def _dismiss_idle(self) -> None:
        for generation in self._former:
            if generation.idle:
                generation.dismiss()

    def _unborn(self, worker: Worker, why: str) -> None:
        self._crew.fail(worker, "zygote", why)
        self._crew.gone(worker)

    def kill(self, worker: Worker, why: str) -> None:
        """End a worker's process now."""
        worker.killed = True
        if worker.pidfd is not None:
            self._watch.kill(worker.pidfd)
        elif why != "drain":
            for generation in (self._zygote, *self._former):
                if generation is not None and generation.number == worker.generation:
                    generation.kill()  # it was asked for this worker and has not answered for half a minute
        if worker.state in _UNREADY:
            if why == "drain":
                self._roster.step(worker, WorkerEvent.FAIL, time.monotonic())
            else:
                self._crew.fail(worker, "timeout", f"not ready after {plan.WARM_LIMIT_S:.0f} s")
        if why != "drain":
            _log.warning("worker killed", worker=worker.id, pid=worker.pid, why=why, state=worker.state.value)

    def _stalled(self, worker: Worker) -> None:
        self.kill(worker, Loss.STALLED)
        self._changed()

    def _silent(self, worker: Worker, why: str) -> None:
        """Note that a worker's channel has ended. Usually its process has too; one that has not is of no use."""
        if why:
            _log.error("worker broke its channel", worker=worker.id, error=why)
        if worker.state is not WorkerState.IN_CALL:
            if worker.pidfd is not None:
                self._watch.kill(worker.pidfd)
        elif worker.call is None or not worker.call.streaming:
            self._crew.leaving(worker)
        self._changed()

    def lost(self, generation: Generation) -> None:
        """Do what follows from the end of a zygote."""
        if generation in self._former:
            self._former.remove(generation)
        if generation is self._coming:
            self._refuse(Trouble("zygote", "it ended before it had loaded", ""))
        for worker in self._roster:
            if worker.pid is None and worker.generation == generation.number:
                self._unborn(worker, "the zygote died")
        if generation is self._zygote and not self._closing:
            self._start_later("it has ended")
        self._changed()

    def _start_later(self, why: str) -> None:
        now = time.monotonic()
        self._backoff = self._backoff.failed(now, secrets.randbelow(1000) / 1000)
        _log.error("zygote is gone, starting another", why=why, in_s=round(self._backoff.until - now, 2))
        asyncio.get_running_loop().call_at(self._backoff.until, self.start)

    def told(self, generation: Generation, message: Any, fds: list[int]) -> None:
        """Take a message of a zygote."""
        match message:
            case Alive() | WarmFailed() if generation is self._coming:
                self._loaded(generation, message)
            case Forked() if len(fds) == 1:
                self._born(message, fds.pop())
            case Alive():
                _log.info("zygote is alive", warm_s=round(message.warm_s, 3), threads=message.threads)
                if message.threads == 1:
                    self._backoff = plan.Backoff()
                else:
                    self._troubles.note("zygote", f"has {message.threads} threads", "", time.monotonic())
                self._troubles.stand("loaded", message.problems)
            case ForkRefused():
                worker = self._roster.get(message.worker)
                if worker is not None:
                    self._unborn(worker, message.why)
            case WarmFailed():
                self._metrics.warmup_failed(message.resource)
                self._troubles.note(message.resource, message.detail, message.traceback, time.monotonic())
                _log.error("zygote cannot load", resource=message.resource, detail=message.detail)
            case Reaped():
                name, code = generation.reaped(message.pid), os.waitstatus_to_exitcode(message.status)
                if code:
                    _log.warning("worker exited", worker=name, pid=message.pid, code=code)
        close_all(fds)
        self._dismiss_idle()
        self._changed()

    def _loaded(self, coming: Generation, said: Alive | WarmFailed) -> None:
        """Hear how a zygote that is to take over has loaded."""
        if isinstance(said, WarmFailed):
            self._refuse(Trouble(said.resource, said.detail, said.traceback))
        elif said.threads != 1:
            self._refuse(Trouble("zygote", f"has {said.threads} threads", ""))
        elif broken := self._troubles.unheard("loaded", said.problems):  # at the start they would be left out
            self._refuse(Trouble(broken[0].resource, "\n".join(each.detail for each in broken), ""))
        else:
            self._troubles.stand("loaded", said.problems)
            _log.info("zygote takes over", generation=coming.number, warm_s=round(said.warm_s, 3))
            self._take_over(coming)

    def _born(self, message: Forked, pidfd: int) -> None:
        worker = self._roster.get(message.worker)
        if worker is None:  # its channel is closed: it leaves by itself
            with contextlib.suppress(OSError):
                os.close(pidfd)
            return
        self._watch.add(pidfd, functools.partial(self._crew.gone, worker))
        self._crew.born(worker, message.pid, pidfd)
        self._pulse.listen()
        if worker.killed:
            self._watch.kill(pidfd)
