"""What a worker does in its pool's place when that is gone: it keeps the records of its call in Redis.

Somebody who finds a journal, no end reason and no living pool takes the call for cut off and calls the caller's stream
back. So the orphan goes on with the copy of the journal, as a sign of life for the case that it dies too, and at the end it
stores the reason and deletes the copy before the stream is closed: slowly rather than not at all.

Importing the Redis client takes 0.3 s of CPU and 20 MB (measured), which all calls of a dead pool would need at the same
moment; so the zygote has it, and its forks share it. It connects in an orphan only. Metrics are lost with the pool.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Final

from shared import logs, redis_door
from shared.agents import Agent
from shared.callrecord import record_of
from shared.calls import EndReason, IncomingCall
from shared.errors import ReadinessUnavailable
from shared.left_records import Outbox
from shared.messages import Bind, Ending, Entry, Message
from shared.records import CallRecords, JournalCopy, Records
from shared.settings import Settings

STORE_WAIT_S: Final = 5.0
"""How long the stream of an orphaned call stays open for Redis to take the end reason: nobody else knows it."""

LATE_S: Final = 30.0
"""How long storing it is tried after that, before the process ends: a restart of Redis takes seconds."""

MOST_KEPT: Final = 4_000
"""How many entries a worker remembers: an hour of talk has a few hundred. Beyond it the older half is forgotten."""

log = logs.get(__name__)


class Orphan:
    """Keeps a call's records when the pool cannot. It listens from the beginning: entries under way die with the pool."""

    def __init__(self, settings: Settings) -> None:
        self._redis_url = settings.redis_url
        self._with_journal = settings.journal_in_redis
        self._keeps_records = settings.keeps_records
        self._call: IncomingCall | None = None
        self._agent = Agent()
        self._accepted_at = 0.0
        self._entries: list[Entry] = []
        self._copy: JournalCopy | None = None
        self._reason: EndReason | None = None
        self._news = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def serve(self, bind: Bind, journal: Iterable[Entry]) -> None:
        """Note which call this worker serves, and what its predecessors wrote."""
        self._call, self._agent = bind.call, bind.agent
        self._accepted_at = time.time() - (time.monotonic() - bind.accepted_at)
        self._entries = [*journal, *self._entries]

    def note(self, message: Message) -> None:
        """Hear what the worker tells its pool, whether that hears it or not."""
        match message:
            case Entry():
                self._remember(message)
            case Ending():
                self._reason = message.reason
            case _:
                return
        self._news.set()

    async def run(self, stored: Callable[[], None]) -> None:
        """Take the pool's place, until the end reason is in Redis (`stored` is called then)."""
        assert self._call is not None  # noqa: S101 - only a worker in a call is orphaned
        self._running = asyncio.current_task()
        client = redis_door.commands(self._redis_url)
        try:
            await self._keep(Records(client), Outbox(client), self._call)
        finally:
            await client.aclose()
        stored()

    async def leave(self) -> None:
        """Give the end reason a last chance to be stored; at once where there is a pool."""
        if self._running is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LATE_S):
                await asyncio.shield(self._running)
                return
        log.error("the end reason was not stored", end_reason=self._reason)

    async def _keep(self, records: CallRecords, outbox: Outbox, call: IncomingCall) -> None:
        backoff, away = redis_door.Backoff(), False
        self._news.set()
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                if self._reason is not None:
                    await records.store_end(call.call_sid, call.attempt, self._reason, self._agent.dials(self._reason))
                    await self._leave_record(records, outbox, call, self._reason)
                    await records.delete_journal(call.call_sid)
                    return
                await self._copy_journal(records, call)
            except ReadinessUnavailable as error:
                if not away:
                    log.warning("redis does not take what an orphaned call writes", error=str(error))
                away = True
                with contextlib.suppress(TimeoutError):  # its end is tried at once
                    async with asyncio.timeout(backoff.next()):
                        await self._news.wait()
                self._news.set()
            else:
                backoff.reset()
                away = False

    async def _leave_record(self, records: CallRecords, outbox: Outbox, call: IncomingCall, reason: EndReason) -> None:
        """Leave the record of the call where the prefetchers find it; twice is once."""
        if not self._keeps_records:
            return
        copied = await records.journal_of(call.call_sid) if self._copy is None else []
        await outbox.put(
            record_of(call, self._agent.name, reason, self._joined(copied), (self._accepted_at, time.time()))
        )

    def _joined(self, copied: list[Entry]) -> list[Entry]:
        """Put what the pool had not written yet behind its copy, in which there may be what an earlier worker said."""
        known = set(copied)
        return copied + [entry for entry in self._entries if entry not in known]

    async def _copy_journal(self, records: CallRecords, call: IncomingCall) -> None:
        if not self._with_journal:
            return
        if self._copy is None:
            copied = await records.journal_of(call.call_sid)
            self._entries = self._joined(copied)
            self._copy = JournalCopy(records, call.call_sid, len(copied))
            log.info("an orphaned call keeps its journal", copied=len(copied), entries=len(self._entries))
        await self._copy.update(self._entries)

    def _remember(self, entry: Entry) -> None:
        self._entries.append(entry)
        if len(self._entries) > MOST_KEPT:
            del self._entries[: MOST_KEPT // 2]
            self._copy = None  # its positions have moved: it begins again with what Redis has
