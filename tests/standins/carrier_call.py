"""One phone call: what a test holds in its hand, and what keeps its state while TwiML runs.

Rules: one task (`run`) executes the call; the methods a test calls only leave an order (hang up, run other TwiML) and
end the present verb. Nothing is cancelled half-way.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.standins.carrier_playout import Playout, PlayoutClock
from tests.standins.carrier_record import CallRecord, Exchange, Notice, Spoken, StreamRecord
from tests.standins.carrier_settings import CallFailed, CallFaults, CarrierSettings
from tests.standins.carrier_sign import Sign, call_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.standins.carrier_fetch import Document
    from tests.standins.carrier_requests import Post
    from tests.standins.carrier_stream import MediaStream
    from tests.standins.carrier_wheel import Wheel

HEAR_AGAIN_S = 0.1  # how often a condition on what is being played is looked at
DEADLINE_S = 30.0
NO_FAULTS = CallFaults()


@dataclass(frozen=True, slots=True)
class Dialling:
    """How a call begins. `document` is TwiML that came with a REST request; `url` replaces the number's webhook."""

    call_sid: str
    from_: str
    to: str
    direction: str = "inbound"
    url: str = ""
    method: str = ""
    document: Document | None = None
    sign: Sign = "valid"
    faults: CallFaults = NO_FAULTS
    status_callback: str = ""
    status_events: frozenset[str] = frozenset({"completed"})


@dataclass(frozen=True, slots=True)
class Order:
    """What interrupts the running TwiML: the end of the call, or another document. `by` is caller or rest."""

    by: str
    document: Document | None = None
    post: Post | None = None


