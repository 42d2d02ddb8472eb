"""The stage of a chaos test: the installation, who serves whom in it, and the means to do harm from outside.

Whatever is done here is done to processes by the ids that the installation itself names, and undone at the end of the
turn it was done in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.pool_process import lives
from tests.stack import Plan, Stack
from tests.standins.carrier_settings import CallFailed
from tests.whereabouts import Whereabouts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.standins.carrier_call import Call

READY = 5


class Stage:
    """Use with `async with`; the logs stay in `logs` until somebody removes them."""

    def __init__(self, logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.counted = logs / "counted"
        self.counted.touch()
        env = {"COUNTED_FILE": str(self.counted), "SILENCE_TIMEOUT": "60", "LOG_LEVEL": "INFO"}
        self.stack = Stack(Plan(pool_ready=READY, child="tests.chaos_child", env=env, logs=logs))
        self.counting = asyncio.Lock()  # one caller at a time has the counting tool run
        self.harming = asyncio.Lock()  # one part of the installation is in trouble at a time
        self._where: Whereabouts | None = None
        self._looking = threading.Lock()

    async def __aenter__(self) -> Self:
        await self.stack.__aenter__()
        self._where = Whereabouts(self.stack.pool)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.run(self._let_go)
        workers = self._where.everybody() if self._where is not None else []
        await self.stack.__aexit__()
        for pid in workers:
            if _is_worker(pid):  # stopped, and its pool was killed before it found out
                await self.hit(pid, signal.SIGKILL)

    def _let_go(self) -> None:
        """Have everybody go on who was stopped: a stopped process cannot end in good order."""
        if self.stack.redis.running:
            os.kill(self.stack.redis.pid, signal.SIGCONT)

    # --- who is where -----------------------------------------------------------------------------------------------

    async def serving(self, call: Call) -> int:
        """Give the process of the worker that serves a call now."""
        return await self._pid(lambda where: where.serving(call.call_sid), "somebody serves the call")

    async def promised(self, call: Call) -> int:
        """Give the process of the worker that was promised to a call."""
        return await self._pid(lambda where: where.promised(call.call_sid), "somebody is promised to the call")

    async def parked(self) -> int:
        """Give the process of a worker that waits for its call."""
        return await self._pid(
            lambda where: next((pid for pid in reversed(where.parked()) if lives(pid)), None), "somebody is parked"
        )

    async def _pid(self, look: Callable[[Whereabouts], int | None], what: str) -> int:
        where = self._where
        assert where is not None

        def locked() -> int | None:
            with self._looking:  # several callers look from threads of their own
                return look(where)

        pid: int = await self.stack.until(locked, what)
        return pid

    def runs(self) -> int:
        """Count how often the counting tool has begun."""
        return len(self.counted.read_text(encoding="utf-8").splitlines())

    # --- harm -------------------------------------------------------------------------------------------------------

    async def hit(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a worker; it may have been faster and left."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    async def zygote(self) -> int:
        """Give the process of the latest zygote."""
        lines = await asyncio.to_thread(self.stack.pool.lines)
        return [int(line["pid"]) for line in lines if line["event"] == "zygote started"][-1]

    async def burst(self, count: int) -> list[str]:
        """Place calls at the same moment; give what went wrong with those that were neither served nor held."""
        async with self.stack.carrier() as carrier:
            calls = await asyncio.gather(*(carrier.dial() for _ in range(count)))
            wrong = [f"a call of a burst got {call.verbs}" for call in calls if not await _taken(call)]
            await asyncio.gather(*(call.hangup() for call in calls))
            for call in calls:
                await call.ended()
        return wrong

    async def run(self, work: Callable[[], Any]) -> None:
        """Do something that blocks."""
        await asyncio.to_thread(work)


def _is_worker(pid: int) -> bool:
    """Say whether a process is a worker still: its number may be another's by now."""
    try:
        return b"worker.pool.zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


async def _taken(call: Call) -> bool:
    """Say whether a call of a burst hears the agent, or that it has to wait."""
    try:
        await call.until(lambda: bool(call.heard.spans or call.spoken))
    except CallFailed:
        return bool(call.spoken) and "Hangup" not in call.verbs
    return True
