"""The hold line as one router sees it: the shared one in Redis while that answers, an order of its own while it does not.

Fairness: with Redis, first come, first served across all routers, since a pool is told how many are to be served before
a call and promises nothing that they need. Nobody waits for Redis who need not: how long the line is, is known from the
last visit of anybody here, from a look every second, and from one at once when a worker becomes ready where there was
none. So a new call can overtake only callers who joined the line at another router within the last second. Without Redis
each router serves its own callers in order, and places are not told. When it is back, each caller takes its place again
with its next question.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Final

from router.hold import Spot
from router.order import Order
from shared import logs
from shared.calls import CallSid
from shared.errors import ReadinessUnavailable
from shared.holdline import MOST_WAITING, HoldLine, Standing, Visitor, Word
from shared.metrics import HoldOutcome
from shared.metrics_router import RouterMetrics

LOOK_S: Final = 1.0
"""Between two looks at the line: what other routers do is not told, and a look costs a quarter of a millisecond."""

ANSWER_S: Final = 1.0
"""How long Redis may take to answer; those who ask meanwhile hear nothing, once."""

log = logs.get(__name__)


@dataclass(slots=True, eq=False)
class Line:
    """Keeps callers in order; `waiting` is how many there are. Use within `open()`, which looks in the background."""

    shared: HoldLine
    metrics: RouterMetrics
    waiting: int = 0
    _away: bool = False
    _ready: int = 0
    _order: Order = field(default_factory=Order)
    _asking: set[CallSid] = field(default_factory=set)
    _leaving: dict[CallSid, Word] = field(default_factory=dict)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Look at the shared line until left."""
        looking = asyncio.create_task(self._watch(), name="watch the hold line")
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait([looking])

    async def visit(self, visitor: Visitor) -> Spot | None:
        """Let a caller join, or ask again; None when the line is full."""
        self._leaving.pop(visitor.call_sid, None)
        self._order.join(visitor, time.monotonic())
        async with self._turn:  # one after the other: places are given in the order in which callers came to us
            standing = None if self._away else await self._ask(visitor)
        if standing is not None:
            before = standing.place
        else:
            before = self._order.before(visitor.call_sid, self._asking)
            self._know(len(self._order))
        if before is None:
            self._order.leave(visitor.call_sid, 0.0)
            return None
        return Spot(before, shared=standing is not None)

    @contextlib.contextmanager
    def asking(self, call_sid: CallSid) -> Iterator[None]:
        """Count a caller as out of the way of those behind it, while pools are asked for its worker."""
        self._asking.add(call_sid)
        try:
            yield
        finally:
            self._asking.discard(call_sid)

    def served(self, call_sid: CallSid) -> None:
        """Let a caller out of the line who has a worker, or has waited enough."""
        self._order.leave(call_sid, 0.0)
        self._leave(call_sid, "served")

    def gone(self, call_sid: CallSid) -> None:
        """Let a caller out who has hung up; harmless for one that is not in the line."""
        waited_s = self._order.leave(call_sid, time.monotonic())
        if self._away:
            self._left(call_sid, waited_s)
        elif waited_s is not None or self.waiting:
            self._leave(call_sid, "gone")

    def ready(self, count: int) -> None:
        """Take note of how many workers are ready: where there was none before, the line must be known now."""
        if count and not self._ready:
            self._news.set()
        self._ready = count

    async def _watch(self) -> None:
        while True:
            try:
                async with self._turn:
                    await self._ask(None)
                self._forget_overdue(time.monotonic())
                await self._pause()
            except Exception:  # one of the few top-level loops
                log.exception("looking at the hold line failed")
                await asyncio.sleep(LOOK_S)

    async def _pause(self) -> None:
        if self._away:
            await asyncio.sleep(LOOK_S)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self._news.wait()
        self._news.clear()

    async def _ask(self, visitor: Visitor | None) -> Standing | None:
        """Visit the shared line with everything we know; None when it does not answer."""
        leaving = dict(self._leaving)
        words: dict[CallSid, Word] = {**leaving, **dict.fromkeys(self._asking, "asking")}
        if visitor is not None:
            words.pop(visitor.call_sid, None)
        try:
            async with asyncio.timeout(ANSWER_S):
                standing = await self.shared.visit(visitor, words)
        except (ReadinessUnavailable, TimeoutError) as error:
            if not self._away:
                log.warning("the hold line is not shared: redis does not answer", why=str(error) or "slow")
            self._away = True
            return None
        if self._away:
            log.info("the hold line is shared")
        self._away = False
        for call_sid, word in leaving.items():
            if self._leaving.get(call_sid) == word:
                del self._leaving[call_sid]
        for waited_s in standing.left:
            self.metrics.hold_ended(HoldOutcome.LEFT, waited_s)
        self._know(standing.length)
        return standing

    def _forget_overdue(self, now: float) -> None:
        for call_sid in self._order.overdue(now):
            waited_s = self._order.leave(call_sid, now)
            if self._away:
                self._left(call_sid, waited_s)
        if self._away:
            self._know(len(self._order))

    def _left(self, call_sid: CallSid, waited_s: float | None) -> None:
        """Count a caller who left while nobody else could: the shared line, which may still have it, must not."""
        if waited_s is not None:
            self.metrics.hold_ended(HoldOutcome.LEFT, waited_s)
            self._leave(call_sid, "served")

    def _leave(self, call_sid: CallSid, word: Word) -> None:
        self._leaving[call_sid] = word
        while len(self._leaving) > MOST_WAITING:  # Redis has been away for long; it will find out by itself
            del self._leaving[next(iter(self._leaving))]
        self._news.set()

    def _know(self, length: int) -> None:
        self.waiting = length
        self.metrics.hold_waiting(length)
