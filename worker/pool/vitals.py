"""What the system and a worker itself say about its process: `/proc`, and the file its stack goes to.

`/proc/<pid>/schedstat` holds three numbers: nanoseconds on a CPU, nanoseconds waited for one, times run.
Source: the kernel's Documentation/scheduler/sched-stats.rst, section "/proc/<pid>/schedstat".
"""

import contextlib
import os
import time
from pathlib import Path
from typing import Final

from worker.pool.stall import Reading

MOST_LINES: Final = 40
MOST_BYTES: Final = 16_384
"""Of a stack: deep enough for a tool below the pipeline, little enough for one line of the log."""

_NS: Final = 1e-9
_PROC: Final = Path("/proc")


def read(pid: int) -> Reading | None:
    """Read the counters of all threads of a process and the state of its main thread.

    None when it is gone, and on a system that does not count: without counters a starved process would look stuck.
    """
    on_cpu: dict[int, float] = {}
    waited: dict[int, float] = {}
    folder = _PROC / str(pid)
    try:
        state = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
        for thread in (folder / "task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread may end while we look
                ran, waits = (thread / "schedstat").read_text(encoding="ascii").split()[:2]
                on_cpu[int(thread.name)], waited[int(thread.name)] = int(ran) * _NS, int(waits) * _NS
    except (OSError, IndexError, ValueError):
        return None
    return Reading(time.monotonic(), state, on_cpu, waited) if waited else None


def sleeps_in(pid: int) -> str:
    """Name the kernel function a process sleeps in; empty when it sleeps in none, or nobody may know."""
    try:
        name = (_PROC / str(pid) / "wchan").read_text(encoding="ascii")
    except OSError:
        return ""
    return "" if name == "0" else name


class StackFile:
    """The file in memory that a worker's stack is written to, by the worker's own signal handlers.

    The descriptor came with `Ready` and is this object's. Its offset is the writer's too, so it is read by position.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._read = 0

    def lines(self) -> list[str]:
        """Give what was written since the last time, at most 40 lines."""
        if self._fd < 0:
            return []
        try:
            data = os.pread(self._fd, MOST_BYTES, self._read)
        except OSError:  # a worker gave something else than a file: that must not cost its call
            return []
        self._read = os.fstat(self._fd).st_size
        text = data.decode("utf-8", errors="replace")
        return [line.strip() for line in text.splitlines() if line.strip()][:MOST_LINES]

    def close(self) -> None:
        """Let go of the file; harmless when that was done."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
