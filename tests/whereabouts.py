"""Which process serves a call, read from the pool's log as it grows: who a test or the bench may kill."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.stack import Part


class Whereabouts:
    """Follows the log of a pool. Everything is as of the last `look`."""

    def __init__(self, pool: Part) -> None:
        self._pool = pool
        self._read = 0
        self._pids: dict[str, int] = {}
        self._serving: dict[str, str] = {}
        self._promised: dict[str, str] = {}

    def look(self) -> None:
        """Read what was logged since."""
        log = self._pool.log
        whole = log.rfind("\n") + 1
        for line in log[self._read : whole].splitlines():
            if line.startswith("{"):
                self._take(json.loads(line))
        self._read = whole

    def serving(self, call_sid: str) -> int | None:
        """Give the process id of the worker that serves a call; None when nobody has taken it yet."""
        self.look()
        return self._pids.get(self._serving.get(call_sid, ""))

    def promised(self, call_sid: str) -> int | None:
        """Give the process id of the worker first promised to a call; None when none is yet."""
        self.look()
        return self._pids.get(self._promised.get(call_sid, ""))

    def parked(self) -> list[int]:
        """Give the process ids of those that were never given to a call, the youngest last; some may have left."""
        self.look()
        given = {*self._serving.values(), *self._promised.values()}
        return [pid for worker, pid in self._pids.items() if worker not in given]

    def everybody(self) -> list[int]:
        """Give the process id of every worker that ever parked."""
        self.look()
        return list(self._pids.values())

    def _take(self, line: dict[str, Any]) -> None:
        match line:
            case {"event": "parked", "worker": worker, "pid": pid}:
                self._pids[worker] = pid
            case {"event": "reserved", "call_sid": sid, "worker": worker}:
                self._promised[sid] = worker
            case {"event": "bound" | "call resumed", "logger": logger, "call_sid": sid, "worker": worker} if (
                "worker.pool" in logger
            ):
                self._serving[sid] = worker
            case _:
                pass
