"""Speech that goes straight to the stream, beside the pipeline: greeting and bridging words.

The first piece of a greeting is written before anything else happens, so what begins a clip is synchronous and does nothing
but write; what follows (the rest of a long clip, its mark) is a task.
"""

import asyncio
import itertools
import time
from collections.abc import Mapping

from shared.agents import Agent
from worker.call.consent import Consent
from worker.call.greeting import BURST_S, Recording, burst, heard_part, same_language
from worker.call.memory import Greeting
from worker.call.pipeline import AgentPipeline
from worker.call.player import play
from worker.call.playout import RATE
from worker.call.scribe import Scribe
from worker.call.stream import Stream
from worker.call.tasks import Tasks


class DirectSpeech:
    """The clips of one call. `attach` before anything is played."""

    def __init__(
        self, recordings: Mapping[str, Recording], pipeline: AgentPipeline, scribe: Scribe, consent: Consent
    ) -> None:
        self._consent = consent
        self._recordings = recordings
        self._pipeline = pipeline
        self._scribe = scribe
        self._tasks = Tasks()
        self._stream: Stream | None = None
        self._stream_sid = ""
        self._greeting: Recording | None = None  # the one being heard
        self._words = ""
        self._from = 0  # where on the play-out clock it begins
        self._rest: asyncio.Task[None] | None = None

    def attach(self, stream: Stream, stream_sid: str) -> None:
        """Write to this stream from now on."""
        self._stream, self._stream_sid = stream, stream_sid
        self._consent.attach(stream, stream_sid)

    def play(self, name: str, agent: Agent) -> float:
        """Play a short clip, when there is one in the agent's language; give when it was written (monotonic), 0 if not."""
        recording = self._recordings.get(name)
        return self._burst(recording)[0] if recording is not None and same_language(recording, agent) else 0.0

    def greet(self, greeting: Recording | None, words: str) -> tuple[float, int, str]:
        """Begin the greeting, behind the clip about the recording: when the first message was written, pieces used, mark.

        That is monotonic, and 0 when nothing was written: the voice greets.
        """
        told_at = self._consent.first()
        if greeting is None:
            return told_at, 0, ""
        self._from = self._pipeline.output.playout.sent_bytes
        at, used = self._burst(greeting)
        self._greeting, self._words = greeting, words
        return told_at or at, used, self._pipeline.output.playout.mark(words)

    def greet_on(self, greeting: Recording, begun: Greeting, began_at: float) -> None:
        """Go on with a greeting that a predecessor began at `began_at` (monotonic), or halted in."""
        playout = self._pipeline.output.playout
        sent = len(greeting.clip.audio) if begun.sent else begun.size or BURST_S * RATE
        ends = list(itertools.accumulate(piece.size for piece in greeting.pieces))
        if begun.halted is None:
            used = sum(begin < sent for begin in (0, *ends[:-1]))
        else:
            used = sum(end <= begun.halted for end in ends)
        audio = sum(piece.size for piece in greeting.pieces[:used])
        if begun.halted is not None:
            began_at = time.monotonic() - audio / RATE
        self._from = playout.sent_bytes
        playout.sent(audio, began_at, greeting.clip.audio[:audio])
        if begun.sent and begun.mark:
            playout.placed(begun.mark)
        if not begun.sent or began_at + len(greeting.clip.audio) / RATE > time.monotonic():
            self._greeting, self._words = greeting, begun.words
        if not begun.sent:
            self.follow(greeting, used, begun.mark)

    def follow(self, greeting: Recording, used: int, mark: str) -> None:
        """Send what the burst left over, then the mark."""
        self._rest = self._tasks.go(self._follow(greeting, used, mark))

    def heard(self, mark: str) -> None:
        """Note that a mark came back: whatever was played directly is over, unless it was the clip about the recording."""
        if not self._consent.heard(mark) and self._greeting is not None:
            self._greeting = None
            self._tasks.go(self._pipeline.output.announce_direct_speech(speaking=False))

    @property
    def heard_bytes(self) -> int | None:
        """How much of the greeting was heard by now, while it is being heard."""
        if self._greeting is None:
            return None
        return max(0, self._pipeline.output.playout.heard_bytes(time.monotonic()) - self._from)

    def place_in_greeting(self, place: int) -> int | None:
        """Say where a place on the play-out clock is in the greeting, while that is being heard."""
        return None if self._greeting is None else max(0, place - self._from)

    def interrupted(self) -> str:
        """Stop, because the caller speaks; gives what was heard of the greeting, empty when none was being heard."""
        self._consent.interrupted()
        played = self.heard_bytes
        greeting, self._greeting = self._greeting, None
        if greeting is None or played is None:
            return ""
        if self._rest is not None:
            self._rest.cancel()
        heard = heard_part(self._words, played / len(greeting.clip.audio)) if self._words else ""
        if self._words:
            self._pipeline.replace_spoken(self._words, heard)
        self._tasks.go(self._pipeline.output.announce_direct_speech(speaking=False))
        return heard

    def _burst(self, recording: Recording) -> tuple[float, int]:
        assert self._stream is not None  # noqa: S101 - `attach` came first
        messages, used, audio = burst(recording, self._stream_sid)
        playout = self._pipeline.output.playout
        if playout.halted:  # it is played when the agent proceeds
            at = time.monotonic()
            playout.sent(audio, at, recording.clip.audio[:audio])
            return at, used
        self._stream.send(messages[0])
        at = time.monotonic()
        self._stream.send(*messages[1:])
        begins = playout.sent(audio, at, recording.clip.audio[:audio])
        if playout.tap is not None:
            playout.tap.agent(begins, recording.clip.audio[:audio])
        return at, used

    async def _follow(self, greeting: Recording, used: int, mark: str) -> None:
        output = self._pipeline.output
        size = sum(piece.size for piece in greeting.pieces[:used])

        def written(count: int) -> None:
            nonlocal size
            size += count
            self._scribe.greeting_sent(size)

        await output.announce_direct_speech(speaking=True)
        if self._stream is not None:
            await play(self._stream, self._stream_sid, output, greeting.pieces[used:], written)
        output.send_mark(mark)
        self._scribe.greeted()
