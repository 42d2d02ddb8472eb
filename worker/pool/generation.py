"""The pool's side of its zygote: starting one, asking it to fork, noticing that it is gone.

Each start is a generation. Workers of a former one are not touched when it dies. One that was replaced stays until the last
of its workers is gone, because it waits for their ends: nobody else can, and they would stay in the table of processes.
"""

import asyncio
from typing import Any, Final, Protocol

from shared import logs
from shared.agents import Agents
from shared.channel import Channel
from shared.framing import FROM_ZYGOTE
from shared.messages import Alive, Fork, Forked, ForkRefused
from shared.processes import Process
from shared.settings import environment
from shared.workers import WorkerId
from worker.pool.launch import launch
from worker.pool.watch import Watch

LOAD_LIMIT_S: Final = 120.0
"""Loading takes 1 to 2 s; a cold disk may need ten times that."""

LEAVE_LIMIT_S: Final = 5.0

CHILD_ENVIRONMENT: Final = {
    "ORT_DISABLE_TELEMETRY": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "LOGURU_AUTOINIT": "0",
}
"""Without the first three onnxruntime and numpy start threads, and what is forked beside a thread may hang at its exit
(measured). Without the last, Pipecat greets on stderr in its own format before our log takes it over."""

_log = logs.get(__name__)


class Parent(Protocol):
    """Who hears of a zygote: the nursery."""

    def told(self, generation: "Generation", message: Any, fds: list[int]) -> None:
        """Take a message of a zygote, with its descriptors."""

    def lost(self, generation: "Generation") -> None:
        """Note, once, that a zygote's process is gone."""


class Generation:
    """One zygote, from its start to its end.

    `number` tells it from the others; `agents` are those its workers serve. Making one raises OSError when it cannot be started.
    """

    def __init__(
        self,
        number: int,
        agents: Agents,
        child: str,
        watch: Watch,
        parent: Parent,
    ) -> None:
        self.number = number
        self.agents = agents
        self._watch = watch
        self._parent = parent
        self._unborn: set[WorkerId] = set()
        self._children: dict[int, WorkerId] = {}
        self.alive = False
        started = launch("worker.pool.zygote", ["--child", child], {**environment(Process.ZYGOTE), **CHILD_ENVIRONMENT})
        self._process, ours, self._pidfd = started
        self._channel = Channel(ours, FROM_ZYGOTE, self._receive, self._silent)
        self._gone = asyncio.Event()
        self._watch.add(self._pidfd, self._ended)
        self._limit = asyncio.get_running_loop().call_later(LOAD_LIMIT_S, self.kill)

    @property
    def pid(self) -> int:
        """The zygote's process."""
        return self._process.pid

    @property
    def gone(self) -> bool:
        """Whether its process has ended."""
        return self._gone.is_set()

    @property
    def idle(self) -> bool:
        """Whether it was asked for nothing that it has not done, and has no child that it has not waited for."""
        return not self._unborn and not self._children

    def reaped(self, pid: int) -> WorkerId | None:
        """Note that it has waited for a child; gives the worker that ran in it."""
        return self._children.pop(pid, None)

    def fork(self, worker: WorkerId, channel_fd: int) -> bool:
        """Ask for a worker that gets this end of its channel; False when the zygote cannot be reached."""
        asked = self._channel.send(Fork(worker=worker), channel_fd)
        if asked:
            self._unborn.add(worker)
        return asked

    def kill(self) -> None:
        """End it now: it hangs."""
        self._watch.kill(self._pidfd)

    def dismiss(self) -> None:
        """Let it go: it leaves at the end of its control socket, or is killed. Asking again changes nothing."""
        if self._channel.open:
            self._limit.cancel()
            self._channel.close()
            self._limit = asyncio.get_running_loop().call_later(LEAVE_LIMIT_S, self.kill)

    async def leave(self) -> None:
        """Let it go, and wait until it has gone."""
        self.dismiss()
        try:
            async with asyncio.timeout(LEAVE_LIMIT_S):
                await self._gone.wait()
        except TimeoutError:
            self.kill()
            await self._gone.wait()

    def _receive(self, message: Any, fds: list[int]) -> None:
        match message:
            case Alive():
                self._limit.cancel()
                self.alive = True
            case Forked():
                self._unborn.discard(message.worker)
                self._children[message.pid] = message.worker
            case ForkRefused():
                self._unborn.discard(message.worker)
        self._parent.told(self, message, fds)

    def _silent(self, why: str) -> None:
        if why:
            _log.error("zygote broke its protocol", error=why)
        self.alive = False
        self.kill()  # without its control socket it can do nothing but leave

    def _ended(self) -> None:
        self._process.poll()
        self.alive = False
        self._limit.cancel()
        self._channel.close()
        self._gone.set()
        self._parent.lost(self)
