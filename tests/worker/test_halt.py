"""The agent halts and proceeds: nothing is lost, what is heard twice is the word that was cut, and marks stay true."""

import asyncio
import base64
import time
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipecat.frames.frames import (
    Frame,
    InterruptionFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)

from tests.fakes import HandClock
from tests.pool_process import eventually
from tests.standins.pipecat_rig import of_kind, piped
from tests.worker.test_transport import FakeStream, attached
from worker.call.captions import Captions
from worker.call.playout import RATE, Playout
from worker.call.transport import AGAIN_S, Output
from worker.call.unplayed import Unplayed

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gone in 3.13, where audioop-lts provides it
    import audioop

CHUNK = 320  # 40 ms


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_sound_is_kept_from_any_place_on() -> None:
    kept = Unplayed()
    kept.add(0, b"abcd")
    kept.add(4, b"efgh")
    assert kept.since(0) == [(0, b"abcd"), (4, b"efgh")]
    assert kept.since(2) == [(2, b"cd"), (4, b"efgh")]
    assert kept.since(8) == []
    kept.forget(5)
    assert kept.since(0) == [(4, b"efgh")]
    kept.clear()
    assert kept.since(0) == []


def test_what_the_carrier_dropped_is_written_again_with_its_marks_in_their_places() -> None:
    clock, playout = HandClock(), Playout()
    playout.sent(4, clock(), b"abcd")
    first = playout.mark("One.")
    playout.placed(first)
    playout.sent(4, clock(), b"efgh")
    second = playout.mark("Two.")
    playout.placed(second)
    clock.advance(2 / RATE)
    playout.halt(clock())
    assert playout.halted
    assert playout.lead(clock()) == 0
    clock.advance(9)
    assert playout.heard_bytes(clock()) == 2
    assert playout.echoed(first) is None, "a mark of what was cleared proves nothing"
    again = playout.proceed(1, clock())
    assert again.names == {first: "0:3", second: "0:4"}
    assert again.items == (b"bcd", "0:3", b"efgh", "0:4")
    assert playout.lead(clock()) == pytest.approx(7 / RATE)
    assert playout.echoed("0:3") == "One."
    assert playout.echoed(second) is None
    assert playout.echoed("0:4") == "Two."


def test_what_comes_while_the_agent_halts_is_written_behind_it() -> None:
    clock, playout = HandClock(), Playout()
    playout.sent(2, clock(), b"ab")
    playout.halt(clock())
    playout.sent(2, clock(), b"cd")
    name = playout.mark("Two.")
    playout.placed(name)
    again = playout.proceed(0, clock())
    assert again.items == (b"ab", b"cd", name)
    assert again.names == {}


def test_a_mark_that_was_named_and_not_written_yet_keeps_its_name() -> None:
    clock, playout = HandClock(), Playout()
    playout.sent(2, clock(), b"ab")
    name = playout.mark("Hello.")
    playout.halt(clock())
    assert playout.proceed(0, clock()).names == {}
    playout.placed(name)
    assert playout.echoed(name) == "Hello."


def test_what_is_cleared_for_good_is_not_written_again() -> None:
    clock, playout = HandClock(), Playout()
    playout.sent(RATE, clock(), b"a" * RATE)
    playout.halt(clock())
    playout.clear(clock())
    assert not playout.halted
    assert playout.proceed(0, clock()).items == ()


