"""Redis, and the prefetchers that work for it.

Source: RQ 3.x, `worker_registration.py` (a set of worker keys for each queue; a worker's own key expires when it is gone).
"""

from collections.abc import AsyncGenerator
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared import letters
from shared.prefetch import AFTERCALL_QUEUE, QUEUE
from shared.readiness import Readiness
from shared.redis_door import commands
from worker.doctor.case import Case, Stopwatch
from worker.doctor.findings import Finding, bad, doubtful, good, timed

LEAST_VERSION: Final = (6, 2)
SLOW_MS: Final = 20.0
"""Every call waits for Redis a few times; within one machine or rack it answers in under 1 ms."""

LET_IN: Final = "REDIS_URL: put its password there: redis://:password@host:6379/0"

MOST_LOOKUPS: Final = 10
"""Lookups that wait: more than come together in a burst are none that are taken."""

MOST_LATER: Final = 500
"""Records and messages that wait: they are in no hurry."""


async def redis(case: Case) -> AsyncGenerator[Finding, None]:
    """Say whether Redis answers, and whether it keeps what it is given."""
    client = commands(case.conf.redis_url)
    try:
        await client.ping()  # the connection is not what is timed
        watch = Stopwatch()
        await client.ping()
        ms = watch.ms
        info: dict[str, Any] = await client.info()
    except (RedisError, OSError) as error:
        yield _unreachable(error)
        return
    finally:
        await client.aclose()
    version = str(info.get("redis_version", "0"))
    yield timed(
        f"answers, version {version}", ms, SLOW_MS, "put Redis onto this machine, or into its network (REDIS_URL)"
    )
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < LEAST_VERSION:
        yield bad(f"version {version} is too old", "take Redis 6.2 or later, or Valkey")
    if not info.get("aof_enabled"):
        yield doubtful("appendonly is off: a restart forgets records that wait", "start it with --appendonly yes")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield doubtful(
            f"it may throw anything away: maxmemory-policy is {policy}", "start it with --maxmemory-policy noeviction"
        )


async def directory(case: Case) -> AsyncGenerator[Finding, None]:
    """Say which pools have written their readiness to Redis."""
    client = commands(case.conf.redis_url)
    try:
        records = await Readiness(client).pools()
    finally:
        await client.aclose()
    for record in records:
        state = "drains" if record.draining else f"{record.ready} ready"
        yield good(f"pool {record.pool}: {state}, at {record.socket}")
    if not records:
        yield bad("no pool is known to Redis", "start one (python -m worker) with the same REDIS_URL")


async def prefetchers(case: Case) -> AsyncGenerator[Finding, None]:
    """Say whether somebody works on each queue, and how much waits there."""
    client = commands(case.conf.redis_url)
    queues = {QUEUE: MOST_LOOKUPS, AFTERCALL_QUEUE: MOST_LATER}
    if case.conf.whatsapp_from:
        queues |= {letters.QUEUE: MOST_LATER, letters.STATUS_QUEUE: MOST_LATER}
    try:
        for queue, most in queues.items():
            yield await _queue(client, queue, most)
        yield await _given_up(client, list(queues))
    finally:
        await client.aclose()


async def _queue(client: Redis, queue: str, most: int) -> Finding:
    names = await client.smembers(f"rq:workers:{queue}")
    alive = [name for name in names if await client.exists(name)]
    waiting = int(await client.llen(f"rq:queue:{queue}"))
    if not alive:
        lost = "no caller is looked up" if queue == QUEUE else "what follows a call is not done"
        return bad(
            f"nobody works on {queue}: {lost}", "start them (python -m worker.prefetcher) with the same REDIS_URL"
        )
    said = f"{queue}: {len(alive)} working, {waiting} waiting"
    if waiting > most:
        return doubtful(said, "is Supabase slow? Set PREFETCH_WORKERS higher, or start more of them")
    return good(said)


async def _given_up(client: Redis, queues: list[str]) -> Finding:
    count = sum([int(await client.zcard(f"rq:failed:{queue}")) for queue in queues if queue != QUEUE])
    if count:
        return doubtful(
            f"{count} jobs were given up", "python -m worker.records dead lists them, and --retry tries them again"
        )
    return good("no job was given up")


def _unreachable(error: Exception) -> Finding:
    """Say why Redis is of no use; whether that is its password is told by its words alone."""
    words = str(error).strip()
    if "NOAUTH" in words or "Authentication required" in words:
        return bad("it wants a password", LET_IN)
    if "WRONGPASS" in words or "invalid username-password" in words or "invalid password" in words:
        return bad("it does not know this password", LET_IN)
    if "without any password configured" in words:
        return bad(
            "it has no password, and is given one", "REDIS_URL: take the password out, or start it with --requirepass"
        )
    return bad(f"does not answer: {words or type(error).__name__}", "start it, or set REDIS_URL to where it is")
