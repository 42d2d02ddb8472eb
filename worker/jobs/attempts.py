"""What stands between a message and its second sending: a note in Redis, made before Twilio is asked.

Twilio knows no idempotency key for messages, and a job may be run twice: after a process died in it, or because only the
database is still to be told. So a message that was begun is never begun again; how it ended is told to whoever waits.
"""

from typing import Final

import msgspec
from redis import Redis
from redis.client import Pipeline

from shared import keys
from shared.letters import Told, slot

_decoder: Final = msgspec.json.Decoder(Told)


class Attempts:
    """The notes of one Redis, for one thread at a time. Every method may raise `RedisError`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def begin(self, key: str) -> Told | None:
        """Take a message to send it; None when it is ours now, else how far it had come: then it is not to be sent.

        One that was `waiting` is given as such and is not taken: `resume` does that.
        """
        if self._redis.set(keys.message(slot(key)), _text(Told(state="begun")), nx=True, ex=keys.MESSAGE_TTL_S):
            return None
        return self.read(key)

    def resume(self, key: str) -> None:
        """Take a message that was waiting."""
        self._redis.set(keys.message(slot(key)), _text(Told(state="begun")), ex=keys.MESSAGE_TTL_S)

    def read(self, key: str) -> Told | None:
        """Give how far a message has come; None when nothing is known of it."""
        noted = self._redis.get(keys.message(slot(key)))
        return None if noted is None else _decoder.decode(str(noted))

    def end(self, key: str, told: Told) -> None:
        """Note what came of it, and tell whoever waits."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(keys.message(slot(key)), _text(told), ex=keys.MESSAGE_TTL_S)
            _say(pipe, key, told)
            pipe.execute()

    def tell(self, key: str, told: Told) -> None:
        """Tell whoever waits what was heard of a message after it was sent; nothing is noted."""
        with self._redis.pipeline(transaction=True) as pipe:
            _say(pipe, key, told)
            pipe.execute()

    def logged(self, key: str, told: Told) -> None:
        """Note that the database has it."""
        self._redis.set(
            keys.message(slot(key)), _text(msgspec.structs.replace(told, logged=True)), ex=keys.MESSAGE_TTL_S
        )


def _say(pipe: Pipeline, key: str, told: Told) -> None:
    stream = keys.told(slot(key))
    pipe.xadd(stream, {"told": _text(told)})
    pipe.expire(stream, keys.TOLD_TTL_S)


def _text(told: Told) -> str:
    return msgspec.json.encode(told).decode()