class Call:
    """A call in progress or over. Made by `Carrier.dial`."""

    def __init__(self, settings: CarrierSettings, dialling: Dialling, wheel: Wheel) -> None:
        self.settings = settings
        self.wheel = wheel
        self.dialling = dialling
        self.call_sid = dialling.call_sid
        self.status = "ringing" if dialling.direction == "inbound" else "queued"
        self.clock = PlayoutClock(settings.buffer_limit_s, settings.utterance_pause_s)
        self.stream: MediaStream | None = None  # the present one
        self.streams: list[StreamRecord] = []
        self.documents: list[bytes] = []
        self.verbs: list[str] = []
        self.exchanges: list[Exchange] = []
        self.spoken: list[Spoken] = []
        self.dialled: list[str] = []
        self.notices: list[Notice] = []
        self.placed_at = time.monotonic()
        self.answered_at: float | None = None
        self.ended_at: float | None = None
        self.ended_by = "twiml"
        self.order: asyncio.Future[Order] = asyncio.get_running_loop().create_future()
        self.pending_action: tuple[str, str] | None = None  # of the <Connect> being run: URL and method
        self.callbacks = 0  # call-progress events posted
        self.on_started: Callable[[], None] = lambda: None
        self._waiting: set[asyncio.Future[None]] = set()
        self._background: set[asyncio.Task[None]] = set()

    # What a test does and sees

    async def webhook_done(self, timeout_s: float = DEADLINE_S) -> None:
        """Wait until the first request for TwiML has been answered or has failed, or the call is over."""
        await self._until(lambda: self._webhook_done() or self.ended_at is not None, timeout_s, "got no TwiML")

    async def answered(self, timeout_s: float = DEADLINE_S) -> None:
        """Wait until TwiML made the call answered. Raises `CallFailed`."""
        await self._until(lambda: self.answered_at is not None, timeout_s, "was not answered")

    async def streaming(self, count: int = 1, timeout_s: float = DEADLINE_S) -> None:
        """Wait until `start` was sent, on the `count`-th stream that got so far. Raises `CallFailed`."""
        await self._until(lambda: self._started() >= count, timeout_s, "has no stream")

    async def until(self, condition: Callable[[], bool], timeout_s: float = DEADLINE_S) -> None:
        """Wait until `condition`, looked at whenever something happens in the call and ten times a second."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0 or self.ended_at is not None:
                raise CallFailed(self._story("never met a condition"))
            await self._change(min(left, HEAR_AGAIN_S))

    async def say(self, ulaw: bytes) -> float:
        """Say `ulaw` (8 kHz mono mu-law) in 20 ms frames; return when its last frame was sent. Raises `CallFailed`."""
        if self.stream is None or not self.stream.live:
            raise CallFailed(self._story("has no stream to speak on"))
        return await self.stream.say(ulaw)

    async def dtmf(self, digit: str) -> None:
        """Press a key. Raises `CallFailed`."""
        if self.stream is None or not self.stream.live:
            raise CallFailed(self._story("has no stream to press keys on"))
        self.stream.dtmf(digit)

    @property
    def heard(self) -> Playout:
        """What was really played until now; times count from the first `start`."""
        epoch = next((stream.start_sent for stream in self.streams if stream.start_sent is not None), None)
        now = time.monotonic() if self.ended_at is None else self.ended_at
        return self.clock.heard(now, now if epoch is None else epoch)

    async def hears(self, condition: Callable[[Playout], bool], timeout_s: float = DEADLINE_S) -> Playout:
        """Wait until what was played satisfies `condition`, and return it. Raises `CallFailed` with what was heard."""
        deadline = time.monotonic() + timeout_s
        while not condition(heard := self.heard):
            left = deadline - time.monotonic()
            if left <= 0 or self.ended_at is not None:
                why = "is over" if self.ended_at is not None else f"went on for {timeout_s} s"
                played = f"{heard.duration_s:.2f} s in {heard.utterances} utterances"
                raise CallFailed(self._story(f"{why}, the condition was never met; played {played}"))
            await self._change(min(left, HEAR_AGAIN_S))
        return heard

    async def hangup(self) -> None:
        """Hang up as the caller does: `stop` on a stream, then its end. Harmless when the call is over."""
        self.obey(Order("caller"))

    async def ended(self, timeout_s: float = DEADLINE_S) -> CallRecord:
        """Wait for the end of the call and everything it caused. Raises `CallFailed` when it goes on."""
        await self._until(lambda: self.ended_at is not None, timeout_s, "goes on")
        return self.record()

    def record(self) -> CallRecord:
        """What is known now."""
        begun, over = self.answered_at, self.ended_at
        return CallRecord(
            call_sid=self.call_sid,
            outcome=self.status,
            ended_by=self.ended_by,
            documents=tuple(self.documents),
            verbs=tuple(self.verbs),
            exchanges=tuple(self.exchanges),
            streams=tuple(self.streams),
            spoken=tuple(self.spoken),
            dialled=tuple(self.dialled),
            notices=tuple(self.notices),
            duration_s=over - begun if begun is not None and over is not None else 0.0,
        )

    # What the carrier and the stream need

    def parameters(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        """The parameters of a request made now."""
        own = self.dialling
        params = call_parameters(self.settings.account_sid, self.call_sid, own.from_, own.to, own.direction)
        params["CallStatus"] = self.status
        return {**params, **(extra or {})}

    def obey(self, order: Order) -> None:
        """Leave the running verb and do what `order` says. The first order of two counts."""
        if self.ended_at is None and not self.order.done():
            self.order.set_result(order)
            if self.stream is not None:
                self.stream.leave()

    async def pause(self, seconds: float) -> None:
        """Let time pass, until an order comes."""
        if seconds > 0:
            await asyncio.wait({self.order}, timeout=seconds)

    def changed(self) -> None:
        """Wake whoever waits for this call."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    def started(self) -> None:
        """`start` was sent."""
        self.on_started()
        self.changed()

    def notice(self, code: int, text: str) -> None:
        """Write down an error or warning."""
        self.notices.append(Notice(code, text, time.monotonic()))
        self.changed()

    def caller_hangs_up(self) -> None:
        """The caller hangs up because of a fault."""
        self.obey(Order("caller"))

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run `work` beside the call; the call is not over before it."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def settle(self) -> None:
        """Wait for what was spawned."""
        while self._background:
            await asyncio.wait(self._background)

    # Waiting

    async def _until(self, condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0 or self.ended_at is not None:
                raise CallFailed(self._story(otherwise))
            await self._change(left)

    async def _change(self, timeout_s: float) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await asyncio.wait({waiting}, timeout=None if timeout_s == float("inf") else timeout_s)
        finally:
            self._waiting.discard(waiting)

    def _webhook_done(self) -> bool:
        return any(exchange.purpose == "incoming" for exchange in self.exchanges)

    def _started(self) -> int:
        return sum(stream.start_sent is not None for stream in self.streams)

    def _story(self, why: str) -> str:
        """One line for a failed test."""
        notices = "; ".join(f"{notice.code} {notice.text}" for notice in self.notices) or "no errors"
        return f"call {self.call_sid} {why} ({self.status}, verbs {' '.join(self.verbs) or 'none'}, {notices})"
