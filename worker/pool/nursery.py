"""The nursery: where workers come from. It keeps a zygote alive, has it fork, and ends what must be ended.

A dead zygote is replaced after a pause; the workers it forked are not touched: their pidfds are the pool's.
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
from shared.channel import Channel, close_all
from shared.messages import FROM_WORKER, Alive, Forked, ForkRefused, Reaped, WarmFailed
from shared.metrics import Loss
from shared.workers import WorkerEvent, WorkerId, WorkerState
from worker.pool import plan
from worker.pool.crew import Crew
from worker.pool.generation import Generation
from worker.pool.house import House
from worker.pool.pulse import Pulse
from worker.pool.roster import Worker
from worker.pool.troubles import Troubles
from worker.pool.watch import Watch

_UNREADY: Final = frozenset({WorkerState.SPAWNED, WorkerState.WARMING})

_log = logs.get(__name__)


class Nursery:
    """Makes and ends workers' processes. `child` is the module that runs in them."""

    def __init__(self, child: str, house: House, crew: Crew, troubles: Troubles) -> None:
        self._child = child
        self._roster = house.roster
        self._metrics = house.metrics
        self._changed = house.changed
        self._crew = crew
        self._troubles = troubles
        self._watch = Watch()
        self._pulse = Pulse(house.roster, self._watch, self._stalled)
        self._zygote: Generation | None = None
        self._backoff = plan.Backoff()
        self._by_pid: dict[int, WorkerId] = {}
        self._closing = False

    @property
    def open(self) -> bool:
        """Whether a zygote is there to fork."""
        return self._zygote is not None and self._zygote.alive

    def start(self) -> None:
        """Start a zygote, unless the pool is leaving."""
        if not self._closing:
            self._zygote = Generation(self._child, self._watch, self._told, self._lost)
            _log.info("zygote started", pid=self._zygote.pid)

    def close(self) -> None:
        """Start no other zygote: the pool drains."""
        self._closing = True

    async def leave(self) -> None:
        """Let the zygote go, and watch nobody any more."""
        if self._zygote is not None:
            await self._zygote.leave()
        self._pulse.close()
        self._watch.close()

    def spawn(self) -> None:
        """Have a worker forked."""
        worker = self._roster.add(time.monotonic())
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        receive = functools.partial(self._crew.receive, worker)
        worker.channel = Channel(ours, FROM_WORKER, receive, functools.partial(self._silent, worker))
        with theirs:
            asked = self._zygote is not None and self._zygote.fork(worker.id, theirs.fileno())
        if not asked:
            self._unborn(worker, "the zygote is gone")

    def _unborn(self, worker: Worker, why: str) -> None:
        self._crew.fail(worker, "zygote", why)
        self._crew.gone(worker)

    def kill(self, worker: Worker, why: str) -> None:
        """End a worker's process now."""
        worker.killed = True
        if worker.pidfd is not None:
            self._watch.kill(worker.pidfd)
        elif why != "drain" and self._zygote is not None:
            self._zygote.kill()  # it was asked for this worker and has not answered for half a minute
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

    def _lost(self) -> None:
        self._by_pid.clear()
        for worker in self._roster:
            if worker.pid is None:
                self._unborn(worker, "the zygote died")
        if not self._closing:
            now = time.monotonic()
            self._backoff = self._backoff.failed(now, secrets.randbelow(1000) / 1000)
            _log.error("zygote is gone, starting another", in_s=round(self._backoff.until - now, 2))
            asyncio.get_running_loop().call_at(self._backoff.until, self.start)
        self._changed()

    def _told(self, message: Any, fds: list[int]) -> None:
        match message:
            case Forked() if len(fds) == 1:
                self._born(message, fds.pop())
            case Alive():
                _log.info("zygote is alive", warm_s=round(message.warm_s, 3), threads=message.threads)
                if message.threads == 1:
                    self._backoff = plan.Backoff()
                else:
                    self._troubles.note("zygote", f"has {message.threads} threads", "", time.monotonic())
            case ForkRefused():
                worker = self._roster.get(message.worker)
                if worker is not None:
                    self._unborn(worker, message.why)
            case WarmFailed():
                self._metrics.warmup_failed(message.resource)
                self._troubles.note(message.resource, message.detail, message.traceback, time.monotonic())
                _log.error("zygote cannot load", resource=message.resource, detail=message.detail)
            case Reaped():
                name, code = self._by_pid.pop(message.pid, None), os.waitstatus_to_exitcode(message.status)
                if code:
                    _log.warning("worker exited", worker=name, pid=message.pid, code=code)
        close_all(fds)
        self._changed()

    def _born(self, message: Forked, pidfd: int) -> None:
        worker = self._roster.get(message.worker)
        if worker is None:  # its channel is closed: it leaves by itself
            with contextlib.suppress(OSError):
                os.close(pidfd)
            return
        self._by_pid[message.pid] = worker.id
        self._watch.add(pidfd, functools.partial(self._crew.gone, worker))
        self._crew.born(worker, message.pid, pidfd)
        self._pulse.listen()
        if worker.killed:
            self._watch.kill(pidfd)
