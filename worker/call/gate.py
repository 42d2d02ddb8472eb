"""The first-answer gate and the probe behind the model: the two places a turn is watched at.

The gate stands between the user aggregator and the model. It holds the *first* completion until the customer is known,
at most `PREFETCH_TIMEOUT`, and writes every user turn to the journal before its completion is asked for; one that is asked for
ahead of the turn's end, before anything of it can be heard.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from pipecat.frames.frames import (
    EagerEndOfTurnCancelFrame,
    Frame,
    LLMContextFrame,
    LLMTextFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from shared.metrics import Stage


class TurnClock:
    """The times of the turn under way, on CLOCK_MONOTONIC; each stage is reported once per turn."""

    def __init__(self, report: Callable[[Stage, float], None]) -> None:
        self._report = report
        self._speech_ended: float | None = None
        self._asked: float | None = None
        self._first_token: float | None = None

    def speech_ended(self, at: float) -> None:
        """The caller fell silent."""
        self._speech_ended, self._asked, self._first_token = at, None, None

    def was_no_turn(self) -> None:
        """What the caller said is not answered: it was a backchannel, or noise."""
        self._speech_ended = None

    def asked(self, at: float) -> None:
        """A completion is asked for."""
        if self._speech_ended is not None and self._asked is None:
            self._report(Stage.STT, at - self._speech_ended)
        self._asked, self._first_token = at, None

    def token(self, at: float) -> bool:
        """A token came; say whether it was the first since the completion was asked for."""
        if self._asked is None or self._first_token is not None:
            return False
        self._first_token = at
        self._report(Stage.LLM, at - self._asked)
        return True

    def audio(self, at: float) -> None:
        """The first audio of the answer was written."""
        if self._first_token is not None:
            self._report(Stage.TTS, at - self._first_token)
        if self._speech_ended is not None and self._first_token is not None:
            self._report(Stage.TOTAL, at - self._speech_ended)
        self._speech_ended = self._asked = self._first_token = None


async def _nothing(_wanted: bool) -> None:  # noqa: FBT001 - the signature is the gate's
    pass


class FirstAnswerGate(FrameProcessor):
    """Holds the first completion of a call until `open` was called, at most `timeout_s` seconds.

    `on_user` is given each user turn. An interruption while it waits cancels the wait like any frame; the next
    completion is then the first.
    """

    def __init__(self, timeout_s: float, clock: TurnClock, on_user: Callable[[str], None]) -> None:
        super().__init__()
        self._timeout_s = timeout_s
        self._clock = clock
        self._on_user = on_user
        self._customer_known = asyncio.Event()
        self._journaled = 0
        self._closed = False
        self._ahead: LLMContextFrame | None = None  # the completion that was asked for before the turn ended
        self._confirmed = False
        self._turn_over = False
        self._void = False  # a withdrawal has overtaken what it withdraws
        self.on_withdrawn: Callable[[bool], Awaitable[None]] = _nothing
        """Told when a completion asked for ahead is withdrawn, and whether its turn had ended: then one is still wanted."""

    @property
    def open_to_guesses(self) -> bool:
        """Whether a completion asked for now would go on at once."""
        return self._customer_known.is_set() and not self._closed

    def recall(self, count: int) -> None:
        """Take the first `count` user messages of the context for known: they are in the journal already."""
        self._journaled = count

    def open(self) -> None:
        """Let completions pass: the customer is known, or will not be."""
        self._customer_known.set()

    def close(self) -> None:
        """Let no completion pass any more: the call is about to end."""
        self._closed = True

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Pass everything; hold the first completion."""
        await super().process_frame(frame, direction)
        if isinstance(frame, EagerEndOfTurnCancelFrame):
            crossed = direction is FrameDirection.UPSTREAM and self._confirmed
            self._void = direction is FrameDirection.DOWNSTREAM and self._ahead is None
            self._ahead, self._confirmed = None, False
            await self.on_withdrawn(crossed)
        elif direction is FrameDirection.DOWNSTREAM:
            match frame:
                case VADUserStoppedSpeakingFrame():
                    late = time.time() - frame.timestamp + frame.stop_secs
                    self._clock.speech_ended(time.monotonic() - late)
                case LLMContextFrame(speculation=True):
                    self._ahead, self._confirmed, self._void = None if self._void else frame, False, False
                    if self._turn_over:  # its end has overtaken it
                        self._confirm()
                case UserStartedSpeakingFrame():
                    self._turn_over = False
                case UserStoppedSpeakingFrame():
                    self._turn_over = True
                    self._confirm()
                case LLMContextFrame():
                    self._journal(frame)
                    if self._closed:
                        return
                    await self._wait()
                    self._clock.asked(time.monotonic())
                case _:
                    pass
        await self.push_frame(frame, direction)

    def _confirm(self) -> None:
        """Note that the turn has ended whose answer was asked for ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            self._confirmed = True
            self._journal(ahead)
            self._clock.asked(time.monotonic())

    async def _wait(self) -> None:
        if self._customer_known.is_set():
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._customer_known.wait()
        except TimeoutError:
            self._customer_known.set()  # only the first answer waits

    def _journal(self, frame: LLMContextFrame) -> None:
        # Not by their place in the context: the greeting before them may be taken out of it.
        messages = [
            each for each in frame.context.get_messages() if isinstance(each, dict) and each.get("role") == "user"
        ]
        for message in messages[self._journaled :]:
            if isinstance(message.get("content"), str):
                self._on_user(str(message["content"]))
        self._journaled = len(messages)


class FirstTokenProbe(FrameProcessor):
    """Sees the first token of each completion pass between the model and the voice."""

    def __init__(self, clock: TurnClock, on_first_token: Callable[[], None]) -> None:
        super().__init__()
        self._clock = clock
        self._on_first_token = on_first_token

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Pass everything."""
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMTextFrame) and frame.text.strip() and self._clock.token(time.monotonic()):
            self._on_first_token()
        await self.push_frame(frame, direction)
