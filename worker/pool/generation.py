"""The pool's side of its zygote: starting one, asking it to fork, noticing that it is gone.

Each start is a generation. Workers of a former one are not touched when it dies.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

from shared import logs
from shared.channel import Channel
from shared.framing import FROM_ZYGOTE
from shared.messages import Alive, Fork
from shared.workers import WorkerId
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


class Generation:
    """One zygote, from its start to its end. `told` gets its messages; `lost` is called once when its process is gone."""

    def __init__(
        self, child: str, watch: Watch, told: Callable[[Any, list[int]], None], lost: Callable[[], None]
    ) -> None:
        self._watch = watch
        self._told = told
        self._lost = lost
        self.alive = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "worker.pool.zygote", "--control-fd", str(theirs.fileno()), "--child", child],
                env={**os.environ, **CHILD_ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # so that Ctrl-C reaches the pool alone, which drains
            )
        self._channel = Channel(ours, FROM_ZYGOTE, self._receive, self._silent)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._gone = asyncio.Event()
        self._watch.add(self._pidfd, self._ended)
        self._limit = asyncio.get_running_loop().call_later(LOAD_LIMIT_S, self.kill)

    @property
    def pid(self) -> int:
        """The zygote's process."""
        return self._process.pid

    def fork(self, worker: WorkerId, channel_fd: int) -> bool:
        """Ask for a worker that gets this end of its channel; False when the zygote cannot be reached."""
        return self._channel.send(Fork(worker=worker), channel_fd)

    def kill(self) -> None:
        """End it now: it hangs."""
        self._watch.kill(self._pidfd)

    async def leave(self) -> None:
        """Let it go: it leaves at the end of its control socket, or is killed."""
        self._limit.cancel()
        self._channel.close()
        try:
            async with asyncio.timeout(LEAVE_LIMIT_S):
                await self._gone.wait()
        except TimeoutError:
            self.kill()
            await self._gone.wait()

    def _receive(self, message: Any, fds: list[int]) -> None:
        if isinstance(message, Alive):
            self._limit.cancel()
            self.alive = True
        self._told(message, fds)

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
        self._lost()
