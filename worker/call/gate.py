"""The first-answer gate and the probe behind the model: the two places a turn is watched at.

The gate stands between the user aggregator and the model. It holds the *first* completion until the customer is known,
at most `PREFETCH_TIMEOUT`, and writes every user turn to the journal before its completion is asked for; one that is asked for
ahead of the turn's end, before anything of it can be heard.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from pipecat.frames.frames import (
    EagerEndOfTurnCancelFrame,
    Frame,
    LLMContextFrame,
    LLMContextUserTurnFrame,
    LLMTextFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from shared.metrics import Stage

OWED_S: Final = 0.2
"""How long a completion is waited for that must follow at once."""


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
        self._owed = False  # the model gave up what was asked ahead: it is to be asked again at the turn's end
        self._asking: asyncio.Task[None] | None = None
        self.on_withdrawn: Callable[[bool], Coroutine[Any, Any, None]] = _nothing
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
            await self._withdrawn(by_model=direction is FrameDirection.UPSTREAM)
        elif direction is FrameDirection.DOWNSTREAM and not await self._passes(frame):
            return
        await self.push_frame(frame, direction)

    async def _passes(self, frame: Frame) -> bool:
        """Note what a frame tells of the turn, and say whether it may go on."""
        match frame:
            case VADUserStoppedSpeakingFrame():
                late = time.time() - frame.timestamp + frame.stop_secs
                self._clock.speech_ended(time.monotonic() - late)
            case LLMContextFrame(speculation=True):
                self._ahead, self._confirmed, self._void = None if self._void else frame, False, False
                if self._turn_over:  # its end has overtaken it
                    self._confirm()
            case UserStartedSpeakingFrame():
                self._turn_over = self._owed = False
            case LLMContextUserTurnFrame() if self._owed:
                asyncio.get_running_loop().call_later(OWED_S, self._look)
            case UserStoppedSpeakingFrame():
                self._turn_over = True
                self._confirm()
            case LLMContextFrame():
                self._owed = False
                self._journal(frame)
                if self._closed:
                    return False
                await self._wait()
                self._clock.asked(time.monotonic())
            case _:
                pass
        return True

    async def _withdrawn(self, *, by_model: bool) -> None:
        """Forget a completion that was asked for ahead: the caller goes on, or the model will not give it ahead."""
        crossed = by_model and self._confirmed
        self._owed = by_model and self._ahead is not None
        self._void = not by_model and self._ahead is None
        self._ahead, self._confirmed = None, False
        await self.on_withdrawn(crossed)

    def _look(self) -> None:
        """Ask again when a turn has ended in the belief that it is answered: the model's word had not come up to there."""
        if self._owed:
            self._owed = False
            self._asking = self.create_task(self.on_withdrawn(True))

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