class Carrier:
    """A carrier that plays what it is sent, at 8000 bytes a second; each byte says its place."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.playout = Playout()
        self.buffer: list[int | str] = []
        self.heard: list[int] = []
        self.proven: list[str] = []
        self.places: dict[str, int] = {}
        self.written = 0
        self.said = 0

    def step(self, what: str, count: int) -> None:
        """Do one thing."""
        playout, now = self.playout, self.clock()
        match what:
            case "write" if not playout.halted:
                audio = [place % 256 for place in range(self.written, self.written + count)]
                playout.sent(count, now, bytes(audio))
                self.buffer += range(self.written, self.written + count)
                self.written += count
            case "mark":
                self.said += 1
                name = playout.mark(f"{self.said}.")
                playout.placed(name)
                self.places[f"{self.said}."] = self.written
                if not playout.halted:
                    self.buffer.append(name)
            case "play":
                self._play(count)
            case "halt" if playout.lead(now) > 0 and not playout.halted:
                for name in [each for each in self.buffer if isinstance(each, str)]:
                    assert playout.knows(name)
                self.buffer.clear()
                playout.halt(now)
            case "proceed" if playout.halted:
                start = max(0, playout.heard_bytes(now) - count)
                place = start
                for item in playout.proceed(start, now).items:
                    if isinstance(item, str):
                        self.buffer.append(item)
                    else:
                        assert item == bytes(each % 256 for each in range(place, place + len(item)))
                        self.buffer += range(place, place + len(item))
                        place += len(item)
            case _:
                pass

    def _play(self, count: int) -> None:
        self.clock.advance(count / RATE)
        played = 0
        while self.buffer and (isinstance(self.buffer[0], str) or played < count):
            item = self.buffer.pop(0)
            if isinstance(item, str):
                text = self.playout.echoed(item)
                self.proven += text.split() if text else []
            else:
                played += 1
                self.heard.append(item)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["write", "write", "mark", "play", "halt", "proceed"]), st.integers(1, 400)),
        max_size=40,
    )
)
def test_whatever_happens_all_is_heard_in_order_and_marks_prove_what_was_heard(steps: list[tuple[str, int]]) -> None:
    carrier = Carrier()
    for what, count in steps:
        carrier.step(what, count)
        heard = set(carrier.heard)
        assert all(carrier.places[text] == 0 or carrier.places[text] - 1 in heard for text in carrier.proven)
    carrier.step("proceed", 1)
    carrier.step("play", 10**6)
    assert sorted(set(carrier.heard)) == list(range(carrier.written)), "nothing is lost"
    assert carrier.proven == [f"{number}." for number in range(1, carrier.said + 1)], "each sentence is proven once"


# --- words in step with their sound -----------------------------------------------------------------------------------


def test_words_wait_as_long_as_their_sound_is_late() -> None:
    captions: Captions[str] = Captions()
    assert not captions.take("one", 0.0)
    captions.halt(1.0)
    assert captions.take("two", 1.2)
    assert captions.due(5.0) == float("inf")
    captions.proceed(3.0, 0.5)
    assert captions.due(3.0) == pytest.approx(0.7)  # heard 2 s later, behind 0.5 s that is heard again
    assert captions.due(3.7) == 0
    assert captions.next() == "two"
    assert captions.take("three", 4.0), "all that follow are late, too"
    assert captions.due(4.0) == pytest.approx(2.5)
    captions.clear()
    assert not captions.take("four", 5.0)


# --- the end of the pipeline ------------------------------------------------------------------------------------------


def ramp(chunks: int, start: int = 0) -> bytes:
    """Make PCM in which each 40 ms has another level."""
    levels = [(200 * (start + chunk + 1)).to_bytes(2, "little", signed=True) for chunk in range(chunks)]
    return b"".join(level * CHUNK for level in levels)


def answer(chunks: int, context: str = "c1") -> list[Frame]:
    """Make the frames of an answer."""
    audio = TTSAudioRawFrame(audio=ramp(chunks), sample_rate=RATE, num_channels=1, context_id=context)
    return [TTSStartedFrame(context_id=context), audio, TTSStoppedFrame(context_id=context)]


def heard_s(output: Output) -> float:
    """Give how much was heard by the play-out clock."""
    return output.playout.heard_bytes(time.monotonic()) / RATE


class Ledger:
    """What an output told of halting."""

    def __init__(self, output: Output) -> None:
        self.told: list[Any] = []
        output.on_halt = lambda: self.told.append("halt")
        output.on_renamed = lambda names, place: self.told.append((dict(names), place))


def sound(stream: FakeStream, begin: int = 0) -> bytes:
    """Give the sound written from a message on."""
    media = [message["media"]["payload"] for message in stream.sent[begin:] if message["event"] == "media"]
    return b"".join(base64.b64decode(payload) for payload in media)


async def test_an_agent_that_halts_goes_on_with_the_word_that_was_cut_and_loses_nothing() -> None:
    output, stream, diary = attached()
    ledger = Ledger(output)
    for text, start_s in (("Good", 0.0), ("day.", 0.4), ("How", 0.8), ("are", 1.2), ("you?", 1.6)):
        output.word("c1", text, start_s)
    async with piped(output) as rig:
        await rig.send(*answer(50))
        await stream.until("mark")
        await eventually(lambda: heard_s(output) > 0.6)
        whole = len(stream.sent)
        assert output.halt()
        heard = output.playout.heard_bytes(time.monotonic())
        assert not output.halt(), "it is silent already"
        assert [message["event"] for message in stream.sent[whole:]] == ["clear"]
        await asyncio.sleep(0.1)
        assert len(stream.sent) == whole + 1, "nothing is written meanwhile"
        output.proceed()
        assert ledger.told[0] == "halt"
        names, place = ledger.told[1]
        assert place == pytest.approx(0.4 * RATE, abs=1)
        assert list(names) == ["0:1"]
        await rig.until(TTSStoppedFrame)
    first, again = sound(stream)[:heard], sound(stream, whole + 1)
    assert first[place:] == again[: heard - place], "the piece that is heard twice"
    assert first[:place] + again == audioop.lin2ulaw(ramp(50), 2)
    assert [text for text, _ in diary.said] == ["Good day.", "How are you?"]
    marks = [message["mark"]["name"] for message in stream.sent if message["event"] == "mark"]
    assert marks == ["0:1", names["0:1"], diary.said[1][1]]
    assert diary.spoken == 1
    assert diary.left_s == []


def sound_of(pcm: bytes) -> bytes:
    """Write PCM as mu-law."""
    import audioop

    return audioop.lin2ulaw(pcm, 2)


async def test_without_word_times_it_goes_back_a_little() -> None:
    output, stream, _ = attached()
    ledger = Ledger(output)
    async with piped(output) as rig:
        await rig.send(*answer(20))
        await stream.until("media", 20)
        await eventually(lambda: heard_s(output) > 0.5)
        output.halt()
        heard = output.playout.heard_bytes(time.monotonic())
        output.proceed()
        assert ledger.told[1] == ({}, heard - round(AGAIN_S * RATE))
        await rig.until(TTSStoppedFrame)


async def test_an_interruption_while_it_halts_counts_from_when_it_fell_silent() -> None:
    output, stream, _ = attached()
    cuts: list[tuple[str, str]] = []
    output.on_cut = lambda said, heard: cuts.append((said, heard))
    heard_at: list[int] = []
    output.on_interrupted = lambda: heard_at.append(output.playout.heard_bytes(time.monotonic()))
    for text, start_s in (("Never", 0.0), ("ever", 0.5), ("finished.", 1.0)):
        output.word("c1", text, start_s)
    async with piped(output) as rig:
        await rig.send(*answer(60))
        await stream.until("media", 20)
        await eventually(lambda: heard_s(output) > 0.3)
        output.halt()
        halted_at = output.playout.heard_bytes(time.monotonic())
        await asyncio.sleep(0.4)
        await rig.send(InterruptionFrame())
        await rig.send(*answer(2, "c2"))
        await rig.until(TTSStoppedFrame)
    assert cuts == [("Never ever finished.", "Never")]
    assert heard_at == [halted_at]
    assert stream.events == ["media", "clear", "media"], "one clear is enough"
    assert len(sound(stream, [m["event"] for m in stream.sent].index("clear"))) == 2 * CHUNK


async def test_a_silent_agent_and_its_last_word_do_not_halt() -> None:
    output, stream, _ = attached()
    assert not output.halt()
    output.playout.sent(RATE, time.monotonic(), b"a" * RATE)
    output.firm = True
    assert not output.halt()
    assert stream.sent == []
    output.proceed()
    assert stream.sent == []


async def test_words_of_an_answer_wait_while_it_halts_and_are_dropped_by_an_interruption() -> None:
    output, stream, _ = attached()
    async with piped(output) as rig:
        await rig.send(*answer(30)[:2])
        await stream.until("media", 20)
        output.halt()
        word = TTSTextFrame("late", text_type="word")
        word.pts = 1
        await rig.send(word)
        await asyncio.sleep(0.1)
        output.proceed()
        passed = await rig.until(TTSTextFrame)
        assert [each.text for each in of_kind(passed, TTSTextFrame)] == ["late"]
        output.halt()
        lost = TTSTextFrame("lost", text_type="word")
        lost.pts = 2
        await rig.send(lost)
        await asyncio.sleep(0.05)
        await rig.send(InterruptionFrame())
        await rig.send(*answer(2, "c2"))
        assert of_kind(await rig.until(TTSStoppedFrame), TTSTextFrame) == []
