"""What a pool writes to Redis: its lease, end reasons, copies of journals. None of it is ever waited for by a caller.

An outage is logged once, when it begins; when it ends everything catches up: journals are copied whole, also when Redis
has forgotten them, and end reasons that were not taken are stored.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from shared.calls import CallSid, EndReason
from shared.errors import ReadinessUnavailable
from shared.outage import Outage
from shared.readiness import PoolDirectory, PoolRecord
from shared.records import CallRecords, JournalCopy
from worker.pool.book import Call

LEASE_EVERY_S: Final = 1.0
"""A third of the lease's life: two renewals may fail."""

STORE_WAIT_S: Final = 0.3
"""How long the end of a call waits for Redis before the stream is closed all the same."""

RENEW_S: Final = 300.0
"""A third of a journal's life: the copy of a call in which nothing is said must not expire."""

LATE_ENDS: Final = 10_000
"""How many end reasons wait for Redis at most: of a pool that ends more in one outage, the oldest are forgotten."""

WITHDRAW_WAIT_S: Final = 0.5
"""How long a pool that leaves waits for Redis, once for what is left to write and once for its lease."""


class Copies:
    """Writes to Redis. `run` keeps the lease and the journals.

    `record` gives the lease's content when it is due; `up` is told at each renewal whether Redis took it. Without
    `journals` none is copied: a call then resumes only as long as its pool lives.
    """

    def __init__(  # noqa: PLR0913 - the two at the end have defaults
        self,
        records: CallRecords,
        directory: PoolDirectory,
        record: Callable[[], PoolRecord],
        up: Callable[[bool], None],
        *,
        journals: bool = True,
        outage: Outage | None = None,
    ) -> None:
        self._outage = outage or Outage("redis")
        self._up = up
        self._records = records
        self._directory = directory
        self._record = record
        self._with_journals = journals
        self._calls: dict[CallSid, Call] = {}
        self._copies: dict[CallSid, JournalCopy] = {}
        self._over: set[CallSid] = set()
        self._late_ends: dict[tuple[CallSid, int], tuple[EndReason, str]] = {}  # with whom to dial
        self._news = asyncio.Event()

    async def store_end(self, call: Call, reason: EndReason) -> None:
        """Store an end reason, for at most 300 ms; until it is stored later, the router has only this pool to ask."""
        try:
            async with asyncio.timeout(STORE_WAIT_S):
                await self._records.store_end(call.sid, call.attempt, reason, call.agent.dials(reason))
        except (TimeoutError, ReadinessUnavailable) as error:
            self._failed("journal", error)  # which is written together with late ends
            self._late_ends[call.sid, call.attempt] = reason, call.agent.dials(reason)
            while len(self._late_ends) > LATE_ENDS:
                del self._late_ends[next(iter(self._late_ends))]
            self._news.set()

    def append(self, call: Call) -> None:
        """Copy what is new in a call's journal, soon."""
        if self._with_journals:
            self._calls[call.sid] = call
            self._news.set()

    def over(self, call: Call) -> None:
        """Delete the copy of a call's journal, soon."""
        self._calls.pop(call.sid, None)
        if call.sid in self._copies or (call.attempt and self._with_journals):  # its former pool has left a copy
            self._over.add(call.sid)
            self._news.set()

    async def run(self) -> None:
        """Write until cancelled, through every outage."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_lease())
            tasks.create_task(self._keep_journals())

    async def withdraw(self) -> None:
        """Write what is left, then give the lease back, so that nobody waits for it to expire."""
        pool = self._record().pool
        for what, write in (("journal", self._write), ("lease", lambda: self._directory.withdraw(pool))):
            try:
                async with asyncio.timeout(WITHDRAW_WAIT_S):
                    await write()
            except (TimeoutError, ReadinessUnavailable) as error:
                self._failed(what, error)

    async def _keep_lease(self) -> None:
        while True:
            try:
                known = await self._directory.publish(self._record())
            except ReadinessUnavailable as error:
                self._failed("lease", error)
                self._up(False)
            else:
                self._outage.back("lease")
                self._up(True)
                if not known:
                    self._doubt()
            await asyncio.sleep(LEASE_EVERY_S)

    async def _keep_journals(self) -> None:
        while True:
            try:
                async with asyncio.timeout(RENEW_S):
                    await self._news.wait()
            except TimeoutError:
                self._doubt()
            self._news.clear()
            try:
                await self._write()
            except ReadinessUnavailable as error:
                self._failed("journal", error)
                await asyncio.sleep(LEASE_EVERY_S)
                self._news.set()
            else:
                self._outage.back("journal")

    def _doubt(self) -> None:
        """Look at every copy: Redis may have forgotten it, or will soon."""
        for copy in self._copies.values():
            copy.doubt()
        self._news.set()

    async def _write(self) -> None:
        """Write everything that is due, ends first: a journal without an end tells of a call that was cut off."""
        for (call_sid, attempt), (reason, dial) in list(self._late_ends.items()):
            await self._records.store_end(call_sid, attempt, reason, dial)
            self._late_ends.pop((call_sid, attempt), None)
        for call_sid in list(self._over):
            await self._records.delete_journal(call_sid)
            self._over.discard(call_sid)
            self._copies.pop(call_sid, None)
        for call_sid, call in list(self._calls.items()):
            if self._calls.get(call_sid) is call:  # it may have ended meanwhile
                copy = self._copies.setdefault(call_sid, JournalCopy(self._records, call_sid))
                await copy.update(call.journal)

    def _failed(self, what: str, error: Exception) -> None:
        self._outage.away(str(error) or "slow", what)
