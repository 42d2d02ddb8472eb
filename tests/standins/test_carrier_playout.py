"""The play-out clock: order of play, marks, clear and the limit, with a clock in the hand."""

from __future__ import annotations

import audioop

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.standins.carrier_playout import RATE_HZ, Gap, PlayoutClock
from tests.standins.modem import encode

SECOND = b"\x10" * RATE_HZ


def test_audio_is_played_in_order_at_8000_bytes_a_second() -> None:
    clock = PlayoutClock()
    clock.push(10.0, b"a" * 4000)
    clock.push(10.1, b"b" * 4000)
    assert clock.heard(10.25, 10.0).audio() == b"a" * 2000
    assert clock.heard(10.75, 10.0).audio() == b"a" * 4000 + b"b" * 2000
    assert clock.buffered_s(10.75) == pytest.approx(0.25)
    assert clock.heard(99.0, 10.0).duration_s == 1.0


def test_a_mark_is_due_when_everything_before_it_was_played() -> None:
    clock = PlayoutClock()
    clock.push(0.0, SECOND)
    clock.mark(0.1, "one")
    clock.push(0.2, SECOND)
    clock.mark(0.2, "two")
    assert clock.due(0.999) == []
    assert clock.next_due() == 1.0
    assert clock.due(1.0) == ["one"]
    assert clock.due(5.0) == ["two"]
    assert clock.next_due() is None


def test_a_mark_with_nothing_buffered_is_due_at_once() -> None:
    clock = PlayoutClock()
    clock.mark(3.0, "now")
    assert clock.due(3.0) == ["now"]


def test_clear_cuts_what_is_playing_and_hands_back_every_mark() -> None:
    clock = PlayoutClock()
    clock.push(0.0, SECOND)
    clock.mark(0.0, "one")
    clock.push(0.0, SECOND)
    clock.mark(0.0, "two")
    assert clock.clear(0.5) == ["one", "two"]
    assert clock.due(10.0) == []
    assert clock.heard(10.0, 0.0).audio() == SECOND[:4000]
    clock.push(0.6, b"n" * 80)
    assert clock.heard(10.0, 0.0).spans[-1].start_s == 0.6


def test_clear_before_anything_was_played_leaves_nothing() -> None:
    clock = PlayoutClock()
    clock.push(1.0, SECOND)
    clock.clear(1.0)
    assert clock.heard(9.0, 1.0).audio() == b""


def test_more_than_ten_minutes_are_discarded() -> None:
    clock = PlayoutClock(limit_s=600)
    assert clock.push(0.0, b"x" * (600 * RATE_HZ)) == 0
    assert clock.push(0.0, SECOND) == RATE_HZ
    assert clock.push(0.5, SECOND) == RATE_HZ // 2


def test_silence_within_an_utterance_is_a_gap_and_between_utterances_is_not() -> None:
    clock = PlayoutClock()
    clock.push(0.0, SECOND)
    clock.push(1.25, SECOND)
    clock.mark(1.3, "end of sentence")
    clock.push(5.0, SECOND)
    assert clock.heard(9.0, 0.0).gaps(0.1) == [Gap(0, 1.0, 0.25)]
    assert clock.heard(9.0, 0.0).gaps(0.5) == []
    assert clock.heard(9.0, 0.0).utterances == 2


def test_with_marks_in_use_a_long_silence_before_the_mark_is_still_a_gap() -> None:
    clock = PlayoutClock(pause_s=1.0)
    clock.mark(0.0, "hello")
    clock.push(0.0, SECOND)
    clock.push(4.0, SECOND)
    assert clock.heard(9.0, 0.0).gaps() == [Gap(0, 1.0, 3.0)]


def test_without_marks_a_long_silence_separates_utterances() -> None:
    clock = PlayoutClock(pause_s=1.0)
    clock.push(0.0, SECOND)
    clock.push(4.0, SECOND)
    assert clock.heard(9.0, 0.0).gaps() == []
    assert clock.heard(9.0, 0.0).utterances == 2


