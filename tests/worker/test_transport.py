"""The two ends of the pipeline, each alone in a running one: audio in as PCM, audio out in step with the play-out clock."""

import asyncio
import base64
import json
import time
import warnings
from typing import Any, cast

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    InterruptionFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)

from tests.standins.pipecat_rig import of_kind, piped
from worker.call.playout import RATE
from worker.call.stream import Stream
from worker.call.transport import LEAD_S, Input, Output

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gone in 3.13, where audioop-lts provides it
    import audioop

DEADLINE_S = 20
CHUNK_BYTES = 320  # 40 ms


class FakeStream:
    """A stream that keeps what is written to it."""

    def __init__(self, output: Output) -> None:
        self.writable = asyncio.Event()
        self.writable.set()
        self.open = True
        self.sent: list[dict[str, Any]] = []
        self.leads: list[float] = []  # what the carrier still had to play when a media message was written
        self._output = output
        self._more = asyncio.Event()

    def send(self, *texts: str) -> bool:
        """Keep messages."""
        for text in texts if self.open else ():
            message = json.loads(text)
            self.sent.append(message)
            if message["event"] == "media":
                self.leads.append(self._output.playout.lead(time.monotonic()))
        self._more.set()
        return self.open

    @property
    def events(self) -> list[str]:
        """What was sent, in one word each; media in a row are one."""
        names: list[str] = []
        for message in self.sent:
            if message["event"] != "media" or names[-1:] != ["media"]:
                names.append(message["event"])
        return names

    @property
    def audio(self) -> bytes:
        """All sound that was written."""
        media = [message["media"]["payload"] for message in self.sent if message["event"] == "media"]
        return b"".join(base64.b64decode(payload) for payload in media)

    async def until(self, event: str, count: int = 1) -> None:
        """Wait for so many messages of a kind."""
        async with asyncio.timeout(DEADLINE_S):
            while sum(message["event"] == event for message in self.sent) < count:
                self._more.clear()
                await self._more.wait()


class Diary:
    """What an output told."""

    def __init__(self, output: Output) -> None:
        self.replies: list[float] = []
        self.said: list[tuple[str, str]] = []
        self.spoken = 0
        self.quiet = 0
        self.left_s: list[float] = []  # what was still to be played when an interruption was told
        self._output = output
        output.on_reply = self.replies.append
        output.on_said = lambda text, mark: self.said.append((text, mark))
        output.on_quiet = self._on_quiet
        output.on_spoken = self._on_spoken
        output.on_interrupted = lambda: self.left_s.append(output.playout.lead(time.monotonic()))

    def _on_quiet(self) -> None:
        self.quiet += 1

    def _on_spoken(self) -> None:
        self.spoken += 1


def attached() -> tuple[Output, FakeStream, Diary]:
    """Make an output that writes to a fake stream."""
    output = Output()
    stream = FakeStream(output)
    output.attach(cast("Stream", stream), "MZ01")
    return output, stream, Diary(output)


def tone(chunks: int, value: int = 1000) -> bytes:
    """Make PCM of so many 40 ms."""
    return value.to_bytes(2, "little", signed=True) * (CHUNK_BYTES * chunks)


def turn(context: str, chunks: int, value: int = 1000) -> list[Frame]:
    """Make the frames of one audio context."""
    audio = TTSAudioRawFrame(audio=tone(chunks, value), sample_rate=RATE, num_channels=1, context_id=context)
    return [TTSStartedFrame(context_id=context), audio, TTSStoppedFrame(context_id=context)]


# --- out --------------------------------------------------------------------------------------------------------------


async def test_audio_goes_out_whole_as_mu_law_of_this_stream() -> None:
    output, stream, _ = attached()
    async with piped(output) as rig:
        await rig.send(*turn("c1", 3))
        await rig.until(TTSStoppedFrame)
    assert stream.audio == audioop.lin2ulaw(tone(3), 2)
    assert {message["streamSid"] for message in stream.sent} == {"MZ01"}
    assert output.playout.sent_bytes == 3 * CHUNK_BYTES


async def test_each_sentence_is_marked_behind_its_sound() -> None:
    output, stream, diary = attached()
    for text, start_s in (("Good", 0.0), ("day.", 0.02), ("How", 0.1), ("are", 0.15), ("you?", 0.18)):
        output.word("c1", text, start_s)
    async with piped(output) as rig:
        await rig.send(*turn("c1", 6))
        await rig.until(TTSStoppedFrame)
    assert diary.said == [("Good day.", "0:1"), ("How are you?", "0:2")]
    assert stream.events == ["media", "mark", "media", "mark"]
    first_mark = next(number for number, message in enumerate(stream.sent) if message["event"] == "mark")
    assert first_mark * CHUNK_BYTES / RATE >= 0.1  # the next sentence had begun
    assert [message["mark"]["name"] for message in stream.sent if message["event"] == "mark"] == ["0:1", "0:2"]
    assert output.playout.echoed("0:1") == "Good day."
    assert output.playout.echoed("0:2") == "How are you?"


async def test_the_first_sound_of_each_turn_and_its_end_are_told_once() -> None:
    output, _, diary = attached()
    async with piped(output) as rig:
        before = time.monotonic()
        for context in ("c1", "c2"):
            await rig.send(*turn(context, 3))
            await rig.until(TTSStoppedFrame)
    assert len(diary.replies) == 2
    assert before <= diary.replies[0] <= diary.replies[1] <= time.monotonic()
    assert (diary.quiet, diary.spoken) == (2, 2)


