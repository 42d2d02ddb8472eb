"""Processes that want the CPU and nothing else, for tests of what starvation does."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOG = """
import os, sys, time
if sys.argv[2]:
    os.sched_setaffinity(0, {int(sys.argv[2])})
ends = time.monotonic() + float(sys.argv[1])
while time.monotonic() < ends:
    pass
"""


@contextlib.asynccontextmanager
async def hogs(count: int, seconds: float, *, cpu: int | None = None) -> AsyncIterator[None]:
    """Run that many processes for that long, all on one CPU when it is named; at the end wait for theirs.

    Each has a session of its own: Linux may share the CPU by session, and all of them together would count as one.
    """
    command = (sys.executable, "-I", "-S", "-c", HOG, str(seconds), "" if cpu is None else str(cpu))
    running: list[asyncio.subprocess.Process] = []
    try:
        for _ in range(count):
            running += [await asyncio.create_subprocess_exec(*command, start_new_session=True)]
        yield
        for hog in running:
            await hog.wait()
    finally:
        for hog in running:
            await _end(hog)


async def _end(hog: asyncio.subprocess.Process) -> None:
    if hog.returncode is None:
        hog.kill()
    await hog.wait()
