"""Records of calls whose pool is gone, on their way to the prefetchers: a list in Redis.

A pool makes jobs of its records itself. A worker that has lost its pool leaves its record here: it has no RQ.
"""

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared import keys, redis_door
from shared.callrecord import CallRecord, encode
from shared.errors import ReadinessUnavailable


class Outbox:
    """The list; `client` is a command client and stays the caller's."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def put(self, record: CallRecord) -> None:
        """Leave a record. The same one twice is stored once.

        Raises:
            ReadinessUnavailable: Redis did not take it.
        """
        try:
            await self._client.rpush(keys.RECORDS, encode(record))
        except (RedisError, OSError) as error:
            raise ReadinessUnavailable(redis_door.words(error)) from error