async def test_audio_is_never_written_far_ahead_of_the_clock() -> None:
    output, stream, _ = attached()
    async with piped(output) as rig:
        await rig.send(*turn("c1", 16))
        await rig.until(TTSStoppedFrame)
    assert len(stream.leads) == 16
    assert max(stream.leads) <= LEAD_S
    assert stream.leads[1] > 0  # and not behind it either


async def test_audio_waits_for_what_was_sent_directly() -> None:
    output, stream, _ = attached()
    output.playout.sent(int(0.6 * RATE), time.monotonic())  # a clip
    async with piped(output) as rig:
        await rig.send(*turn("c1", 2))
        await rig.until(TTSStoppedFrame)
    assert max(stream.leads) <= LEAD_S


async def test_audio_waits_while_the_socket_is_full() -> None:
    output, stream, _ = attached()
    stream.writable.clear()
    async with piped(output) as rig:
        await rig.send(*turn("c1", 2))
        await rig.until(TTSStartedFrame)
        assert stream.sent == []
        stream.writable.set()
        await rig.until(TTSStoppedFrame)
    assert len(stream.audio) == 2 * CHUNK_BYTES


async def test_without_a_stream_audio_is_dropped_and_nothing_is_said() -> None:
    output = Output()
    diary = Diary(output)
    async with piped(output) as rig:
        await rig.send(*turn("c1", 2))
        passed = await rig.until(TTSStoppedFrame)
    assert of_kind(passed, TTSAudioRawFrame) == []
    assert diary.replies == []
    assert output.playout.sent_bytes == 0


async def test_audio_for_a_stream_that_has_gone_is_not_counted_as_sent() -> None:
    output, stream, diary = attached()
    stream.open = False
    async with piped(output) as rig:
        await rig.send(*turn("c1", 2))
        await rig.until(TTSStoppedFrame)
    assert output.playout.sent_bytes == 0
    assert diary.replies == []


async def test_an_interruption_clears_what_the_carrier_has_and_no_old_sound_follows() -> None:
    output, stream, diary = attached()
    output.word("c1", "Never", 0.0)
    output.word("c1", "finished.", 1.0)
    async with piped(output) as rig:
        await rig.send(*turn("c1", 100))
        await stream.until("media", 8)  # from here on it waits for the clock
        await rig.send(InterruptionFrame())
        await stream.until("clear")
        await rig.send(*turn("c2", 2, value=-5000))
        await rig.until(TTSStoppedFrame)
    assert stream.events == ["media", "clear", "media"]
    cleared_at = next(number for number, message in enumerate(stream.sent) if message["event"] == "clear")
    stream.sent = stream.sent[cleared_at:]
    assert stream.audio == audioop.lin2ulaw(tone(2, -5000), 2)
    assert diary.said == []


async def test_after_an_interruption_the_next_turn_is_told_as_one() -> None:
    output, stream, diary = attached()
    async with piped(output) as rig:
        await rig.send(*turn("c1", 100))
        await stream.until("media", 8)
        await rig.send(InterruptionFrame())
        await stream.until("clear")
        assert len(diary.replies) == 1
        assert diary.quiet == 1
        await rig.send(*turn("c2", 2))
        await rig.until(TTSStoppedFrame)
    assert len(diary.replies) == 2
    assert diary.quiet == 2
    assert diary.spoken == 1, "what was interrupted was not spoken to its end"


async def test_an_interruption_ends_the_wait_for_a_long_clip() -> None:
    output, stream, diary = attached()
    output.playout.sent(3600 * RATE, time.monotonic())
    async with piped(output) as rig:
        await rig.send(*turn("c1", 2))
        await rig.until(TTSStartedFrame)
        await rig.send(InterruptionFrame())
        await stream.until("clear")
        await rig.send(*turn("c2", 2))
        await rig.until(TTSStoppedFrame)
    assert len(stream.audio) == 2 * CHUNK_BYTES
    assert diary.left_s[0] > 3000  # told before the clock was cleared


async def test_marks_of_what_was_cleared_prove_nothing() -> None:
    output, stream, _ = attached()
    name = output.mark("You will not hear this.")
    async with piped(output) as rig:
        await rig.send(InterruptionFrame())
        await stream.until("clear")
    assert output.playout.echoed(name) is None
    assert output.playout.knows(name)


async def test_speech_that_goes_out_directly_is_announced() -> None:
    output, _, _ = attached()
    async with piped(output) as rig:
        await output.announce_direct_speech(speaking=True)
        await rig.until(BotStartedSpeakingFrame)
        await output.announce_direct_speech(speaking=False)
        await rig.until(BotStoppedSpeakingFrame)


# --- in ---------------------------------------------------------------------------------------------------------------


async def test_conclusions_enter_the_pipeline_in_order_also_those_from_before_it_ran() -> None:
    beginning = Input()
    beginning.conclude(VADUserStartedSpeakingFrame())
    async with piped(beginning) as rig, asyncio.timeout(DEADLINE_S):
        await rig.until(VADUserStartedSpeakingFrame)
        beginning.conclude(VADUserStoppedSpeakingFrame())
        beginning.conclude(VADUserStartedSpeakingFrame())
        frames = await rig.until(VADUserStartedSpeakingFrame)
    assert isinstance(frames[-2], VADUserStoppedSpeakingFrame)