def test_the_line_is_silent_where_nothing_was_played() -> None:
    clock = PlayoutClock()
    clock.push(1.5, b"x" * 80)
    assert clock.heard(9.0, 1.0).audio() == b"\xff" * 4000 + b"x" * 80


def test_words_are_heard_with_their_times_also_across_a_small_underrun() -> None:
    clock = PlayoutClock()
    speech = audioop.lin2ulaw(encode("good morning"), 2)
    clock.push(100.0, speech[:2000])
    clock.push(100.3, speech[2000:])  # 50 ms too late
    heard = clock.heard(200.0, 100.0)
    assert heard.text() == "good morning"
    assert len(heard.gaps()) == 1
    assert heard.words()[1].start_s == pytest.approx(0.05 + (len("good") * 60 + 100) / 1000, abs=0.02)


def test_a_word_cut_off_by_clear_is_not_heard() -> None:
    clock = PlayoutClock()
    clock.push(0.0, audioop.lin2ulaw(encode("one two"), 2))
    clock.clear(0.4)
    assert clock.heard(9.0, 0.0).text() == "one"


def test_words_already_found_are_kept_while_more_is_played() -> None:
    clock = PlayoutClock()
    clock.push(0.0, audioop.lin2ulaw(encode("one"), 2))
    clock.push(5.0, audioop.lin2ulaw(encode("two"), 2))
    assert [clock.heard(now, 0.0).text() for now in (4.0, 5.1, 9.0, 9.0)] == ["one", "one", "one two", "one two"]


class Playing(RuleBasedStateMachine):
    """Any order of pushes, marks, clears and waiting, against the plainest model: a list of bytes still to play."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = PlayoutClock()
        self.samples = 0  # time, in samples: exact
        self.waiting: list[int | str] = []  # lengths and names, in order
        self.played = 0
        self.echoed: list[str] = []
        self.expected: list[str] = []
        self.marks = 0

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.samples / RATE_HZ

    @rule(size=st.integers(1, 4000))
    def push(self, size: int) -> None:
        """Send audio."""
        assert self.clock.push(self.now, b"x" * size) == 0
        self.waiting.append(size)

    @rule()
    def mark(self) -> None:
        """Send a mark with a new name."""
        self.marks += 1
        self.clock.mark(self.now, str(self.marks))
        self.waiting.append(str(self.marks))
        self.settle(0)

    @rule()
    def clear(self) -> None:
        """Send clear."""
        self.echoed += self.clock.clear(self.now)
        self.expected += [item for item in self.waiting if isinstance(item, str)]
        self.waiting.clear()

    @rule(samples=st.integers(0, 6000))
    def wait(self, samples: int) -> None:
        """Let time pass."""
        self.samples += samples
        self.settle(samples)

    def settle(self, samples: int) -> None:
        """Play `samples` in the model, then compare the marks."""
        while self.waiting:
            head = self.waiting[0]
            if isinstance(head, str):
                self.expected.append(head)
                self.waiting.pop(0)
            elif head <= samples:
                samples -= head
                self.played += head
                self.waiting.pop(0)
            else:
                self.waiting[0] = head - samples
                self.played += samples
                break
        # a mark may be due at the very sample that time has reached; float noise must not hide it
        self.echoed += self.clock.due(self.now + 1e-7)

    @invariant()
    def agrees(self) -> None:
        """Marks, audio played and audio left are those of the model."""
        assert self.echoed == self.expected
        assert round(self.clock.heard(self.now + 1e-7, 0.0).duration_s * RATE_HZ) == self.played
        left = sum(item for item in self.waiting if isinstance(item, int))
        assert self.clock.buffered_s(self.now) == pytest.approx(left / RATE_HZ, abs=1e-6)


TestPlaying = Playing.TestCase
TestPlaying.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 2000)), max_size=12))
def test_spans_never_overlap(pushes: list[tuple[float, int]]) -> None:
    clock, now = PlayoutClock(), 0.0
    for wait, size in pushes:
        now += wait
        clock.push(now, b"x" * size)
    for before, after in zip(clock.spans, clock.spans[1:], strict=False):
        assert after.start_s >= before.end_s
