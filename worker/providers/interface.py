"""What a pipeline asks of a provider of speech, whoever that is. Each provider has its modules here; `chosen` picks by name.

Several ears and voices may stand in one pipeline, all that the agents of an installation name. One of each is *active* in a
call; the others let everything pass. Ears get the caller's audio by call and not as frames: nobody else reads it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pipecat.frames.frames import CancelFrame, ControlFrame, EndFrame, Frame, StartFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from shared.agents import Agent
from worker.providers.retry import Trouble


@dataclass
class TranscriptEnd(ControlFrame):
    """Everything that was asked of the ear is answered and the caller is silent: no other word of the turn will come.

    Ordered behind the transcripts it closes. A turn ends on it without waiting for words that are not there.
    """

    interruptible: bool = False


@dataclass
class TurnOver(TranscriptEnd):
    """The ear itself takes the caller's turn to be over; it may say so twice. Only of an ear with `ends_turns`."""


@dataclass
class TurnGoesOn(ControlFrame):
    """The ear took the turn to be almost over (`EagerTranscriptionFrame`), and takes that back."""


class Ear(Protocol):
    """Speech recognition: a processor that gives `TranscriptionFrame`, `InterimTranscriptionFrame` and `TranscriptEnd`.

    `on_used` is told `stt_seconds`. Nothing is connected before `open`: plans count idle sockets as calls.
    One with `ends_turns` knows itself when the caller has finished: it gives `TurnOver` for `TranscriptEnd`, and where the end
    is near `EagerTranscriptionFrame` with the words of the turn, perhaps followed by `TurnGoesOn`.
    """

    active: bool
    on_used: Callable[..., None]

    @property
    def ends_turns(self) -> bool:
        """Whether it says when a turn is over."""
        ...

    def warm(self) -> bool:
        """Say whether speech sent now would be recognised."""
        ...

    async def open(self, agent: Agent) -> None:
        """Connect in the language of an agent, and stay connected; returns after the first attempt."""
        ...

    def hear(self, pcm: bytes) -> None:
        """Take a piece of the caller's audio (8 kHz mono s16le, any length), now or as soon as there is a connection."""
        ...

    def speech_began(self) -> None:
        """Note that the caller speaks."""
        ...

    def speech_ended(self) -> None:
        """Ask for what was said, now or as soon as there is a connection."""
        ...

    def report(self) -> None:
        """Tell how much was heard since the last time; also called at the end of a call."""
        ...


class Voice(Protocol):
    """Speech synthesis: a Pipecat TTS service, connected while parked.

    `on_word` is told each word whose sound came (context, word, seconds since the beginning of its context), `on_void` sound
    of a context that must not be played (context, from, to), `on_used` `tts_characters`. `last_error` says why it could not
    connect, `limited` whether that was a limit of the plan, `trouble` how it does. One that is lost while parked, or could
    not connect, and is not the active one, stays so until it is: then it connects.
    """

    active: bool
    trouble: Trouble
    last_error: str
    limited: bool
    on_word: Callable[[str, str, float], None]
    on_void: Callable[[str, float, float], None]
    on_used: Callable[..., None]

    def warm(self) -> bool:
        """Say whether the voice can speak now."""
        ...

    def become(self, agent: Agent) -> None:
        """Take the voice and language of an agent, at once. To be called before anything was spoken."""
        ...

    def serve(self) -> None:
        """Be in a call from now on: a lost connection is made again, instead of ending this worker."""
        ...


def passes(frame: Frame) -> bool:
    """Say whether a frame passes a service that is not active untouched: all but what begins and ends a pipeline."""
    return not isinstance(frame, StartFrame | EndFrame | CancelFrame)


async def stand_by(service: FrameProcessor, frame: Frame, direction: FrameDirection) -> None:
    """Let a frame pass a service that is not active, without the service looking at it."""
    await FrameProcessor.process_frame(service, frame, direction)
    await FrameProcessor.push_frame(service, frame, direction)


def nothing_used(**_amounts: Any) -> None:
    """Take no note of what was used: nobody has asked yet."""
