"""One media stream as Twilio runs it: frames every 20 ms, a play-out clock, marks, clear, and the faults asked for.

Rules: everything happens in event-loop callbacks with absolute deadlines; no task per frame. What ended the stream is
told, what follows from it (TwiML) is the call's business.

Source: Twilio docs, Media Streams WebSocket messages.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from typing import TYPE_CHECKING

from tests.standins.carrier_inject import Injector
from tests.standins.carrier_messages import (
    CONNECTED,
    QUIET_PAYLOAD,
    Clear,
    Invalid,
    Mark,
    Media,
    Numbering,
    payloads,
    understand,
)
from tests.standins.carrier_plan import Host, StreamPlan
from tests.standins.carrier_record import MarkReceived, MediaReceived, StreamRecord
from tests.standins.carrier_requests import peer
from tests.standins.carrier_settings import CallFailed
from tests.standins.carrier_wire import SWITCHING_PROTOCOLS, Wire, WireEnd

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.standins.carrier_playout import PlayoutClock
    from tests.standins.carrier_wheel import Wheel

LATE_S = 0.02  # a frame later than this is counted: then the carrier, not the server, is overloaded


class MediaStream:
    """A stream, from dialling the socket to its end. Use: `await stream.run()`, the other methods meanwhile."""

    def __init__(self, plan: StreamPlan, clock: PlayoutClock, wheel: Wheel, host: Host) -> None:
        self.record = StreamRecord(plan.ids.stream_sid, plan.url)
        self.live = False  # `start` was sent and neither side has ended the stream
        self.silent = asyncio.Event()  # the fault of that name has begun
        self._plan = plan
        self._clock = clock
        self._host = host
        self._numbering = Numbering(plan.ids)
        self._speech: deque[tuple[str, asyncio.Future[float] | None]] = deque()
        self._pending_marks: deque[MarkReceived] = deque()
        self._noted: set[int] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._wheel = wheel
        self._loop = asyncio.get_running_loop()
        self._answered: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[str] = self._loop.create_future()
        self._injector = Injector(plan.faults)
        self._wire = Wire(plan.upgrade, self, plan.faults.split_pause_s if plan.faults.split_frames else 0.0)

    async def run(self) -> str:
        """Dial, stream, and tell how it ended.

        `server` (a Close frame), `carrier` (we closed), `lost` (no Close), `violation` (not WebSocket any more),
        `refused` (an answer other than 101) or `unreachable` (no connection, or no answer in time).
        """
        settings = self._plan.settings
        try:
            async with asyncio.timeout(settings.upgrade_timeout_s):
                await self._loop.create_connection(lambda: self._wire, **peer(settings).address())
                await self._answered
        except TimeoutError:
            self._host.notice(31901, "no answer to the media upgrade in time")
        except ssl.SSLError as error:
            self._host.notice(31910, f"media upgrade: {error}")
        except OSError as error:
            self._host.notice(31902, f"media upgrade could not connect: {error}")
        try:
            return await self._outcome()
        finally:
            self._wire.abort()
            self._close_down()

    def say(self, ulaw: bytes) -> asyncio.Future[float]:
        """Queue caller speech; the future becomes the moment its last frame was sent."""
        done: asyncio.Future[float] = self._loop.create_future()
        frames = payloads(ulaw)
        self._speech.extend((frame, None) for frame in frames[:-1])
        self._speech.append((frames[-1] if frames else QUIET_PAYLOAD, done))
        return done

    def dtmf(self, digit: str) -> None:
        """Send a key press."""
        self._wire.send_text(self._numbering.dtmf(digit))

    def leave(self) -> None:
        """End it from the carrier's side: `stop`, then the closing handshake. Harmless when it has ended already."""
        if self.live:
            self._wire.send_text(self._numbering.stop())
        self._close_down()
        if not self._wire.open:
            self._wire.abort()
            return
        self._wire.close()
        self._after("abort", self._plan.settings.close_wait_s, self._wire.abort)

    def on_answer(self, status: int, at: float) -> None:
        """Open the stream when the answer is 101, give up otherwise."""
        self.record.upgrade_status = status
        self.record.upgrade_sent = self._wire.upgrade_sent
        self._no_longer_waiting()
        if status != SWITCHING_PROTOCOLS:
            self._wire.abort()
            return
        self.record.upgrade_accepted = at
        self._open()

    def on_text(self, text: bytes, at: float) -> None:
        """Play, mark or clear; warn about anything else."""
        try:
            message = understand(text, self._plan.ids.stream_sid)
        except Invalid as invalid:
            self._invalid(invalid.code, str(invalid))
            return
        match message:
            case Media(audio):
                self._play(audio, at)
            case Mark(name):
                self._pending_marks.append(MarkReceived(name, at))
                self.record.marks.append(self._pending_marks[-1])
                self._clock.mark(at, name)
                self._echo(at)
            case Clear():
                self.record.clears.append(at)
                self._send_marks(len(self._clock.clear(at)), cleared=True)
        self._host.changed()

    def on_binary(self, at: float) -> None:
        """Warn: the protocol has text messages only."""
        del at
        self._invalid(31950, "binary frame")

    def on_lost(self, end: WireEnd) -> None:
        """Write down how it ended and let `run` return."""
        self.record.closed_at = end.at
        self.record.closed_by = end.by
        self.record.close_code = end.code
        self.record.close_reason = end.reason
        self.record.upgrade_sent = self._wire.upgrade_sent
        self._no_longer_waiting()
        self._close_down()
        if not self._ended.done():
            self._ended.set_result(end.by)
        self._host.changed()

    def _no_longer_waiting(self) -> None:
        if not self._answered.done():
            self._answered.set_result(None)

    async def _outcome(self) -> str:
        status = self.record.upgrade_status
        if status == 0:
            return "lost" if self._ended.done() else "unreachable"
        if status != SWITCHING_PROTOCOLS:
            self._host.notice(31920, f"media upgrade answered with HTTP {status}")
            return "refused"
        return await self._ended

    def _open(self) -> None:
        """Say `connected` and `start` and begin to send frames."""
        faults = self._plan.faults
        if faults.hangup_before_start:
            self._host.caller_hangs_up()
            return
        if not faults.no_connected:
            self._wire.send_text(CONNECTED)
        if faults.no_start:
            self._host.changed()
            return
        call_sid = "CA" + "f" * 32 if faults.wrong_call_sid else self._plan.ids.call_sid
        self._wire.send_text(self._numbering.start(self._plan.parameters, call_sid))
        now = time.monotonic()
        self.record.start_sent = now
        self.live = True
        self._wheel.join(self, self._send_frame)
        if faults.silent_after_s:
            self._after("silent", faults.silent_after_s, self._fall_silent)
        if faults.reset_after_s:
            self._after("reset", faults.reset_after_s, self._wire.reset)
        if faults.hangup_after_s:
            self._after("hangup", faults.hangup_after_s, self._host.caller_hangs_up)
        self._host.started()

    def _fall_silent(self) -> None:
        self._wheel.leave(self)
        self.silent.set()

    def _send_frame(self, due: float, now: float) -> None:
        if not self.live:
            return
        if now - due > LATE_S:
            self.record.frames_late += 1
        frame, done = self._speech.popleft() if self._speech else (QUIET_PAYLOAD, None)
        self._wire.send_text(self._numbering.media(frame))
        self.record.frames_sent += 1
        if done is not None and not done.done():
            done.set_result(now)
        if self.record.frames_sent == self._plan.faults.inject_after_frames:
            self._injector.inject(self._wire, self._numbering)

    def _play(self, audio: bytes, at: float) -> None:
        self.record.media.append(MediaReceived(at, len(audio)))
        if self._clock.push(at, audio):
            self._once(31931, "more than ten minutes of audio buffered, the rest discarded")
        if len(self.record.media) == 1 and self._plan.faults.hangup_at_first_media:
            self._host.caller_hangs_up()

    def _echo(self, now: float) -> None:
        """Echo the marks reached and wait for the next one."""
        self._send_marks(len(self._clock.due(now)), cleared=False)
        due = self._clock.next_due()
        if due is not None:
            self._after("mark", due - now, lambda: self._echo(time.monotonic()))

    def _send_marks(self, count: int, *, cleared: bool) -> None:
        for _ in range(count):
            mark = self._pending_marks.popleft()
            if self.live:
                self._wire.send_text(self._numbering.mark(mark.name))
                mark.echoed_at = time.monotonic()
                mark.cleared = cleared
        self._host.changed()

    def _invalid(self, code: int, text: str) -> None:
        self.record.invalid_messages += 1
        self._once(code, text)
        self._host.changed()

    def _once(self, code: int, text: str) -> None:
        """Twilio reports each of these once per stream."""
        if code not in self._noted:
            self._noted.add(code)
            self._host.notice(code, text)

    def _close_down(self) -> None:
        """Stop sending; what is buffered is never played, who waits for speech to be sent is told."""
        self.live = False
        self._wheel.leave(self)
        for name in tuple(self._timers):
            self._cancel(name)
        self._clock.clear(time.monotonic())
        self._pending_marks.clear()
        while self._speech:
            _, done = self._speech.popleft()
            if done is not None and not done.done():
                done.set_exception(CallFailed("the stream ended while the caller was speaking"))

    def _after(self, name: str, delay_s: float, what: Callable[[], None]) -> None:
        self._cancel(name)
        self._timers[name] = self._loop.call_later(max(0.0, delay_s), what)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
