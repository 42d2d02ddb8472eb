"""The hold line: callers for whom there was no worker, in the order of their arrival, shared by all routers.

One Lua script does everything, so that two routers never see two orders; the clock is the server's. A caller is in the
line as long as somebody renews it: whoever stops asking leaves. A line that Redis forgot is rebuilt by its callers,
because each says at every visit how long it has waited. Only routers write here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final, Literal, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared import keys, redis_door
from shared.calls import CallSid
from shared.errors import ReadinessUnavailable

MOST_WAITING: Final = 500
"""More could not be served before they give up, and each of them asks its router every 3 s: 170 questions a second."""

Word = Literal["served", "gone", "asking"]
"""What a router knows of a caller in the line: it has a worker, it hung up, or it is being given a worker now."""

_SCRIPT: Final = resources.files("shared").joinpath("lua", "hold.lua").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Visitor:
    """A caller that joins the line or asks again.

    Attributes:
        waited_s: how long it has waited; 0 for one that has just arrived, who joins behind all others.
        patience_s: within how long it asks again; later it has left.
    """

    call_sid: CallSid
    waited_s: float
    patience_s: float


@dataclass(frozen=True, slots=True)
class Standing:
    """What a visit shows.

    Attributes:
        place: how many callers are to be served before the visitor; None without one, and for one the line is too long for.
        length: how many wait, the visitor included.
        left: how many seconds each one had waited that stopped asking since the last visit of anybody.
    """

    place: int | None
    length: int
    left: tuple[float, ...]


class HoldLine(Protocol):
    """The line as routers use it."""

    async def visit(self, visitor: Visitor | None, words: Mapping[CallSid, Word]) -> Standing:
        """Join or renew a caller (None: only look), and pass on what is known of others; the same again changes nothing.

        Raises:
            ReadinessUnavailable: Redis does not answer.
        """


class SharedHoldLine:
    """The line in Redis (a `HoldLine`); `client` is a command client and stays the caller's."""

    def __init__(self, client: Redis) -> None:
        self._script = client.register_script(_SCRIPT)

    async def visit(self, visitor: Visitor | None, words: Mapping[CallSid, Word]) -> Standing:
        """Join or renew a caller (None: only look), and pass on what is known of others; the same again changes nothing.

        Raises:
            ReadinessUnavailable: Redis does not answer.
        """
        who = visitor or Visitor(CallSid(""), 0.0, 0.0)
        args: list[str | int] = [
            who.call_sid,
            _micros(who.waited_s),
            _micros(who.patience_s),
            MOST_WAITING,
            keys.HOLD_TTL_S,
        ]
        for call_sid, word in words.items():
            args += [word, call_sid]
        try:
            place, length, left = await self._script(keys=[keys.HOLD_LINE, keys.HOLD_DUE], args=args)
        except (RedisError, OSError) as error:
            raise ReadinessUnavailable(redis_door.words(error)) from error
        return Standing(int(place) if place >= 0 else None, int(length), _seconds(left))


class NoHoldLine:
    """No line is shared (a `HoldLine`): every router keeps its own."""

    async def visit(self, _visitor: Visitor | None, _words: Mapping[CallSid, Word]) -> Standing:
        """Never answer.

        Raises:
            ReadinessUnavailable: always.
        """
        raise ReadinessUnavailable("no line is shared")


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)


def _seconds(micros: Sequence[int]) -> tuple[float, ...]:
    return tuple(each / 1e6 for each in micros)
