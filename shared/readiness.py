"""The directory of pools: who is alive and what the router may promise from it.

A pool's entry is its lease: it lives `LEASE_MS` and is written anew every second by that pool and nobody else. A pool that
stops renewing is gone; a dead one is noticed within 3 s. Local pools are seen faster and without Redis, through their own
sockets: this directory is for questions about other machines, and for "is the pool of this ticket still alive".
"""

from typing import Final, Protocol

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared import keys, logs, redis_door
from shared.errors import ReadinessUnavailable
from shared.workers import PoolId

_log = logs.get(__name__)


class PoolRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool says about itself.

    `boot` is its nonce, as in tickets; `socket` the path of its control socket in the `HANDOFF_DIR` it sees;
    `metrics` the `host:port` of its `/metrics`, empty while nobody asks for it.
    """

    pool: PoolId
    boot: str
    ready: int
    socket: str
    draining: bool = False
    metrics: str = ""


class PoolDirectory(Protocol):
    """What a pool writes and a router reads. Every method raises ReadinessUnavailable when Redis does not answer."""

    async def publish(self, record: PoolRecord) -> bool:
        """Write or renew the lease of a pool: it lives `LEASE_MS` from now. Say whether it was still there."""

    async def withdraw(self, pool: PoolId) -> None:
        """Give a lease back, so that nobody waits for it to expire; harmless when there is none."""

    async def pools(self) -> list[PoolRecord]:
        """List the pools whose lease lives, by pool id."""


_decoder: Final = msgspec.json.Decoder(PoolRecord)


class Readiness:
    """The directory in Redis (a `PoolDirectory`); `client` is a command client and stays the caller's."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def publish(self, record: PoolRecord) -> bool:
        """Write or renew the lease of a pool: it lives `LEASE_MS` from now. Say whether it was still there.

        When it was not, Redis has not heard of this pool for a while, or has forgotten everything.
        """
        text = msgspec.json.encode(record).decode()
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.set(keys.pool(record.pool), text, px=keys.LEASE_MS, get=True)
            pipe.sadd(keys.POOLS, record.pool)
            pipe.expire(keys.POOLS, keys.POOLS_TTL_S)
            try:
                former, *_ = await pipe.execute()
            except (RedisError, OSError) as error:
                raise ReadinessUnavailable(redis_door.words(error)) from error
        return former is not None

    async def withdraw(self, pool: PoolId) -> None:
        """Give a lease back, so that nobody waits for it to expire; harmless when there is none."""
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.delete(keys.pool(pool))
            pipe.srem(keys.POOLS, pool)
            try:
                await pipe.execute()
            except (RedisError, OSError) as error:
                raise ReadinessUnavailable(redis_door.words(error)) from error

    async def pools(self) -> list[PoolRecord]:
        """List the pools whose lease lives, by pool id; an entry that cannot be read is logged and left out."""
        try:
            names = sorted(str(name) for name in await self._client.smembers(keys.POOLS))
            texts = await self._client.mget([keys.pool(PoolId(name)) for name in names]) if names else []
            gone = [name for name, text in zip(names, texts, strict=True) if text is None]
            if gone:  # a pool that renews at this very moment is back in the set with its next renewal
                await self._client.srem(keys.POOLS, *gone)
        except (RedisError, OSError) as error:
            raise ReadinessUnavailable(redis_door.words(error)) from error
        records = [read_record(str(text)) for text in texts if text is not None]
        return [record for record in records if record is not None]


def read_record(text: str) -> PoolRecord | None:
    """Read a lease; None, and a line in the log, for one that cannot be read."""
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError as error:
        _log.warning("unreadable pool record", error=str(error))
        return None
