"""Watching processes by pidfd: the one sure sign that a process is gone.

The end of a worker's socket pair is not: a child of one of its tools can hold the other end open for seconds.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable


class Watch:
    """Watches processes and says once of each that it is gone."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._gone: dict[int, Callable[[], None]] = {}

    def add(self, pidfd: int, gone: Callable[[], None]) -> None:
        """Watch a process; the pidfd is the watch's from now on."""
        self._gone[pidfd] = gone
        self._loop.add_reader(pidfd, self._fired, pidfd)

    def kill(self, pidfd: int) -> None:
        """Send SIGKILL; harmless when the process is gone or no longer watched."""
        self.send(pidfd, signal.SIGKILL)

    def send(self, pidfd: int, number: signal.Signals) -> None:
        """Send a signal; harmless when the process is gone or no longer watched."""
        if pidfd in self._gone:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)

    def close(self) -> None:
        """Stop watching."""
        for pidfd in list(self._gone):
            self._drop(pidfd)

    def _fired(self, pidfd: int) -> None:
        gone = self._drop(pidfd)
        # What the process said before it died is readable in this same turn of the loop: hear that first.
        self._loop.call_soon(gone)

    def _drop(self, pidfd: int) -> Callable[[], None]:
        self._loop.remove_reader(pidfd)
        with contextlib.suppress(ChildProcessError):  # not our child, or waited for by its zygote
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        os.close(pidfd)
        return self._gone.pop(pidfd)


def reap_orphans() -> None:
    """Wait for whatever has ended: the duty of process 1, which inherits everybody's orphans."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
