"""What happened to a call, kept in Redis beyond the life of its pool: its end reason and a copy of its journal.

Only the pool that holds the call writes here; a router asks when that pool is gone. All of it expires within 15 minutes.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared import keys, logs
from shared.calls import CallSid, EndReason
from shared.errors import ReadinessUnavailable
from shared.messages import Entry

_log = logs.get(__name__)
_entry: Final = msgspec.json.Decoder(Entry)


class CallRecords(Protocol):
    """The records of calls. Every method raises ReadinessUnavailable when Redis does not answer."""

    async def store_end(self, call_sid: CallSid, attempt: int, reason: EndReason) -> None:
        """Store why an attempt of a call ended; the first reason stays."""

    async def end_of(self, call_sid: CallSid, attempt: int) -> EndReason | None:
        """Give the end reason of an attempt; None when none is stored."""

    async def append_journal(self, call_sid: CallSid, entries: Sequence[Entry]) -> None:
        """Append to the copy of a call's journal and renew its time to live."""

    async def journal_of(self, call_sid: CallSid) -> list[Entry]:
        """Give the copy of a call's journal, oldest first; empty when there is none."""

    async def delete_journal(self, call_sid: CallSid) -> None:
        """Forget what was said: the call is over."""


class Records:
    """The records in Redis (`CallRecords`); `client` is a command client and stays the caller's."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def store_end(self, call_sid: CallSid, attempt: int, reason: EndReason) -> None:
        """Store why an attempt of a call ended; the first reason stays, because ENDED is final."""
        try:
            await self._client.set(keys.end(call_sid, attempt), reason.value, ex=keys.END_TTL_S, nx=True)
        except (RedisError, OSError) as error:
            raise ReadinessUnavailable(str(error)) from error

    async def end_of(self, call_sid: CallSid, attempt: int) -> EndReason | None:
        """Give the end reason of an attempt; None when none is stored, or one that this version does not know."""
        try:
            text = await self._client.get(keys.end(call_sid, attempt))
        except (RedisError, OSError) as error:
            raise ReadinessUnavailable(str(error)) from error
        if text is None:
            return None
        try:
            return EndReason(str(text))
        except ValueError:
            _log.warning("unknown end reason", call_sid=call_sid, stored=text)
            return None

    async def append_journal(self, call_sid: CallSid, entries: Sequence[Entry]) -> None:
        """Append to the copy of a call's journal and renew its time to live; nothing to append is no command."""
        if not entries:
            return
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.rpush(keys.journal(call_sid), *(msgspec.json.encode(entry).decode() for entry in entries))
            pipe.expire(keys.journal(call_sid), keys.JOURNAL_TTL_S)
            try:
                await pipe.execute()
            except (RedisError, OSError) as error:
                raise ReadinessUnavailable(str(error)) from error

    async def journal_of(self, call_sid: CallSid) -> list[Entry]:
        """Give the copy of a call's journal, oldest first; an entry that cannot be read is logged and left out."""
        try:
            texts = await self._client.lrange(keys.journal(call_sid), 0, -1)
        except (RedisError, OSError) as error:
            raise ReadinessUnavailable(str(error)) from error
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
            raise ReadinessUnavailable(str(error)) from error
