"""How a Redis client is made: the one place that knows the timeouts.

Two kinds, because redis-py's defaults serve neither (a blocking read of 8 s takes 58 s and fails: 5 s of socket timeout,
ten retries). A *command* client gives up within about two seconds, since whoever asks goes on without Redis. A *reading*
client blocks for `READ_BLOCK_MS` at a time and never retries by itself: its reader does, and knows where it was.

Everything is text (`decode_responses`), except for RQ, which wants bytes. Only commands of Redis 6.2 are sent; the
protocol is RESP2, whose answers have one shape on every server and behind every proxy.
"""

import random
import socket
from typing import Final

from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.retry import Retry as SyncRetry

COMMAND_TIMEOUT_S: Final = 1.0
"""For connecting and for an answer, each; one retry makes a restarted Redis invisible to the caller."""

READ_BLOCK_MS: Final = 2_000
"""How long one blocking read waits: also how long a lost wake-up could hide a new call from its reader."""

READ_TIMEOUT_S: Final = READ_BLOCK_MS / 1000 + 2.0
"""When a blocking read that should have returned empty is taken for a hanging Redis."""


def commands(url: str) -> Redis:
    """Make an asyncio client for short commands; it connects at the first one. The caller closes it (`aclose`)."""
    return _asyncio(url, COMMAND_TIMEOUT_S, retries=1)


def reading(url: str) -> Redis:
    """Make an asyncio client for blocking reads of at most `READ_BLOCK_MS`. The caller closes it (`aclose`)."""
    return _asyncio(url, READ_TIMEOUT_S, retries=0)


def _asyncio(url: str, timeout_s: float, *, retries: int) -> Redis:
    client: Redis = Redis.from_url(
        url,
        protocol=2,
        decode_responses=True,
        socket_timeout=timeout_s,
        socket_connect_timeout=COMMAND_TIMEOUT_S,
        retry=Retry(NoBackoff(), retries),
    )
    return client


def sync_commands(url: str) -> SyncRedis:
    """Make a client for short commands in a thread; it connects at the first one. The caller closes it."""
    client: SyncRedis = SyncRedis.from_url(
        url,
        protocol=2,
        decode_responses=True,
        socket_timeout=COMMAND_TIMEOUT_S,
        socket_connect_timeout=COMMAND_TIMEOUT_S,
        retry=SyncRetry(NoBackoff(), 1),
    )
    return client


def for_rq(
    url: str, *, socket_timeout_s: float = COMMAND_TIMEOUT_S, retries: int = 0, name: str | None = None
) -> SyncRedis:
    """Make a client for RQ, with answers in bytes; `name` is what CLIENT LIST shows. The caller closes it.

    No retries where jobs are taken: a repeated BLMOVE can lose what the first one popped.
    """
    client: SyncRedis = SyncRedis.from_url(
        url,
        protocol=2,
        client_name=name,
        socket_timeout=socket_timeout_s,
        socket_connect_timeout=COMMAND_TIMEOUT_S,
        retry=SyncRetry(NoBackoff(), retries),
    )
    return client


def words(error: Exception) -> str:
    """Say why Redis did not do something, naming the setting where that is what has to be changed."""
    said = str(error) or type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, AuthenticationError):
            return f"REDIS_URL: its password is missing or not accepted: {said}"
        if isinstance(cause, NoPermissionError):
            return f"REDIS_URL: its user has not the rights: {said}"
        if isinstance(cause, socket.gaierror):
            return f"REDIS_URL: its host is not known: {said}"
        cause = cause.__cause__ or cause.__context__
    return said


class Backoff:
    """How long to wait before the next attempt: doubling from 0.1 s to 2 s, with jitter of half to whole.

    Jitter because every process notices a returning Redis at the same moment.
    """

    def __init__(self, first_s: float = 0.1, most_s: float = 2.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def next(self) -> float:
        """Give the seconds to wait now, and remember that this attempt failed."""
        wait_s = self._next_s
        self._next_s = min(2 * self._next_s, self._most_s)
        return wait_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not cryptography

    def reset(self) -> None:
        """Begin anew after a success."""
        self._next_s = self._first_s
