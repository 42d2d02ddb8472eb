"""Runs of tools by request: the same request again is the same run, while it goes on and for some minutes after.

A request is named by the call, the model's id of its tool call, and what is asked. Whoever asks while it runs joins. A run that
only reads is given up when nobody waits for it any more, and asked anew the next time; one that writes goes on, and its answer
is kept for the worker that takes the call over.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from worker.tools.registry import Outcome

KEEP_S: Final = 600.0
"""How long an answer is kept: a resumed call asks again within seconds."""

MOST_KEPT: Final = 1_000
"""Answers kept, of at most 16 kB each."""

Key = tuple[str, str]
"""Call SID, and the model's id of the tool call with what it asks for."""


class Run:
    """One run and those who wait for it."""

    def __init__(self, task: "asyncio.Task[Outcome]", *, reads: bool) -> None:
        self.task = task
        self.reads = reads
        self.waiting = 0
        self.ended_at = 0.0


class Runs:
    """All runs of a host that are under way or remembered."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._runs: OrderedDict[Key, Run] = OrderedDict()
        self._under_way = 0

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def under_way(self) -> int:
        """How many have not ended."""
        return self._under_way

    async def finish(self, within_s: float) -> None:
        """Let runs that write come to their end, for so long at most."""
        writing = [run.task for run in self._runs.values() if not run.reads and not run.task.done()]
        if writing:
            await asyncio.wait(writing, timeout=within_s)

    async def ask(self, key: Key, start: Callable[[], Awaitable[Outcome]], *, reads: bool) -> Outcome:
        """Give what comes of a request; `start` is called if it is a new one. Cancelled, it waits no more.

        `start` raises nothing.
        """
        run = self._runs.get(key)
        if run is None or self._stale(run):
            run = self._begin(key, start, reads=reads)
        run.waiting += 1
        try:
            return await asyncio.shield(run.task)
        finally:
            run.waiting -= 1
            if not run.waiting and run.reads and not run.task.done():
                run.task.cancel()
                self._forget(key, run)

    def _begin(self, key: Key, start: Callable[[], Awaitable[Outcome]], *, reads: bool) -> Run:
        run = Run(asyncio.ensure_future(_whole(start)), reads=reads)
        self._runs.pop(key, None)
        self._runs[key] = run
        self._under_way += 1
        run.task.add_done_callback(lambda _: self._ended(key, run))
        return run

    def _ended(self, key: Key, run: Run) -> None:
        self._under_way -= 1
        run.ended_at = self._now()
        if run.reads or run.task.cancelled() or run.task.exception() is not None:
            self._forget(key, run)
        elif self._runs.get(key) is run:
            self._runs.move_to_end(key)
        self._prune()

    def _prune(self) -> None:
        for key, run in list(self._runs.items()):
            if run.task.done() and (self._stale(run) or len(self._runs) > MOST_KEPT + self._under_way):
                del self._runs[key]
            elif run.task.done():
                return  # those that ended stand in the order of their ends

    def _forget(self, key: Key, run: Run) -> None:
        if self._runs.get(key) is run:
            del self._runs[key]

    def _stale(self, run: Run) -> bool:
        return run.task.done() and self._now() - run.ended_at > KEEP_S


async def _whole(start: Callable[[], Awaitable[Outcome]]) -> Outcome:
    return await start()
