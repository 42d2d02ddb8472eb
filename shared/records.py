"""What happened to a call, kept in Redis beyond the life of its pool: its end reason and a copy of its journal.

Only the pool that holds the call writes here, or the call's worker once that pool is gone; a router asks then. All of it
expires within 15 minutes.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared import keys, logs, redis_door
from shared.calls import CallSid, EndReason
from shared.errors import ReadinessUnavailable
from shared.messages import Entry

_log = logs.get(__name__)
_entry: Final = msgspec.json.Decoder(Entry)


class CallRecords(Protocol):
    """The records of calls. Every method raises ReadinessUnavailable when Redis does not answer."""

    async def store_end(self, call_sid: CallSid, attempt: int, reason: EndReason, dial: str = "") -> None:
        """Store why an attempt of a call ended, and whom to dial then (empty for nobody); the first reason stays."""

    async def end_of(self, call_sid: CallSid, attempt: int) -> EndReason | None:
        """Give the end reason of an attempt; None when none is stored."""

    async def write_journal(self, call_sid: CallSid, at: int, entries: Sequence[Entry]) -> bool:
        """Write entries from position `at` of a journal's copy on, in place of what stood there; renew its time to live.

        Says whether the copy is whole now: False when what should stand before `at` is not there. Writing the same again
        changes nothing, so a write whose answer was lost may be repeated.
        """

    async def journal_of(self, call_sid: CallSid) -> list[Entry]:
        """Give the copy of a call's journal, oldest first; empty when there is none."""

    async def delete_journal(self, call_sid: CallSid) -> None:
        """Forget what was said: the call is over."""


class Records:
    """The records in Redis (`CallRecords`); `client` is a command client and stays the caller's."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def store_end(self, call_sid: CallSid, attempt: int, reason: EndReason, dial: str = "") -> None:
        """Store why an attempt of a call ended; the first reason stays, because ENDED is final."""
        text = f"{reason.value} {dial}".rstrip()
        try:
            await self._client.set(keys.end(call_sid, attempt), text, ex=keys.END_TTL_S, nx=True)
        except (RedisError, OSError) as error:
            raise ReadinessUnavailable(redis_door.words(error)) from error

    async def end_of(self, call_sid: CallSid, attempt: int) -> EndReason | None:
        """Give the end reason of an attempt; None when none is stored, or one that this version does not know."""
        try:
            text = await self._client.get(keys.end(call_sid, attempt))
        except (RedisError, OSError) as error:
            raise ReadinessUnavailable(redis_door.words(error)) from error
        return read_end(call_sid, None if text is None else str(text))[0]

    async def write_journal(self, call_sid: CallSid, at: int, entries: Sequence[Entry]) -> bool:
        """Write entries from position `at` on, in place of what stood there; say whether the copy is whole now.

        A position, not an append: a Redis that hung may still carry out a write that was given up and repeated.
        """
        key = keys.journal(call_sid)
        async with self._client.pipeline(transaction=True) as pipe:
            if at:
                pipe.ltrim(key, 0, at - 1)
            else:
                pipe.delete(key)
            if entries:
                pipe.rpush(key, *(msgspec.json.encode(entry).decode() for entry in entries))
            pipe.expire(key, keys.JOURNAL_TTL_S)
            pipe.llen(key)
            try:
                length = (await pipe.execute())[-1]
            except (RedisError, OSError) as error:
                raise ReadinessUnavailable(redis_door.words(error)) from error
        return bool(length == at + len(entries))

    async def journal_of(self, call_sid: CallSid) -> list[Entry]:
        """Give the copy of a call's journal, oldest first; an entry that cannot be read is logged and left out."""
        try:
            texts = await self._client.lrange(keys.journal(call_sid), 0, -1)
        except (RedisError, OSError) as error:
            raise ReadinessUnavailable(redis_door.words(error)) from error
        entries: list[Entry] = []
        for text in texts:
            try:
                entries.append(_entry.decode(text))
            except msgspec.DecodeError as error:
                _log.warning("unreadable journal entry", call_sid=call_sid, error=str(error))
        return entries

    async def delete_journal(self, call_sid: CallSid) -> None:
        """Forget what was said: the call is over."""
        try:
            await self._client.delete(keys.journal(call_sid))
        except (RedisError, OSError) as error:
            raise ReadinessUnavailable(redis_door.words(error)) from error


def read_end(call_sid: CallSid, text: str | None) -> tuple[EndReason | None, str]:
    """Read a stored end: its reason, None when none is stored or one that this version does not know, and whom to dial."""
    said, _, dial = (text or "").partition(" ")
    try:
        return (None if text is None else EndReason(said)), dial
    except ValueError:
        _log.warning("unknown end reason", call_sid=call_sid, stored=said[:40])
        return None, ""


class JournalCopy:
    """The copy of one call's journal, kept up with an original that only grows.

    It is whole again after every outage, also after one in which Redis forgot it.
    """

    def __init__(self, records: CallRecords, call_sid: CallSid, copied: int = 0) -> None:
        self._records = records
        self._call_sid = call_sid
        self._copied = copied
        self._doubted = False

    def doubt(self) -> None:
        """Look at the next update whether everything is still there."""
        self._doubted = True

    async def update(self, journal: Sequence[Entry]) -> None:
        """Bring the copy up to the original as it is now; a journal that is no news is not written.

        Raises:
            ReadinessUnavailable: Redis did not take it; the next update begins where this one did.
        """
        entries, done = list(journal), self._copied
        if len(entries) == done and not self._doubted:
            return
        if not await self._records.write_journal(self._call_sid, done, entries[done:]):
            await self._records.write_journal(self._call_sid, 0, entries)
        self._copied, self._doubted = len(entries), False
