"""What a pool writes to Redis: its lease, end reasons, copies of journals. None of it is ever waited for by a caller.

An outage is logged once, when it begins; journals catch up when it ends.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from shared import logs
from shared.calls import CallSid, EndReason
from shared.errors import ReadinessUnavailable
from shared.messages import Entry
from shared.readiness import PoolDirectory, PoolRecord
from shared.records import CallRecords
from worker.pool.book import Call

LEASE_EVERY_S: Final = 1.0
"""A third of the lease's life: two renewals may fail."""

STORE_WAIT_S: Final = 0.3
"""How long the end of a call waits for Redis before the stream is closed all the same."""

WITHDRAW_WAIT_S: Final = 0.5

_log = logs.get(__name__)


class Copies:
    """Writes to Redis. `run` keeps the lease and the journals.

    `record` gives the lease's content when it is due; `up` is told at each renewal whether Redis took it.
    """

    def __init__(
        self,
        records: CallRecords,
        directory: PoolDirectory,
        record: Callable[[], PoolRecord],
        up: Callable[[bool], None],
    ) -> None:
        self._up = up
        self._records = records
        self._directory = directory
        self._record = record
        self._away: set[str] = set()
        self._copied: dict[CallSid, int] = {}
        self._journals: dict[CallSid, list[Entry]] = {}
        self._over: set[CallSid] = set()
        self._news = asyncio.Event()

    async def store_end(self, call: Call, reason: EndReason) -> None:
        """Store an end reason, for at most 300 ms; then the router has only this pool to ask."""
        try:
            async with asyncio.timeout(STORE_WAIT_S):
                await self._records.store_end(call.sid, call.attempt, reason)
        except (TimeoutError, ReadinessUnavailable) as error:
            self._failed("end reason", error)
        else:
            self._worked("end reason")

    def append(self, call: Call, entry: Entry) -> None:
        """Copy a journal entry, soon."""
        self._journals.setdefault(call.sid, []).append(entry)
        self._news.set()

    def over(self, call: Call) -> None:
        """Delete the copy of a call's journal, soon."""
        written = self._journals.pop(call.sid, None) is not None or call.sid in self._copied
        if written or call.attempt:  # a call that came back has a copy by its former pool
            self._over.add(call.sid)
            self._news.set()

    async def run(self) -> None:
        """Write until cancelled, through every outage."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_lease())
            tasks.create_task(self._keep_journals())

    async def withdraw(self) -> None:
        """Give the lease back, so that nobody waits for it to expire."""
        try:
            async with asyncio.timeout(WITHDRAW_WAIT_S):
                await self._directory.withdraw(self._record().pool)
        except (TimeoutError, ReadinessUnavailable) as error:
            self._failed("lease", error)

    async def _keep_lease(self) -> None:
        while True:
            try:
                await self._directory.publish(self._record())
            except ReadinessUnavailable as error:
                self._failed("lease", error)
                self._up(False)
            else:
                self._worked("lease")
                self._up(True)
            await asyncio.sleep(LEASE_EVERY_S)

    async def _keep_journals(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._copy()
            except ReadinessUnavailable as error:
                self._failed("journal", error)
                await asyncio.sleep(LEASE_EVERY_S)
                self._news.set()
            else:
                self._worked("journal")

    async def _copy(self) -> None:
        for call_sid in list(self._over):
            await self._records.delete_journal(call_sid)
            self._over.discard(call_sid)
            self._copied.pop(call_sid, None)
        for call_sid, entries in list(self._journals.items()):
            done = self._copied.get(call_sid, 0)
            if len(entries) > done:
                upto = len(entries)
                await self._records.append_journal(call_sid, entries[done:upto])
                if call_sid not in self._over:
                    self._copied[call_sid] = upto

    def _failed(self, what: str, error: Exception) -> None:
        if what not in self._away:
            self._away.add(what)
            _log.warning("redis does not take what this pool writes", what=what, error=str(error))

    def _worked(self, what: str) -> None:
        if what in self._away:
            self._away.discard(what)
            _log.info("redis takes what this pool writes again", what=what)
